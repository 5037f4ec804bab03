"""Where functions that a model wrote are run: a process of their own for each call or session."""

from toolgym.sandbox.sandbox import Sandbox, SandboxResult
from toolgym.sandbox.session import SandboxSession

__all__ = ["Sandbox", "SandboxResult", "SandboxSession"]

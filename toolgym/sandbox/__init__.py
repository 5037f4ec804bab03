"""Where functions that a model wrote are run: a process of their own for each call."""

from toolgym.sandbox.sandbox import Sandbox, SandboxResult

__all__ = ["Sandbox", "SandboxResult"]

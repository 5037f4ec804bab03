"""Gymnasium environments for language models that use tools.

Importing this package registers the environment ids and nothing heavy: neither torch nor
transformers nor sympy is loaded until something needs it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from toolgym.registry import load_plugins

if TYPE_CHECKING:
    from toolgym.env import ToolEnv as ToolEnv
    from toolgym.evaluation import evaluate as evaluate
    from toolgym.exporting import export as export
    from toolgym.filtering import select as select
    from toolgym.formats import get_format as get_format
    from toolgym.messages import Message as Message
    from toolgym.messages import ToolCall as ToolCall
    from toolgym.messages import ToolResult as ToolResult
    from toolgym.reward import Rubric as Rubric
    from toolgym.rollouts import Run as Run
    from toolgym.rollouts import rollout as rollout
    from toolgym.scoring import score as score
    from toolgym.task import Task as Task
    from toolgym.task import TaskSet as TaskSet
    from toolgym.toolset import Tool as Tool
    from toolgym.toolset import Toolset as Toolset
    from toolgym.toolset import tool as tool
    from toolgym.trajectory import Trajectory as Trajectory

# Public names by the module that holds them; loaded on first use, so that `import toolgym` stays
# quick. No module has the name of a function here (`rollouts` holds `rollout`): importing it would
# hide that.
_EXPORTS = {
    "Message": "messages",
    "Rubric": "reward",
    "Run": "rollouts",
    "Task": "task",
    "TaskSet": "task",
    "Tool": "toolset",
    "ToolCall": "messages",
    "ToolEnv": "env",
    "ToolResult": "messages",
    "Toolset": "toolset",
    "Trajectory": "trajectory",
    "evaluate": "evaluation",
    "export": "exporting",
    "get_format": "formats",
    "rollout": "rollouts",
    "score": "scoring",
    "select": "filtering",
    "tool": "toolset",
}

__all__ = sorted(_EXPORTS)

try:
    __version__ = version("toolgym")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'toolgym' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"toolgym.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


load_plugins()

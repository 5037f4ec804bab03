"""Gymnasium environments for language models that use tools.

Importing this package registers the environment ids and nothing heavy: neither torch nor
transformers nor sympy is loaded until something needs it.
"""

from __future__ import annotations

import importlib
import sys

if [*sys.orig_argv, ""][1].endswith("/toolgym") or sys.orig_argv[1:3] == ["-m", "toolgym.cli"]:
    # A command: Ctrl-C ends it with one line, also while all of this is imported.
    importlib.import_module("toolgym.cli").answer_signals()

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from toolgym.registry import load_plugins

if TYPE_CHECKING:
    from toolgym.auditing.engine import audit as audit
    from toolgym.checks import check_env as check_env
    from toolgym.checks import probe_reward as probe_reward
    from toolgym.data.export import export as export
    from toolgym.data.filter import select as select
    from toolgym.env import ToolEnv as ToolEnv
    from toolgym.episodes import ScriptedUser as ScriptedUser
    from toolgym.episodes import User as User
    from toolgym.episodes import UserTurn as UserTurn
    from toolgym.errors import ToolError as ToolError
    from toolgym.evaluation import compare as compare
    from toolgym.evaluation import evaluate as evaluate
    from toolgym.evaluation.ablation import ablate as ablate
    from toolgym.evaluation.score import score as score
    from toolgym.formats import get_format as get_format
    from toolgym.grading.rubric import Rubric as Rubric
    from toolgym.messages import Message as Message
    from toolgym.messages import ToolCall as ToolCall
    from toolgym.messages import ToolResult as ToolResult
    from toolgym.policies import Policy as Policy
    from toolgym.rollouts.engine import Run as Run
    from toolgym.rollouts.engine import rollout as rollout
    from toolgym.rollouts.merging import merge as merge
    from toolgym.rollouts.plan import plan as plan
    from toolgym.rollouts.samples import sample_run as sample_run
    from toolgym.task import Task as Task
    from toolgym.task import TaskSet as TaskSet
    from toolgym.tasksource import read_tasks as read_tasks
    from toolgym.tools.base import Tool as Tool
    from toolgym.tools.base import tool as tool
    from toolgym.tools.mcp.server import MCP as MCP
    from toolgym.tools.session import ToolSession as ToolSession
    from toolgym.tools.toolset import Toolset as Toolset
    from toolgym.trajectory import Trajectory as Trajectory
    from toolgym.viewer import view_html as view_html

# Public names by the module that holds them; loaded on first use, so that `import toolgym` stays
# quick. Each stands below a room: a module beside this file with the name of a function here would
# hide that function once it is imported.
_EXPORTS = {
    "MCP": "tools.mcp.server",
    "Message": "messages",
    "Policy": "policies",
    "Rubric": "grading.rubric",
    "Run": "rollouts.engine",
    "ScriptedUser": "episodes",
    "Task": "task",
    "TaskSet": "task",
    "Tool": "tools.base",
    "ToolCall": "messages",
    "ToolEnv": "env",
    "ToolError": "errors",
    "ToolResult": "messages",
    "ToolSession": "tools.session",
    "Toolset": "tools.toolset",
    "Trajectory": "trajectory",
    "User": "episodes",
    "UserTurn": "episodes",
    "ablate": "evaluation.ablation",
    "audit": "auditing.engine",
    "check_env": "checks",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "export": "data.export",
    "get_format": "formats",
    "merge": "rollouts.merging",
    "plan": "rollouts.plan",
    "probe_reward": "checks",
    "read_tasks": "tasksource",
    "rollout": "rollouts.engine",
    "sample_run": "rollouts.samples",
    "score": "evaluation.score",
    "select": "data.filter",
    "tool": "tools.base",
    "view_html": "viewer",
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

"""Rewards of the leaderboard: its own checks, and ours of what came of the calls.

Both play the recorded calls again in fresh instances beside the gold plan, so that they need
nothing of a record but its calls, and give in an episode what they give of its file.
"""

from __future__ import annotations

import functools
import json
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.envs.toolbfcl.data import gold_plan, published
from toolgym.envs.toolbfcl.replay import Play, Said, gold_outcome, gold_turns
from toolgym.messages import ToolCall
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

__all__ = ["bfcl", "bfcl_state"]

_CHECKER = "bfcl_eval.eval_checker"
_MAX_CODE = 2_000  # characters of arguments in Java or JavaScript, which are read by patterns

Turns = list[list[tuple[ToolCall, bool]]]
"""Calls of the policy by user turn, and whether each was made: others did not reach the world."""


def bfcl(task: Task, trajectory: Trajectory) -> list[float]:
    """The leaderboard's own verdict.

    Several user turns: after each, the public state equals that of the gold plan, and what the
    gold calls of the turn gave is among what the policy's calls gave so far, text by text. One
    turn: the abstract syntax of the calls is accepted; for ``irrelevance`` there is none, for
    ``relevance`` there is one.

    Args:
        task: of ``ToolBFCL-v0``; of other tasks nothing is paid.
        trajectory: the record so far.

    Returns:
        [steps] 1.0 at the step that ended the last user turn of a right episode, else 0.0.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
    """
    return _at_the_end(task, trajectory, _published, _syntax)


def bfcl_state(task: Task, trajectory: Trajectory) -> list[float]:
    """Whether the policy brought about what the gold plan brings about, in whatever way.

    In the end all is as after the gold plan, but for the order of what has none, and numbers that
    were drawn or counted up. What the gold plan changes, and later changes again or undoes, was so
    in between. What it reads in a user turn has been read by the end of that turn: each string and
    number, by whatever call. One turn: as `bfcl`, but a call that could not be read is none that
    was left out.

    Args:
        task: of ``ToolBFCL-v0``; of other tasks nothing is paid.
        trajectory: the record so far.

    Returns:
        [steps] 1.0 at the step that ended the last user turn of a right episode, else 0.0.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
    """
    return _at_the_end(task, trajectory, _brought_about, _said_so)


def _at_the_end(
    task: Task,
    trajectory: Trajectory,
    dialogue: Callable[[Task, Turns], bool],
    single: Callable[[Task, Step], bool],
) -> list[float]:
    values = [0.0] * len(trajectory.steps)
    if "classes" in task.metadata:
        ends = [n for n, step in enumerate(trajectory.steps) if step.answer is not None]
        last = len(task.metadata.get("turns", ()))
        if len(ends) > last:
            values[ends[last]] = float(dialogue(task, _turns(trajectory.steps[: ends[last] + 1])))
    elif values and {"category", "functions"} <= task.metadata.keys():
        values[0] = float(single(task, trajectory.steps[0]))
    return values


def _turns(steps: Sequence[Step]) -> Turns:
    turns: Turns = []
    begun = True
    for step in steps:
        if begun:
            turns.append([])
        turns[-1] += [
            (call, result.error in (None, "tool_error"))
            for call, result in zip(step.calls, step.results, strict=True)
        ]
        begun = step.answer is not None
    return turns


def _published(task: Task, turns: Turns) -> bool:
    """The published check, `multi_turn_checker`, without its way of making calls."""
    checker = require_extra(f"{_CHECKER}.multi_turn_eval.multi_turn_checker", "bfcl")
    play, results = Play(task), []
    for place, (calls, gold) in enumerate(zip(turns, gold_turns(task), strict=True)):
        results += [text for _, text, _ in play.turn(calls)]
        if not gold.results:
            continue  # what is done in a turn that needs nothing shows in the next one
        if not calls or not checker.state_checker(play.world.live, gold.live)["valid"]:
            return False
        if not checker.response_checker(results, gold.results, place)["valid"]:
            return False
    return True


def _brought_about(task: Task, turns: Turns) -> bool:
    gold, play = gold_outcome(task), Play(task, compared=True)
    passing = list(gold.passing)
    seen: list[tuple[str, str]] = []
    for calls, reads in zip(turns, gold.reads, strict=True):
        for name, text, failed in play.turn(calls):
            seen += [] if failed else [(name, text)]
            if passing:
                state = play.canonical()
                passing = [(n, a, value) for n, a, value in passing if state[n][a] != value]
        said, names = Said([text for _, text in seen]), {name for name, _ in seen}
        if not all(all(map(said.holds, told)) if told else name in names for name, told in reads):
            return False
    return not passing and play.canonical() == gold.state


# Of one turn.


def _said_so(task: Task, step: Step) -> bool:
    """As published, but that a call which could not be read is not the insight to call nothing."""
    unread = "irrelevance" in task.metadata["category"] and step.answer is None
    return not unread and _syntax(task, step)


def _syntax(task: Task, step: Step) -> bool:
    """The published check, `ast_checker`, and those of relevance."""
    category, calls = task.metadata["category"], step.calls
    if "relevance" in category:
        return bool(calls) != ("irrelevance" in category)
    enums = require_extra("bfcl_eval.constants.enums", "bfcl")
    language = enums.Language.PYTHON
    if "java" in category:
        script = "javascript" in category
        language = enums.Language.JAVASCRIPT if script else enums.Language.JAVA
        if len(json.dumps([call.arguments for call in calls])) > _MAX_CODE:
            return False
    said = [{call.name: call.arguments} for call in calls]
    functions, gold = task.metadata["functions"], gold_plan(task)
    try:
        found = _ast_checker()(functions, said, gold, language, category, _MODEL)
    # The published check stumbles over some wrong arguments, such as a string for an object.
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError):
        return False
    return bool(found["valid"])


_MODEL = "toolgym"


@functools.cache
def _ast_checker() -> Callable[..., Mapping[str, Any]]:
    """The published check of syntax.

    It reads of a table of all models only whether a model's function names may hold dots, and the
    module of that table imports the client of each: a table of one entry stands in for it.

    Raises:
        MissingExtraError: ``bfcl-eval`` is not installed.
    """
    file = published().parent / "eval_checker" / "ast_eval" / "ast_checker.py"
    loader = SourceFileLoader("_bfcl_ast_checker", str(file))
    module = types.ModuleType(loader.name)
    name = "bfcl_eval.constants.model_config"
    table, held = types.ModuleType(name), sys.modules.get(name)
    dotted = types.SimpleNamespace(underscore_to_dot=False)
    table.__dict__["MODEL_CONFIG_MAPPING"] = {_MODEL: dotted}
    sys.modules[name] = table
    try:
        loader.exec_module(module)
    finally:
        del sys.modules[name]
        if held is not None:
            sys.modules[name] = held
    found: Callable[..., Mapping[str, Any]] = module.ast_checker
    return found

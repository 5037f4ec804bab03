"""What is given to the public names, if it is of another kind: one line that says what to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgym
from toolgym import Rubric, Task, TaskSet, Tool, ToolEnv, Toolset, get_format, tool
from toolgym._util.kinds import require, require_each
from toolgym.episodes.users import ScriptedUser
from toolgym.errors import BadInputError, ToolgymError
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.tools.toolset import make_toolset
from toolgym.training.sft import prepare

TASK = Task("one", "Which city?", ("Paris",))
TASKS = TaskSet([TASK], source="mine")
RUBRIC = Rubric({"accuracy": 1.0})
URL = "http://127.0.0.1:9/v1"


def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def environment(**parts: Any) -> ToolEnv:
    whole = {"tasks": TASKS, "toolset": Toolset(), "format": get_format(), "rubric": RUBRIC}
    return ToolEnv(**(whole | parts))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "answers in one string": (lambda: Task("a", "b", "Paris"), r"\['Paris'\], not 'Paris'"),
    "answers that are numbers": (lambda: Task("a", "b", (3,)), "list of strings.*not 3"),
    "a question of nothing": (lambda: Task("a", None, ()), "question of task 'a' is a string"),
    "an id that is a number": (lambda: Task(7, "b", ()), "id of a task is a string, not 7"),
    "metadata in a list": (lambda: Task("a", "b", (), metadata=[1]), "by name, not"),
    "tasks by name": (lambda: TaskSet("sample", source="x"), "read_tasks.*not 'sample'"),
    "tasks in rows": (lambda: TaskSet([{"question": "q"}], source="x"), "Task objects"),
    "tools by name": (lambda: Toolset(["Calculator"]), "make_toolset.*not 'Calculator'"),
    "a plain function": (lambda: Toolset([double]), "what @tool makes.*not <function"),
    "one tool": (lambda: Toolset(tool(double)), "a list of them"),
    "no tools": (lambda: Toolset(None), "a list of them, not None"),
    "a list of numbers": (lambda: make_toolset([3]), "tools are a list of names.*not 3"),
    "one name": (lambda: make_toolset("Calculator"), "not 'Calculator'"),
    "a reward's name": (lambda: Rubric("accuracy"), "'accuracy': 1.0.*not 'accuracy'"),
    "an environment of a list": (lambda: environment(tasks=[TASK]), "are a TaskSet"),
    "a list of tools": (lambda: environment(toolset=[]), "are a Toolset.*not \\[\\]"),
    "a format's name": (lambda: environment(format="hermes"), "get_format.*not 'hermes'"),
    "weights": (lambda: environment(rubric={"accuracy": 1.0}), "is a Rubric"),
    "no steps": (lambda: environment(max_steps=0), "max_steps is a whole number of at least 1"),
    "a number to check": (lambda: toolgym.check_env(3), "3 is not a ToolEnv"),
    "a number to read": (lambda: toolgym.read_tasks(3), "a task file is a path, not 3"),
    "one turn": (lambda: ScriptedUser("And then?"), "not 'And then\\?'"),
    "a tool of a number": (lambda: Tool.from_schema("a", {"type": "object"}, 3), "of 3"),
    "a name of a number": (lambda: tool(name=3)(double), "is a string, not 3"),
    "a description of a number": (lambda: tool(description=3)(double), "not 3"),
    "no time": (lambda: tool(timeout=0)(double), "seconds above 0, not 0"),
    "time in words": (lambda: tool(timeout="long")(double), "not 'long'"),
    "no address": (lambda: EndpointPolicy(None), "base_url is an address.*not None"),
    "a model of a number": (lambda: EndpointPolicy(URL, model=3), "by a string, not 3"),
    "warmth": (lambda: EndpointPolicy(URL, model="m", temperature="warm"), "temperature is"),
    "a number of a condition": (lambda: toolgym.select("sample:lookup", where=3), "not 3"),
    "rewards in a number": (lambda: toolgym.ablate("sample:lookup", 3), "rewards are"),
    "shards in a number": (lambda: toolgym.merge(3, "out"), "shards are a list of runs"),
    "a page of a number": (lambda: toolgym.view_html("sample:lookup", 3), "out is the path"),
    "a run's path": (lambda: toolgym.Run("runs/mine"), "Run.open opens a folder"),
    "rows in a number": (lambda: prepare(3, None, max_length=None), "are needed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_kind_is_refused_in_one_line(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolgym.training.sft.require_end", lambda _: set())
    monkeypatch.setattr("toolgym.training.sft.Canonical", lambda _: None)
    call, message = WRONG[what]
    with pytest.raises(ToolgymError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_answers_in_a_list_are_those_in_a_tuple() -> None:
    assert Task("one", "Which city?", ["Paris"]) == TASK
    assert hash(Task("a", "b", ["c"]).answers) == hash(("c",))


def test_bounds_of_numpy_are_plain_numbers() -> None:
    env = environment(max_steps=np.int64(3))
    assert type(env.max_steps) is int
    for wrong in (np.bool_(True), True, 2.0):
        with pytest.raises(BadInputError, match="max_steps is a whole number"):
            environment(max_steps=wrong)


ANY = st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.lists(st.integers()))


@given(ANY, st.sampled_from([int, str, (str, bytes), list]))
def test_what_is_of_the_kind_passes_and_nothing_else_does(value: Any, kinds: Any) -> None:
    if isinstance(value, kinds):
        require(value, kinds, "such")
    else:
        with pytest.raises(BadInputError, match=r"^such, not "):
            require(value, kinds, "such")


@given(st.one_of(ANY, st.dictionaries(st.text(), st.integers()), st.sets(st.integers())))
def test_a_series_is_given_back_whole_or_refused(values: Any) -> None:
    series = isinstance(values, list | set)
    if series:
        assert require_each(values, int, "such") == tuple(values)
        assert require_each(iter(values), int, "such") == tuple(values)
    if not series or values:
        with pytest.raises(BadInputError, match=r"^such, not "):
            require_each(values, str, "such")

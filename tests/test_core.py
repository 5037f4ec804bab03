"""Messages, tasks, trajectories, registries, errors: what is stored comes back as it was."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import Message, Task, TaskSet, ToolCall, ToolResult, Trajectory
from toolgym import errors as toolgym_errors
from toolgym._util.jsonl import dump_line, read_rows, write_rows
from toolgym._util.optional import require_extra
from toolgym.errors import (
    BadInputError,
    EndpointError,
    MissingExtraError,
    MissingFileError,
    ToolgymError,
    UnknownNameError,
)
from toolgym.messages import to_chats
from toolgym.registry import ENVIRONMENTS, Registry, Resource
from toolgym.task import task_from_row
from toolgym.tasksource import read_tasks
from toolgym.trajectory import Problem, Step, Tokens, read_trajectories

# Any text at all, lone surrogates and NUL included: models write them.
ANY_TEXT = st.text(st.characters(), max_size=20)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    task = Task(
        id=draw(st.text("abc#1", min_size=1, max_size=5)),
        question=draw(ANY_TEXT.filter(lambda text: text.strip())),
        answers=tuple(draw(st.lists(ANY_TEXT, min_size=1, max_size=3))),
        metadata={"s_pop": draw(st.integers()), "more": draw(JSON_VALUES)},
        split=draw(st.sampled_from(["", "train"])),
        answer_type=draw(st.sampled_from(["text", "number"])),
    )
    steps = []
    for number in range(draw(st.integers(1, 3))):
        arguments = draw(st.dictionaries(ANY_TEXT, JSON_VALUES, max_size=2))
        made = draw(st.booleans())
        call = ToolCall(f"call_{number}", draw(ANY_TEXT), arguments)
        result = ToolResult(call.id, draw(ANY_TEXT), draw(st.sampled_from([None, "bug"])), None)
        steps.append(
            Step(
                action=draw(ANY_TEXT),
                calls=(call,) if made else (),
                results=(result,) if made else (),
                problems=(Problem("no_call", draw(ANY_TEXT)),) if draw(st.booleans()) else (),
                answer=draw(st.none() | ANY_TEXT),
                observation=draw(ANY_TEXT),
                reward=draw(st.floats(-1, 1)),
                reward_parts={"accuracy": draw(st.floats(0, 1))},
                seconds=0.25,
            )
        )
    ids = draw(st.lists(st.integers(0, 9), max_size=4))
    tokens = Tokens([1], ids, [1] * len(ids), draw(st.none() | st.just([-0.5] * len(ids))), "hash")
    return Trajectory(
        task=task,
        messages=[Message("user", draw(ANY_TEXT)), Message("assistant", draw(ANY_TEXT))],
        steps=steps,
        env_id="ToolQA-PopQA-v0",
        format="react",
        terminated=draw(st.booleans()),
        seed=draw(st.none() | st.integers(0, 2**31)),
        sample=draw(st.integers(0, 9)),
        tokens=draw(st.none() | st.just(tokens)),
        metrics=draw(st.dictionaries(st.text("ab"), st.floats(0, 1), max_size=2)),
    )


class TestTrajectories:
    @given(trajectory=trajectories())
    @settings(max_examples=150, deadline=None)
    def test_survive_the_file(
        self, trajectory: Trajectory, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("t") / "trajectories.jsonl"
        write_rows(path, [trajectory.to_row()])
        (again,) = read_trajectories(path)
        assert again == trajectory == trajectory.copy()

    def test_another_schema_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"schema": 99}\n')
        with pytest.raises(BadInputError, match=r"line 1: trajectory schema 99 is not 1, 2 or 3"):
            list(read_trajectories(path))

    def test_a_row_that_is_no_trajectory(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_text('{"schema": 2, "id": "x"}\n')
        with pytest.raises(BadInputError, match="line 1: not a trajectory row"):
            list(read_trajectories(path))


class TestMessages:
    def test_chat_dicts_come_back(self) -> None:
        messages = [
            Message("system", "s"),
            Message("assistant", "", (ToolCall("c1", "Calculator", {"expression": "1"}),)),
            Message("tool", "1", tool_call_id="c1", name="Calculator"),
        ]
        chats = to_chats(messages)
        assert [Message.from_chat(chat) for chat in chats] == messages
        assert "tool_calls" not in chats[0]

    @pytest.mark.parametrize(
        "chat",
        [
            {"role": "robot", "content": "x"},
            {"role": "user", "content": 3},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": 1}}]},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "a", "arguments": "b"}]},
        ],
    )
    def test_what_cannot_be_read(self, chat: dict[str, object]) -> None:
        with pytest.raises(BadInputError):
            Message.from_chat(chat)


class TestTasks:
    def test_rows_of_our_schema(self) -> None:
        task = task_from_row({"question": "Q?", "answer": 42, "s_pop": 7}, "line-3")
        assert (task.id, task.target, task.targets) == ("line-3", "42", ("42",))
        assert task.metadata == {"s_pop": 7}
        assert task_from_row(task.to_row(), "") == task

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ('{"question": "", "answers": ["a"]}', "column 'question' must be a string"),
            ('{"question": "Q", "answers": []}', "column 'answers' must be a list"),
            ('{"question": "Q"}', "column 'answers'"),
            ('{"question": "Q", "answers": ["a"], "answer_type": "x"}', "answer_type"),
            ("[1]", "a JSON object is needed"),
            ("{broken", "not valid JSON"),
            ("[" * 100_000, "not valid JSON"),
        ],
    )
    def test_a_broken_line_is_named(self, tmp_path: Path, line: str, why: str) -> None:
        path = tmp_path / "tasks.jsonl"
        path.write_text('{"question": "Q", "answers": ["a"]}\n\n' + line + "\n")
        with pytest.raises(BadInputError, match="line 3") as caught:
            read_tasks(path)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.jsonl"
        path.write_bytes(b'{"question": "\xff"}\n')
        with pytest.raises(BadInputError, match="line 1"):
            read_tasks(path)

    def test_a_byte_order_mark_is_no_error(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.jsonl"
        path.write_text('{"question": "Q", "answers": ["a"]}', encoding="utf-8-sig")
        assert read_tasks(path)[0].question == "Q"

    def test_empty_missing_and_double(self, tmp_path: Path) -> None:
        path = tmp_path / "tasks.jsonl"
        path.write_text("\n")
        with pytest.raises(BadInputError, match="no tasks in"):
            read_tasks(path)
        with pytest.raises(MissingFileError, match=r"did you mean 'tasks\.jsonl'"):
            read_tasks(tmp_path / "task.jsonl")
        with pytest.raises(MissingFileError, match="is a folder"):
            read_tasks(tmp_path)
        row = '{"id": "a", "question": "Q", "answers": ["a"]}\n'
        path.write_text(row + row)
        with pytest.raises(BadInputError, match="'a' stands twice"):
            read_tasks(path)

    def test_sets(self) -> None:
        tasks = TaskSet(
            [Task(str(n), "Q", ("a",), split="train" if n else "test") for n in range(5)],
            source="here",
        )
        assert len(tasks.split("train")) == 4
        assert tasks.index_of("3") == 3
        assert [t.id for t in tasks.shuffled(1)] == [t.id for t in tasks.shuffled(1)]
        assert tasks.fingerprint() != tasks.shuffled(1).fingerprint()
        with pytest.raises(BadInputError, match="splits there: test, train"):
            tasks.split("dev")
        with pytest.raises(BadInputError, match="no task '9'"):
            tasks.index_of("9")


class TestLines:
    @given(rows=st.lists(st.dictionaries(ANY_TEXT, JSON_VALUES, max_size=3), max_size=4))
    @settings(max_examples=80, deadline=None)
    def test_any_row_survives(
        self, rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
        assert write_rows(path, rows) == len(rows)
        assert [row for _, row in read_rows(path)] == rows

    def test_arabic_stays_readable_and_nan_is_refused(self) -> None:
        assert "عرب" in dump_line({"text": "عرب"})
        with pytest.raises(ValueError, match="'x' is nan"):
            dump_line({"x": float("nan")})

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        write_rows(path, [{"a": 1}])
        with pytest.raises(ValueError, match="JSON"):
            write_rows(path, [{"a": 2}, {"a": float("inf")}])
        assert [row for _, row in read_rows(path)] == [{"a": 1}]


class TestRegistries:
    def test_nothing_is_imported_before_use(self) -> None:
        registry = Registry("thing")
        registry.add("json", "json:dumps")
        registry.add("broken", "no.such.module:x")
        assert registry.get("json") is json.dumps
        assert list(registry) == ["broken", "json"]
        with pytest.raises(ModuleNotFoundError):
            registry.get("broken")
        with pytest.raises(BadInputError, match="registered already"):
            registry.add("json", "json:loads")
        registry.add("json", "json:loads", about="reads", replace=True)
        assert (registry.about("json"), registry.about("broken")) == ("reads", "")
        assert registry.names() == ["json", "broken"]
        assert registry.get("json") is json.loads

    def test_missing_package_data(self) -> None:
        with pytest.raises(MissingFileError, match="reinstall"):
            Resource("toolgym.envs", "no.jsonl").path()

    def test_a_broken_plugin_is_named_and_survived(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from importlib.metadata import EntryPoint

        from toolgym import registry

        bad = EntryPoint("bad", "no_such_package:register", registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [bad])
        with pytest.warns(RuntimeWarning, match="plug-in 'bad'"):
            registry.load_plugins()


class TestErrors:
    def test_every_class_is_a_builtin_too_and_has_an_exit_code(self) -> None:
        classes = [getattr(toolgym_errors, name) for name in toolgym_errors.__all__]
        tree = [c for c in classes if isinstance(c, type) and c is not ToolgymError]
        assert all(issubclass(c, ToolgymError) and c.exit_code in (1, 2, 3, 4, 5) for c in tree)
        builtins = (LookupError, ValueError, OSError, ImportError, RuntimeError, AssertionError)
        own = {"ToolError"}
        assert all(issubclass(c, builtins) for c in tree if c.__name__ not in own)

    def test_they_cross_process_borders(self) -> None:
        for error in (
            UnknownNameError("tool", "x", ["y"]),
            EndpointError("timeout", "late"),
            BadInputError("bad"),
        ):
            again = pickle.loads(pickle.dumps(error))
            assert type(again) is type(error)
            assert str(again) == str(error)

    def test_a_missing_extra_names_its_install_command(self) -> None:
        with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[train\]'"):
            require_extra("no_such_library", "train")
        assert require_extra("json", "train") is json


def test_an_id_that_is_taken_is_refused() -> None:
    make = "toolgym.envs.toolqa.families:make_popqa"
    ENVIRONMENTS.add("ToolQA-PopQA-v0", make, about=ENVIRONMENTS.about("ToolQA-PopQA-v0"))
    for name in ("ToolQA-PopQA-v0", "CartPole-v1"):
        with pytest.raises(BadInputError, match=f"'{name}' already"):
            ENVIRONMENTS.add(name, "other:make")
    assert "CartPole-v1" not in ENVIRONMENTS


def test_an_episode_without_a_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(Trajectory(Task("t", "Why?", ("so",))).to_line())
    with pytest.raises(BadInputError, match=r"line 1: episode 't#0' has no step"):
        list(read_trajectories(path))

"""Tools: schemas, validation, deadlines that end the work, failures as texts."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import enum
import functools
import gc
import json
import os
import subprocess
import sys
import threading
import time
import typing
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import cloudpickle
import numpy as np
import pytest
from processes import alive
from pydantic import BaseModel

from toolgym import ToolCall, Toolset, tool
from toolgym._workers.tool_child import MAX_CHARS
from toolgym.errors import BadInputError, NothingFoundError, ToolError, UnknownNameError
from toolgym.formats import Action, get_format
from toolgym.registry import TOOLS
from toolgym.tools.base import Tool
from toolgym.tools.toolset import make_toolset


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 2


@dataclass
class Place:
    name: str
    colours: set[Colour] = field(default_factory=set)


class Model(BaseModel):
    place: Place
    at: int


@tool
def distance(city_a: str, city_b: str, unit: Literal["km", "mi"] = "km") -> float:
    """Distance between two cities.

    Args:
        city_a: where from.
        city_b: where to,
            in any country.
        unit: of the result.
    """
    if city_a == city_b:
        raise ToolError("the cities are the same")
    return len(city_a) * 100.5


@tool(inline=True)
def add(a: int, b: float = 0.0) -> float:
    """Add two numbers.

    Args:
        a: first.
        b: second.
    """
    return a + b


def run(made: Tool, **arguments: Any) -> tuple[str, str | None]:
    (result,) = Toolset([made]).execute([ToolCall("c", made.name, arguments)])
    assert result.call_id == "c"
    return result.content, result.error


class TestSchema:
    def test_from_hints_and_docstring(self) -> None:
        function = distance.schema()["function"]
        assert function["name"] == "distance"
        assert function["description"] == "Distance between two cities."
        properties = function["parameters"]["properties"]
        assert properties["city_b"] == {
            "type": "string",
            "description": "where to, in any country.",
        }
        assert properties["unit"]["enum"] == ["km", "mi"]
        assert function["parameters"]["required"] == ["city_a", "city_b"]

    def test_a_changed_copy_changes_nothing(self) -> None:
        distance.schema()["function"]["parameters"]["properties"].clear()
        assert "city_a" in distance.schema()["function"]["parameters"]["properties"]

    def test_a_parameter_called_title_keeps_its_name(self) -> None:
        @tool(inline=True)
        def book(title: str) -> str:
            """Find a book."""
            return title

        assert list(book.schema()["function"]["parameters"]["properties"]) == ["title"]

    def test_what_a_policy_could_not_use_is_refused(self) -> None:
        def untyped(x):  # type: ignore[no-untyped-def]
            """Do."""

        def undocumented(x: int) -> int:
            return x

        def star(*x: int) -> int:
            """Do."""
            return 1

        for bad, why in ((untyped, "type hint"), (undocumented, "docstring"), (star, "name its")):
            with pytest.raises(BadInputError, match=why):
                tool(bad)


class TestArguments:
    def test_numbers_in_text_are_read(self) -> None:
        assert run(add, a="2", b="0.5") == ("2.5", None)

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({}, "'a' is missing"),
            ({"a": 1, "c": 2}, "'c' is not a parameter"),
            ({"a": "x"}, "got 'x'"),
            ({"a": 1, "b": float("nan")}, "finite"),
            ({"a": 1, "b": "1e999"}, "finite"),
            ({"a": 1.5}, "'a'"),
        ],
    )
    def test_wrong_ones_are_told(self, arguments: dict[str, Any], text: str) -> None:
        content, error = run(add, **arguments)
        assert error == "invalid_arguments"
        assert text in content
        assert "\n" not in content


class TestExecution:
    def test_errors_for_the_model_and_bugs_differ(self) -> None:
        assert run(distance, city_a="x", city_b="x") == (
            "Error: the cities are the same",
            "tool_error",
        )

        @tool
        def broken(x: int) -> int:
            """Fail."""
            return 1 // x

        (result,) = Toolset([broken]).execute([ToolCall("c", "broken", {"x": 0})])
        assert result.error == "bug"
        assert "ZeroDivisionError" in result.content
        assert "in broken" in (result.detail or "")

    def test_a_deadline_ends_the_work(self, tmp_path: Any) -> None:
        mark = tmp_path / "alive"

        @tool(timeout=0.5)
        def hang(path: str) -> str:
            """Never end."""
            with open(path, "w") as stream:
                stream.write(str(os.getpid()))
            while True:
                pass

        content, error = run(hang, path=str(mark))
        assert error == "timeout"
        assert "0.5 seconds" in content
        child = int(mark.read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)

    def test_a_tool_that_ends_its_process_is_replaced(self) -> None:
        @tool
        def leave(code: int) -> str:
            """Exit."""
            if code:
                os._exit(code)
            return "here"

        assert run(leave, code=3) == ("Error: leave ended its process (exit code 3).", "bug")
        assert run(leave, code=0) == ("here", None)

    def test_printing_reaches_nobody(self, capfd: pytest.CaptureFixture[str]) -> None:
        @tool
        def noisy(x: int) -> int:
            """Print."""
            print("noise")
            return x

        assert run(noisy, x=1) == ("1", None)
        assert capfd.readouterr().out == ""

    def test_what_cannot_travel_says_how_to_go_on(self) -> None:
        lock = threading.Lock()

        @tool
        def closure(x: int) -> str:
            """Wait."""
            with lock:
                return str(x)

        with pytest.raises(BadInputError, match="inline=True"):
            run(closure, x=1)

    def test_order_is_kept_across_tools_and_batches(self) -> None:
        seen: list[int] = []

        def many(arguments: list[dict[str, Any]]) -> list[Any]:
            seen.append(len(arguments))
            return [ToolError("odd") if a["x"] % 2 else a["x"] * 10 for a in arguments]

        def ten(x: int) -> int:
            """Ten times."""
            return x * 10

        tools = Toolset([add, Tool(ten, inline=True, batch=many)])
        made = [
            ToolCall(str(n), name, arguments)
            for n, (name, arguments) in enumerate(
                [
                    ("ten", {"x": 2}),
                    ("add", {"a": 1}),
                    ("ten", {"x": "z"}),
                    ("ten", {"x": 3}),
                    ("no", {}),
                ]
            )
        ]
        results = tools.execute(made)
        assert [r.call_id for r in results] == ["0", "1", "2", "3", "4"]
        assert [r.error for r in results] == [
            None,
            None,
            "invalid_arguments",
            "tool_error",
            "unknown_tool",
        ]
        assert [results[0].content, results[1].content, results[3].content] == [
            "20",
            "1.0",
            "Error: odd",
        ]
        assert seen == [2]

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            *[({"a": [1]}, '{"a": [1]}'), (None, ""), (True, "true"), (1.5, "1.5"), ("é", "é")],
            (Place("Rome", {Colour.RED}), '{"name": "Rome", "colours": ["red"]}'),
            ([Model(place=Place("A"), at=3)], '[{"place": {"name": "A", "colours": []}, "at": 3}]'),
            (Colour.RED, "red"),
            (Level.HIGH, "2"),
            ([Level.HIGH, Colour.RED], '[2, "red"]'),
            ({"b", "a", "c"}, '["a", "b", "c"]'),
            (frozenset({3, 20, 1}), "[1, 20, 3]"),
            ({"all": {("a", 1)}}, '{"all": [["a", 1]]}'),
            ({Colour.RED: b"x", (1, 2): None}, '{"red": "x", "[1, 2]": null}'),
            (deque([1, 2]), "[1, 2]"),
            (range(3), "[0, 1, 2]"),
            ({"a": 1}.values(), "[1]"),
            ((n for n in "ab"), '["a", "b"]'),
            (np.array([[1, 2]]), "[[1, 2]]"),
            (np.float32(0.5), "0.5"),
            ({"day": date(2024, 2, 29)}, '{"day": "2024-02-29"}'),
        ],
    )
    def test_results_are_text(self, value: Any, text: str) -> None:
        @tool(inline=True)
        def give() -> Any:
            """Give."""
            return value

        assert run(give) == (text, None)

    @pytest.mark.parametrize("inline", [True, False])
    def test_a_large_result_is_cut_where_it_arose(self, inline: bool) -> None:
        def give(size: int, fail: bool) -> str:
            """Give."""
            if fail:
                raise ToolError("x" * size)
            return "x" * size

        made = Tool(give, inline=inline)
        content, error = run(made, size=30_000_000, fail=False)
        assert error is None
        assert content == "x" * MAX_CHARS + " [cut: 30,000,000 characters]"
        content, error = run(made, size=30_000_000, fail=True)
        assert error == "tool_error"
        assert content.endswith("[cut: 30,000,007 characters]")

    @pytest.mark.parametrize("inline", [True, False])
    @pytest.mark.parametrize("kind", ["exit", "group", "cancelled", "unprintable"])
    def test_whatever_a_tool_raises_ends_the_call_alone(self, kind: str, inline: bool) -> None:
        def leave(kind: str) -> str:
            """Leave."""
            import asyncio

            class BrokenError(Exception):
                def __str__(self) -> str:
                    raise ValueError

            raise {
                "exit": SystemExit(2),
                "group": BaseExceptionGroup("g", [SystemExit(1)]),
                "cancelled": asyncio.CancelledError(),
                "unprintable": BrokenError(),
            }[kind]

        content, error = run(Tool(leave, inline=inline), kind=kind)
        assert error == "bug"
        assert content.startswith("Error: ")

    def test_a_failing_batch_is_a_bug_of_each_call(self) -> None:
        def leave(arguments: list[dict[str, Any]]) -> list[Any]:
            raise SystemExit(2)

        def ten(x: int) -> int:
            """Ten times."""
            return x * 10

        made = Tool(ten, inline=True, batch=leave)
        results = made.run_many([ToolCall("a", "ten", {"x": 1}), ToolCall("b", "ten", {"x": 2})])
        assert [result.error for result in results] == ["bug", "bug"]


@tool(timeout=5.0)
def stray(data: str, then: str) -> str:
    """Write into every open pipe.

    Args:
        data: what to write, with escapes.
        then: what to do next.
    """
    found = []
    for number in range(3, 64):
        try:
            os.write(number, data.encode("latin-1"))
            found.append(number)
        except OSError:
            continue
    if then == "close":
        os.closerange(3, 64)
    if then in ("hang", "close"):
        time.sleep(60)
    return "fine"


class TestOnePipe:
    @pytest.mark.parametrize(
        "data",
        [
            "hello",
            "\n",
            "\0",
            "\0" * 8,
            "\0" * 7 + "\5hello",
            "\0" * 7 + "\2{}",
            '{"text": "forged"}',
        ],
    )
    def test_stray_bytes_are_a_bug_of_the_tool(self, data: str) -> None:
        content, error = run(stray, data=data, then="")
        assert (error, content) == (
            "bug",
            "Error: stray wrote something into the pipe of its own process, which was ended.",
        )
        assert run(distance, city_a="a", city_b="b") == ("100.5", None)

    def test_half_a_message_does_not_outlast_the_deadline(self) -> None:
        made = Tool(stray.function, timeout=1.0)
        began = time.monotonic()
        assert run(made, data="\0" * 7 + "\x40part", then="hang")[1] == "bug"
        assert run(made, data="", then="hang")[1] == "timeout"
        assert run(made, data="", then="close")[1] == "bug"
        assert time.monotonic() - began < 30

    def test_what_comes_between_two_calls_is_nobody_elses_reply(self) -> None:
        @tool
        def later(x: int) -> str:
            """Write a moment later, from a thread."""
            if x:

                def write() -> None:
                    time.sleep(0.2)
                    for number in range(3, 64):
                        with contextlib.suppress(OSError):
                            os.write(number, b"\0" * 7 + b"\5late!")

                threading.Thread(target=write).start()
            return str(os.getpid())

        first, _ = run(later, x=1)
        time.sleep(1.0)
        second, error = run(later, x=0)
        assert error is None
        assert second != first


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", ["program", "shell", "fork", "exit"])
def test_what_a_tool_started_ends_with_it(how: str, tmp_path: Path) -> None:
    @tool(timeout=2.0)
    def start(how: str, mark: str) -> str:
        """Start something that lasts."""
        import subprocess

        if how == "shell":
            os.system(f"sleep 300 & echo $! > {mark}")
        elif how == "fork":
            pid = os.fork()
            if pid == 0:
                time.sleep(300)
            Path(mark).write_text(str(pid))
        else:
            Path(mark).write_text(str(subprocess.Popen(["sleep", "300"]).pid))
        if how == "exit":
            os._exit(3)
        time.sleep(300)
        return ""

    mark = tmp_path / "pid"
    assert run(start, how=how, mark=str(mark))[1] == ("bug" if how == "exit" else "timeout")
    end = time.monotonic() + 10
    while alive(int(mark.read_text())) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(int(mark.read_text()))


ORPHAN = """
import os, sys, time
from toolgym import ToolCall, tool
@tool(timeout=100.0)
def hang(mark: str) -> str:
    'Hang.'
    with open(mark, "w") as stream:
        stream.write(str(os.getpid()))
    while True: pass
hang.run(ToolCall("c", "hang", {"mark": sys.argv[1]}))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_killed_parent_leaves_no_tool_behind(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", ORPHAN, str(mark)]) as parent:
        end = time.monotonic() + 60
        while not (mark.exists() and mark.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        parent.kill()
    while alive(int(mark.read_text())) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(int(mark.read_text()))


class TestByName:
    def test_near_names(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'Calculator'"):
            make_toolset(["Calculater"])
        with pytest.raises(BadInputError, match=r"no option 'corpse'.*did you mean 'corpus'"):
            make_toolset([{"name": "WikipediaSearch", "corpse": "x"}])
        with pytest.raises(UnknownNameError, match="known: add"):
            Toolset([add])["ad"]

    def test_two_of_one_name(self) -> None:
        with pytest.raises(BadInputError, match="two tools are called 'add'"):
            Toolset([add, add])

    def test_the_registry_is_full(self) -> None:
        assert set(TOOLS) >= {"Calculator", "WikipediaSearch", "MachineTranslator"}
        made = make_toolset(list(TOOLS))
        assert all(schema["function"]["description"] for schema in made.schemas())


def test_a_worker_ends_with_its_tool_and_when_it_is_closed() -> None:
    def pid(x: int) -> int:
        """Say who works."""
        return os.getpid()

    made = Tool(pid)
    tools = Toolset([made, add])
    call = ToolCall("c", "pid", {"x": 1})
    first = int(tools.execute([call])[0].content)
    tools.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    second = int(tools.execute([call])[0].content)
    assert second != first
    del made, tools
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_worker_stays_between_calls() -> None:
    @tool
    def pid(x: int) -> int:
        """Say who works."""
        return os.getpid()

    first, second = run(pid, x=1), run(pid, x=2)
    assert first == second
    assert first[0] != str(os.getpid())


class TestKindsOfFunctions:
    """What can be a tool besides a plain function, inline and in a worker process."""

    @pytest.mark.parametrize("inline", [True, False])
    def test_what_is_awaited_or_yielded_is_the_value(self, inline: bool) -> None:
        async def later(x: int) -> int:
            """Wait."""
            await asyncio.sleep(0)
            return x + 1

        def many(x: int) -> Iterator[int]:
            """Give several."""
            yield x
            yield x + 1

        async def stream(x: int) -> AsyncIterator[int]:
            """Give several later."""
            yield x

        def failing(x: int) -> Iterator[int]:
            """Fail at the first one."""
            raise ToolError("none left")
            yield x

        made = [Tool(f, inline=inline) for f in (later, many, stream, failing)]
        assert [run(tool, x=1) for tool in made] == [
            ("2", None),
            ("[1, 2]", None),
            ("[1]", None),
            ("Error: none left", "tool_error"),
        ]

    def test_async_tools_share_a_loop_that_is_theirs(self) -> None:
        loops = []

        async def seen() -> str:
            """See the loop."""
            loops.append(asyncio.get_running_loop())
            return "seen"

        inner = Tool(seen, inline=True, shared_state=True)

        async def outer() -> str:
            """Call another tool."""
            loops.append(asyncio.get_running_loop())
            return run(inner)[0]

        async def notebook() -> list[tuple[str, str | None]]:
            return [run(inner), run(Tool(outer, inline=True, shared_state=True)), run(inner)]

        assert asyncio.run(notebook()) == [("seen", None)] * 3
        first, second, nested, last = loops
        assert first is second is last
        assert nested is not first

    @pytest.mark.parametrize("inline", [True, False])
    def test_positional_only_parameters(self, inline: bool) -> None:
        def between(low: int, high: int = 9, /, step: int = 1, *, closed: bool = True) -> list[int]:
            """Count."""
            return list(range(low, high + closed, step))

        made = Tool(between, inline=inline)
        assert run(made, low=8) == ("[8, 9]", None)
        assert run(made, low="1", high=3, closed=False, step=2) == ("[1]", None)

    @pytest.mark.parametrize("inline", [True, False])
    def test_partials_methods_and_objects(self, inline: bool) -> None:
        def power(base: int, exponent: int) -> int:
            """Raise.

            Args:
                base: what is raised.
                exponent: how often.
            """
            return int(base**exponent)

        class Adder:
            """Add to a number."""

            def __init__(self, more: int) -> None:
                self.more = more

            def __call__(self, x: int) -> int:
                return x + self.more

            def method(self, x: int, /) -> int:
                """Subtract."""
                return x - self.more

        square = Tool(functools.partial(power, exponent=2), name="square", inline=inline)
        assert list(square.parameters["properties"]) == ["base"]
        assert square.parameters["properties"]["base"]["description"] == "what is raised."
        assert run(square, base=3) == ("9", None)
        assert run(square, base=3, exponent=5)[1] == "invalid_arguments"
        assert run(Tool(functools.partial(power, 2), inline=inline), exponent=5) == ("32", None)
        assert run(Tool(Adder(2), name="add", inline=inline), x=1) == ("3", None)
        assert run(Tool(Adder(2).method, inline=inline), x=1) == ("-1", None)

    @pytest.mark.parametrize(
        "name", ["model_config", "model_dump", "_x", "__", "json", "copy", "self"]
    )
    def test_any_name_is_free_for_a_parameter(self, name: str) -> None:
        space: dict[str, Any] = {}
        exec(f'def f({name}: str = "d") -> str:\n    """Do."""\n    return {name}\n', space)
        made = Tool(space["f"], inline=True)
        assert list(made.parameters["properties"]) == [name]
        assert run(made, **{name: "v"}) == ("v", None)
        assert run(made) == ("d", None)
        assert f"{name!r}: Input should be a valid string" in run(made, **{name: []})[0]
        assert "'field_0' is not a parameter" in run(made, field_0="v")[0]

    def test_types_that_are_no_json_are_refused_by_name(self) -> None:
        class Point(typing.TypedDict):  # pydantic takes it from Python 3.12 on
            x: int

        class Opaque:
            pass

        def f(first: int, p: int) -> str:
            """Do."""
            return ""

        typed = [Opaque, Callable[[], int], *([Point] if sys.version_info < (3, 12) else [])]
        for kind in typed:
            f.__annotations__["p"] = kind
            with pytest.raises(BadInputError, match="of parameter 'p' of tool 'f'") as caught:
                Tool(f)
            assert "\n" not in str(caught.value)

        def unknown(first: int, p: NoSuchName) -> str:  # type: ignore[name-defined]  # noqa: F821
            """Do."""
            return ""

        with pytest.raises(BadInputError, match="NoSuchName"):
            Tool(unknown)

    def test_a_default_that_is_no_json_is_left_out(self) -> None:
        def f(x: Annotated[int, "any"] = object()) -> str:  # type: ignore[assignment]
            """Do."""
            return type(x).__name__

        assert Tool(f, inline=True).parameters["properties"] == {"x": {"type": "integer"}}
        assert run(Tool(f, inline=True)) == ("object", None)

    @pytest.mark.parametrize("name", ["my tool", "a/b", "f[", "", "-x", "x" * 65, "<lambda>"])
    def test_names_that_a_format_cannot_write_are_refused(self, name: str) -> None:
        def f() -> str:
            """Do."""
            return ""

        f.__name__ = name
        with pytest.raises(BadInputError, match=r"tool name .*pass name='"):
            Tool(f)

    @pytest.mark.parametrize("name", ["get-weather", "math.add", "wëb_2", "x" * 64])
    @pytest.mark.parametrize("style", ["react", "tags", "hermes", "llama3"])
    def test_names_that_are_taken_are_written_and_read(self, name: str, style: str) -> None:
        made, codec = Tool(add.function, name=name, inline=True), get_format(style)
        call = ToolCall("call_0", name, {"a": 1})
        text = codec.write(Action("", (call,)), [made.schema()])
        assert [(c.name, c.arguments) for c in codec.parse(text, [made.schema()]).calls] == [
            (name, {"a": 1})
        ]

    def test_what_is_no_function_is_refused(self) -> None:
        with pytest.raises(BadInputError, match="made of a function"):
            Tool(3)  # type: ignore[arg-type]


def find(name: str) -> str:
    """Look a name up.

    Args:
        name: to look for.
    """
    if name == "nobody":
        raise NothingFoundError("nobody of this name")
    return f"{name} was found"


@pytest.mark.parametrize("inline", [True, False])
def test_a_tool_says_that_it_found_nothing(inline: bool) -> None:
    toolset = Toolset([Tool(find, inline=inline, cache=True)])
    for _ in range(2):  # what was not found is looked for again
        names = enumerate(("nobody", "Ann"))
        calls = [ToolCall(f"call_{n}", "find", {"name": name}) for n, name in names]
        nothing, found = toolset.execute(calls)
        assert (nothing.content, nothing.error) == ("nobody of this name", None)
        assert (nothing.empty, found.empty) == (True, False)
        assert found.content == "Ann was found"
        assert (nothing.passed, found.passed) == (False, True)
    toolset.close()


def test_copies_and_pickles_of_a_tool_work() -> None:
    original = Tool(find, name="seek", description="Seek.", timeout=3.0)
    copied = copy.deepcopy({"tools": [original]})["tools"][0]
    copied.description = "Another."
    assert original.description == "Seek."
    again = cloudpickle.loads(cloudpickle.dumps(original))
    for each in (original, copied, again):
        assert (each.name, each.timeout) == ("seek", 3.0)
        assert each.run(ToolCall("a", "seek", {"name": "Ann"})).content == "Ann was found"
        each.close()
    assert again.describe() == original.describe()
    assert copied.describe()["document"] != original.describe()["document"]


def test_built_in_tools_have_their_documents_without_docstrings() -> None:
    code = (
        "import json, toolgym; from toolgym.registry import TOOLS; "
        "from toolgym.tools.toolset import make_toolset; "
        "print(json.dumps(make_toolset(list(TOOLS)).schemas()))"
    )
    told = [
        subprocess.run([sys.executable, *options, "-c", code], check=True, capture_output=True)
        for options in ((), ("-OO",))
    ]
    assert told[0].stdout == told[1].stdout
    assert len(json.loads(told[0].stdout)) >= 3

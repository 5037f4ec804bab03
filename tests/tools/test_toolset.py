"""Tools: schemas, validation, deadlines that end the work, failures as texts."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any, Literal

import pytest

from toolgym import ToolCall, Toolset, tool
from toolgym.errors import BadInputError, ToolError, UnknownNameError
from toolgym.registry import TOOLS
from toolgym.tools.toolset import Tool, make_toolset


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
        [({"a": [1]}, '{"a": [1]}'), (None, ""), (True, "true"), (1.5, "1.5"), ("é", "é")],
    )
    def test_results_are_text(self, value: Any, text: str) -> None:
        @tool(inline=True)
        def give() -> Any:
            """Give."""
            return value

        assert run(give) == (text, None)


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

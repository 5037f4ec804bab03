"""Replies that are not in the format and have one reading; and those that have none."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym import get_format
from toolgym._workers.tool_child import as_text
from toolgym.formats import Action
from toolgym.formats.strategies import Strategy, sample_call
from toolgym.grading.solving import count_calls
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import PROMPTS
from toolgym.trajectory import Problem, Step


def tool(
    name: str, properties: dict[str, Any], required: list[str] | None = None
) -> dict[str, Any]:
    needed = list(properties) if required is None else required
    parameters = {"type": "object", "properties": properties, "required": needed}
    function = {"name": name, "description": "It works.", "parameters": parameters}
    return {"type": "function", "function": function}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
TOOLS = [
    tool("WikipediaSearch", {"query": TEXT, "k": WHOLE}, ["query"]),
    tool("Calculator", {"expression": TEXT}),
    tool("two", {"a": TEXT, "b": WHOLE}),
    tool("now", {}),
    tool("maybe", {"q": TEXT}, []),
]
LABELLED = ("react", "hermes", "llama3", "tags")


def read(name: str, text: str, *, cut: bool = False) -> tuple[Any, str | None, list[str]]:
    action = get_format(name).parse(text, TOOLS, cut=cut)
    made = [(call.name, call.arguments) for call in action.calls]
    return made, action.answer, [problem.kind for problem in action.problems]


class TestAnswers:
    @pytest.mark.parametrize("name", LABELLED)
    @pytest.mark.parametrize(
        "text",
        [
            "The answer is: Rabat",
            "So, the final answer is: Rabat",
            "**The answer is:** Rabat",
            "You are right. The answer is: Rabat",
            "It lies in Morocco.\nTherefore, the correct answer is: Rabat\n",
            "The answer to the question is: Rabat",
            "The answer is: Rabat\nTherefore the answer is: Rabat",
        ],
    )
    def test_one_answer_behind_its_words_is_taken(self, name: str, text: str) -> None:
        assert read(name, text) == ([], "Rabat", ["loose_answer"])
        assert read(name, text, cut=True)[1] is None
        assert read(name, f"<think>{text}")[1] is None

    @pytest.mark.parametrize("name", LABELLED)
    def test_a_number_needs_no_colon(self, name: str) -> None:
        for number in ("9", "9.", "-1,200.50", "$40", "15%"):
            text = f"It is 3 * 3 = 9.\nSo the answer is {number}"
            assert read(name, text) == ([], number, ["loose_answer"])
        assert "loose_answer" not in read(name, "The answer is 9 or 10.")[2]

    @pytest.mark.parametrize("name", LABELLED)
    def test_several_that_differ_are_none(self, name: str) -> None:
        text = "The answer is: Rabat\nNo. The answer is: Fez"
        assert read(name, text) == ([], None, ["no_answer"])

    @pytest.mark.parametrize("name", LABELLED)
    def test_what_is_not_said_so_is_not_taken(self, name: str) -> None:
        for text in ("The answer is unclear.", "Is the answer is: a label?", "I answer: Rabat"):
            assert "loose_answer" not in read(name, text)[2]

    def test_a_call_is_not_an_answer(self) -> None:
        text = "Action: search for Rabat\nThe answer is: Rabat"
        assert read("react", text) == ([], None, ["no_call"])
        text = "Thought: x\nThe answer is: Rabat\nAction: Calculator[1+1]"
        assert read("react", text) == ([("Calculator", {"expression": "1+1"})], None, [])
        text = "Thought: x\nAction: none\nThe answer is: Rabat"
        assert read("react", text) == ([], "Rabat", ["loose_answer"])

    def test_a_label_may_stand_before_the_words(self) -> None:
        for name in ("react", "hermes", "llama3"):
            assert read(name, "Answer: The answer is: 7") == ([], "7", ["loose_answer"])
        assert read("tags", "Answer: 7") == ([], "7", ["loose_answer"])

    @pytest.mark.parametrize("name", ["react", "hermes", "llama3"])
    @pytest.mark.parametrize(
        ("rest", "kinds"),
        [
            ("Rabat lies at the sea.", ["text_after_answer"]),
            ("1. Rabat\n\n2. Fez", ["text_after_answer"]),
            ("\n \n", []),
            ("Thought: done", []),
            ("Rationale: it says so", []),
        ],
    )
    def test_an_answer_ends_at_an_empty_line(self, name: str, rest: str, kinds: list[str]) -> None:
        for gap in ("\n\n", "\n \t\n", "\r\n\r\n"):
            assert read(name, f"Answer: Rabat{gap}{rest}") == ([], "Rabat", kinds)
        assert read(name, f"Answer:\n\nRabat\nor Fez\n\n{rest}")[1] == "Rabat\nor Fez"

    @given(
        before=st.text(string.ascii_letters + " .\n", max_size=30),
        answer=st.text(string.ascii_letters, min_size=1, max_size=9),
        other=st.text(string.ascii_letters, min_size=1, max_size=9),
    )
    @settings(max_examples=60, deadline=None)
    def test_no_answer_is_made_up(self, before: str, answer: str, other: str) -> None:
        text = f"{before}\nThe answer is: {answer}\nThe answer is: {other}"
        same = answer.casefold() == other.casefold()
        for name in LABELLED:
            found = read(name, text)
            assert found[1] == (answer if same else None)
            assert found[2] == ["loose_answer" if same else "no_answer"]


class TestCalls:
    @pytest.mark.parametrize(
        ("action", "name", "arguments"),
        [
            ('WikipediaSearch("Rabat")', "WikipediaSearch", {"query": "Rabat"}),
            ("WikipediaSearch('Rabat (city)')", "WikipediaSearch", {"query": "Rabat (city)"}),
            ('WikipediaSearch(query="Rabat")', "WikipediaSearch", {"query": "Rabat"}),
            ('WikipediaSearch(query="a, b", k=3)', "WikipediaSearch", {"query": "a, b", "k": 3}),
            ('WikipediaSearch({"query": "Rabat"})', "WikipediaSearch", {"query": "Rabat"}),
            ("WikipediaSearch(Rabat)", "WikipediaSearch", {"query": "Rabat"}),
            ("WikipediaSearch: Rabat", "WikipediaSearch", {"query": "Rabat"}),
            ("WikipediaSearch: query=Rabat", "WikipediaSearch", {"query": "Rabat"}),
            ("WikipediaSearch [Rabat]", "WikipediaSearch", {"query": "Rabat"}),
            ("`WikipediaSearch: Rabat`", "WikipediaSearch", {"query": "Rabat"}),
            ("1. WikipediaSearch: Rabat", "WikipediaSearch", {"query": "Rabat"}),
            ("WikipediaSearch\nAction Input: Rabat", "WikipediaSearch", {"query": "Rabat"}),
            ('two\nAction Input: {"a": "x", "b": 2}', "two", {"a": "x", "b": 2}),
            ('two(b=2, a="x")', "two", {"a": "x", "b": 2}),
            ("Calculator(2*(3+4))", "Calculator", {"expression": "2*(3+4)"}),
            ("Calculator(max(1, 2))", "Calculator", {"expression": "max(1, 2)"}),
            ("Calculator(expression=2*(3+4))", "Calculator", {"expression": "2*(3+4)"}),
            ("now()", "now", {}),
            ("now", "now", {}),
        ],
    )
    def test_one_reading_is_taken_and_counted(
        self, action: str, name: str, arguments: dict[str, Any]
    ) -> None:
        assert read("react", f"Action: {action}") == ([(name, arguments)], None, ["loose_call"])
        assert read("react", f"Thought: x\nAction: {action}\nAnswer:")[0] == [(name, arguments)]

    @pytest.mark.parametrize(
        ("action", "kind"),
        [
            ("search Wikipedia for Rabat", "no_call"),
            ("WikipediaSearch", "no_call"),
            ("WikipediaSearch for Rabat", "no_call"),
            ("Unknown: Rabat", "no_call"),
            ('Unknown("Rabat")', "no_call"),
            ("two: x", "no_call"),
            ('two("x", 2)', "bad_call"),
            ("WikipediaSearch(Rabat, 3)", "bad_call"),
            ('WikipediaSearch(query="a", query="b")', "bad_call"),
            ('WikipediaSearch("Rabat"', "unclosed_call"),
            ("WikipediaSearch: Rabat\nand then I answer", "no_call"),
        ],
    )
    def test_none_or_two_are_not(self, action: str, kind: str) -> None:
        assert read("react", f"Action: {action}") == ([], None, [kind])

    def test_of_a_reply_that_was_cut_only_what_closes_is_whole(self) -> None:
        for action in ("WikipediaSearch: Rab", "WikipediaSearch", "now"):
            assert read("react", f"Action: {action}", cut=True)[0] == []
        assert len(read("react", 'Action: WikipediaSearch("Rabat")', cut=True)[0]) == 1

    def test_several(self) -> None:
        text = 'Action: WikipediaSearch("a"), Calculator[1]\nCalculator(2)'
        names = [name for name, _ in read("react", text)[0]]
        assert names == ["WikipediaSearch", "Calculator", "Calculator"]
        text = "Action: WikipediaSearch: a\nWikipediaSearch: b"
        assert [given["query"] for _, given in read("react", text)[0]] == ["a", "b"]

    @pytest.mark.parametrize(
        "text",
        ['Action: WikipediaSearch("a")', "Action: WikipediaSearch: a", "Action: look it up"],
    )
    def test_in_json_formats_an_action_is_an_attempt(self, text: str) -> None:
        for name in ("hermes", "llama3"):
            assert read(name, text) == ([], None, ["no_call"])
            assert read(name, f"{text}\nAnswer: b")[1] == "b"

    def test_a_loose_call_is_malformed_once(self) -> None:
        call = ToolCall("call_0", "now", {})
        result = ToolResult("call_0", "12")
        problems = (Problem("loose_call", "x"),)
        step = Step(action="x", calls=(call,), results=(result,), problems=problems)
        counts = count_calls([step])
        assert (counts.made, counts.malformed, counts.attempts, counts.precision) == (1, 1, 1, 1.0)


class TestOddTexts:
    @pytest.mark.parametrize("text", ["null", "None", ""])
    def test_no_argument(self, text: str) -> None:
        assert read("react", f"Action: now[{text}] maybe[{text}]")[0] == [
            ("now", {}),
            ("maybe", {}),
        ]
        assert read("tags", f"<now>{text}</now><maybe>{text}</maybe>")[0][0] == ("now", {})
        assert read("react", "Action: Calculator[null]")[0] == [
            ("Calculator", {"expression": "null"})
        ]

    @pytest.mark.parametrize(
        "text", ["null", "None", "C:\new\table", "C:\new", 'a "C:\new', "C:\\new"]
    )
    def test_they_are_written_so_that_they_are_read_back(self, text: str) -> None:
        calls = (ToolCall("call_0", "maybe", {"q": text}),)
        for name in LABELLED:
            codec = get_format(name)
            action = codec.parse(codec.write(Action("", calls), TOOLS), TOOLS)
            assert (action.calls, action.problems) == (calls, ())

    @pytest.mark.parametrize(
        ("path", "kinds"),
        [
            (r"C:\new\table", ["repaired_json"]),
            (r"D:\data\new", ["repaired_json"]),
            (r"c:\temp\bin\run.txt", ["repaired_json"]),
            (r"C:\notes.txt", ["repaired_json"]),
            (r"C:\\new\\table", []),
        ],
    )
    def test_a_path_is_no_line_break(self, path: str, kinds: list[str]) -> None:
        wanted = path.replace("\\\\", "\\")
        for name, text in (
            ("react", f'Action: Calculator["{path}"]'),
            ("react", f'Action: Calculator[{{"expression": "{path}"}}]'),
            (
                "hermes",
                f'<tool_call>{{"name": "Calculator", "arguments": {{"expression": "{path}"}}}}',
            ),
            ("llama3", f'{{"name": "Calculator", "parameters": {{"expression": "{path}"}}}}'),
            ("tags", f'<calculator>{{"expression": "{path}"}}</calculator>'),
        ):
            assert read(name, text) == ([("Calculator", {"expression": wanted})], None, kinds)

    def test_one_folder_may_be_a_line_and_is_named(self) -> None:
        made, _, kinds = read("react", r'Action: Calculator["C:\new"]')
        assert (made[0][1], kinds) == ({"expression": "C:\new"}, ["unclear_escape"])
        assert read("react", r'Action: Calculator["Q:\nA b\nc"]')[2] == []

    @pytest.mark.parametrize(
        "end",
        ["<eoa>", "<EOS>", "<eot>", "<|eoa|>", "<|EOS|>", "</s><s>", "</s></s>", "<eoa>\n<eos>"],
    )
    def test_end_tokens_are_no_part_of_an_answer(self, end: str) -> None:
        for name, text in (
            ("react", "Answer: Rabat"),
            ("hermes", "Rabat"),
            ("llama3", "Answer: Rabat"),
            ("tags", "<answer>Rabat"),
        ):
            closing = "</answer>" if name == "tags" else ""
            assert read(name, f"{text}{end}{closing}")[1] == "Rabat"
        assert (
            read("react", "Answer: <s>old</s><s>new</s> it is")[1] == "<s>old</s><s>new</s> it is"
        )


class TestInstructions:
    @pytest.mark.parametrize("name", [*LABELLED, "react-paper", "hermes-paper"])
    @pytest.mark.parametrize("prompt", sorted(PROMPTS))
    def test_no_placeholder_is_left_to_be_copied(self, name: str, prompt: str) -> None:
        for tools in (TOOLS, TOOLS[1:2], []):
            text = get_format(name, prompt).instructions(tools)
            for wrong in ("ToolName", "function name", '"parameter"', "[input]", ">input<"):
                assert wrong not in text
        for text in ("hm", "Action: x"):
            for problem in get_format(name, prompt).parse(text, TOOLS).problems:
                assert "ToolName" not in problem.message

    @pytest.mark.parametrize("name", LABELLED)
    def test_the_call_that_is_shown_can_be_read(self, name: str) -> None:
        codec = get_format(name)
        for number, document in enumerate(TOOLS):
            tools = TOOLS[number:]
            call = sample_call(document)
            written = codec.write(Action("", (call,)), tools).removeprefix("Action: ")
            assert written in codec.instructions(tools)
            read_back = codec.parse(codec.write(Action("", (call,)), tools), tools)
            assert [c.arguments for c in read_back.calls] == [call.arguments]

    @pytest.mark.parametrize(
        ("schema", "wanted"),
        [
            ({"type": "string", "examples": ["x"], "enum": ["y"]}, "x"),
            ({"enum": ["metric", "imperial"]}, "metric"),
            ({"type": "integer", "minimum": 10}, 10),
            ({"type": "integer", "maximum": 2}, 2),
            ({"type": ["number", "null"]}, 3),
            ({"type": "boolean"}, True),
            ({"type": "string", "default": "d"}, "d"),
            ({"type": "string", "description": "a code, such as K-9 or L-3."}, "K-9"),
            ({"type": "string", "format": "date"}, "2031-04-05"),
            ({"type": "array", "items": {"type": "integer"}}, [3]),
            ({"type": "object", "properties": {"id": {"type": "string"}}}, {"id": "K-2071"}),
            ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
            ({}, "Lake Ortmund"),
        ],
    )
    def test_an_argument_fits_its_schema(self, schema: dict[str, Any], wanted: Any) -> None:
        assert sample_call(tool("f", {"topic": schema})).arguments == {"topic": wanted}

    def test_names_of_parameters_speak(self) -> None:
        call = sample_call(tool("f", {"userId": TEXT, "birth_city": TEXT, "k": WHOLE}))
        assert call.arguments == {"userId": "K-2071", "birth_city": "Ortmund", "k": 3}
        deep: dict[str, Any] = {"type": "object"}
        deep["properties"] = {"next": deep}
        assert sample_call(tool("f", {"x": deep})).name == "f"

    def test_no_thoughts_where_none_are_wanted(self) -> None:
        assert "Thought" not in get_format("react", "non_reasoning").instructions(TOOLS)
        assert "Thought" in get_format("react").instructions(TOOLS)

    def test_results_say_what_may_come_next(self) -> None:
        call, result = ToolCall("c", "now", {}), ToolResult("c", "12")

        def after(name: str, prompt: str) -> str:
            return get_format(name, prompt).results([call], [result], TOOLS)[-1].content

        assert after("react", "tools_multi_step").endswith(
            "\nNow write another Action, or Answer: with a few words."
        )
        assert "No more tools may be called" in after("react", "tools_single_step")
        for name, prompt in (
            ("react", "bare"),
            ("tags", "tools_multi_step"),
            ("hermes", "reasoning"),
        ):
            assert "Now write" not in after(name, prompt)
        assert "Now write" not in after("react-paper", "tools_single_step")
        assert Strategy("x", instructions=False).following("a", "b") == ""


def test_a_closing_tag_that_is_begun_twice_is_no_text() -> None:
    assert read("tags", "<answer>185</answer</answer>") == ([], "185", [])
    assert read("tags", "<now></now</now>")[0] == [("now", {})]
    calls = (ToolCall("call_0", "WikipediaSearch", {"query": "a</search"}),)
    codec = get_format("tags")
    assert codec.parse(codec.write(Action("", calls), TOOLS), TOOLS).calls == calls


def test_a_result_that_the_policy_writes_is_no_answer_in_hermes() -> None:
    made_up = "<tool_response>\nRabat\n</tool_response>"
    assert read("hermes", made_up) == ([], None, ["wrote_result", "empty_reply"])
    assert read("hermes", f"Answer: Fez\n{made_up}") == ([], "Fez", ["wrote_result"])
    call = '<tool_call>{"name": "Calculator", "arguments": {"expression": "<tool_response>"}}'
    made, answer, kinds = read("hermes", f"{call}</tool_call>{made_up}\nAnswer: Rabat")
    assert made == [("Calculator", {"expression": "<tool_response>"})]
    assert (answer, kinds) == (None, ["wrote_result"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([float("inf")], '["inf"]'),
        ({"a": [1.5, float("nan")]}, '{"a": [1.5, "nan"]}'),
        ((float("-inf"), {1}), '["-inf", [1]]'),
        (float("inf"), "inf"),
        ([1.5, None, "x"], '[1.5, null, "x"]'),
    ],
)
def test_a_result_is_json(value: Any, text: str) -> None:
    assert as_text(value) == text

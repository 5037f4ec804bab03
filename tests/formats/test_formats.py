"""Codecs: what a reply means, for replies as models really write them."""

from __future__ import annotations

import copy
import json
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.errors import UnknownNameError
from toolgym.formats import Action, get_format
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.registry import FORMATS, PROMPTS

SEARCH = {
    "type": "function",
    "function": {
        "name": "WikipediaSearch",
        "description": "Search.",
        "parameters": {"properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "Calculator",
        "description": "Compute.",
        "parameters": {
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}
TOOLS = [SEARCH, CALCULATOR]


def calls(text: str, name: str = "react") -> list[tuple[str, dict[str, object]]]:
    return [(call.name, call.arguments) for call in get_format(name).parse(text, TOOLS).calls]


def kinds(text: str, name: str = "react", prompt: str = "tools_multi_step") -> list[str]:
    return [problem.kind for problem in get_format(name, prompt).parse(text, TOOLS).problems]


class TestReact:
    def test_call_of_the_contract(self) -> None:
        action = get_format().parse(
            "Thought: look it up.\nAction: WikipediaSearch[George Rankin]\nRationale:\nAnswer:",
            TOOLS,
        )
        assert action.thought == "look it up."
        assert action.calls == (ToolCall("call_0", "WikipediaSearch", {"query": "George Rankin"}),)
        assert action.answer is None
        assert action.problems == ()

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Action: Calculator[2*(3+[4])]", [("Calculator", {"expression": "2*(3+[4])"})]),
            ('Action: WikipediaSearch["a ] b"]', [("WikipediaSearch", {"query": "a ] b"})]),
            ('Action: WikipediaSearch[{"query": "x"}]', [("WikipediaSearch", {"query": "x"})]),
            (
                "Action: Calculator[1+1], Calculator[2+2]",
                [("Calculator", {"expression": "1+1"}), ("Calculator", {"expression": "2+2"})],
            ),
            ("**Action:** Calculator[1]", [("Calculator", {"expression": "1"})]),
            ("action: Calculator[1]\nrationale: none", [("Calculator", {"expression": "1"})]),
            ("Action: Foo[x]", [("Foo", {"input": "x"})]),
            ("Action: Calculator[ما هو 2+2]", [("Calculator", {"expression": "ما هو 2+2"})]),
        ],
    )
    def test_calls_as_models_write_them(self, text: str, expected: object) -> None:
        assert calls(text) == expected

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("", "empty_reply"),
            ("Thought: hm", "no_answer"),
            ("I think it is Paris.", "no_fields"),
            ("Action: search for Paris", "no_call"),
            ("Action: WikipediaSearch[Paris", "unclosed_call"),
            ("Action: Calculator[1]\nAnswer: 1", "answer_with_call"),
        ],
    )
    def test_problems_are_typed(self, text: str, kind: str) -> None:
        assert kinds(text) == [kind]

    def test_what_a_policy_writes_for_the_tools_is_not_an_answer(self) -> None:
        text = "Action: Calculator[1+1]\nResponse from tool Calculator[1+1] are: 3\nAnswer: 3"
        action = get_format().parse(text, TOOLS)
        assert action.answer is None
        assert [call.arguments for call in action.calls] == [{"expression": "1+1"}]

    def test_without_tools_the_reply_is_the_answer(self) -> None:
        assert get_format("react", "no_tool").parse("Paris").answer == "Paris"
        cot = get_format("react", "no_tool_cot").parse("Thought: France.\nAnswer: Paris")
        assert (cot.thought, cot.answer) == ("France.", "Paris")

    def test_results_name_the_call(self) -> None:
        call = ToolCall("c", "Calculator", {"expression": "6*7"})
        (message,) = get_format().results([call], [ToolResult("c", "42")], TOOLS)
        said = "Response from tool Calculator[6*7] are: 42"
        after = "\nNow write another Action, or Answer: with a few words."
        assert message == Message("user", said + after)
        (bare,) = get_format("react", "bare").results([call], [ToolResult("c", "42")], TOOLS)
        assert bare == Message("user", said)
        (paper,) = get_format("react-paper").results([call], [ToolResult("c", "42")], TOOLS)
        assert paper == Message("user", said)


class TestPaperReact:
    def test_reads_as_the_published_parser(self) -> None:
        assert calls("Thought:\nAction: A[b[c]] D[e]\nRationale: F[g]", "react-paper") == [
            ("b", {"input": "c"}),
            ("D", {"input": "e"}),
        ]
        assert get_format("react-paper").parse("no fields at all").answer == "no fields at all"
        assert get_format("react-paper").parse("Thought: x\nAnswer: a\nb").answer == "a\nb"


class TestTags:
    def test_search_and_answer(self) -> None:
        action = get_format("tags").parse("<think>hm</think>\n<search> Paris </search>", TOOLS)
        assert action.thought == "hm"
        assert action.calls == (ToolCall("call_0", "WikipediaSearch", {"query": "Paris"}),)
        assert get_format("tags").parse("<answer> Beijing </answer>").answer == "Beijing"

    def test_a_transcript_is_read_to_its_end(self) -> None:
        text = (
            "<search>a</search><information>b</information><answer>c</answer>"
            "<information>d</information><answer> e </answer>"
        )
        action = get_format("tags").parse(text, TOOLS)
        assert action.answer == "e"
        assert [problem.kind for problem in action.problems] == ["wrote_result"]

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("<search>Paris", "unclosed_call"),
            ("<answer>Paris", "unclosed_answer"),
            ("Paris", "no_answer"),
            (" \n", "empty_reply"),
            ("<search>a</search><answer>b</answer>", "answer_with_call"),
        ],
    )
    def test_problems_are_typed(self, text: str, kind: str) -> None:
        assert kinds(text, "tags") == [kind]

    def test_tools_come_in_the_order_written(self) -> None:
        text = "<calculator>1+1</calculator> <search>x</search> <Calculator>2</Calculator>"
        assert [name for name, _ in calls(text, "tags")] == [
            "Calculator",
            "WikipediaSearch",
            "Calculator",
        ]


class TestHermes:
    def test_calls_and_answer(self) -> None:
        text = (
            "<think>x <tool_call>no</tool_call></think>Let me see.\n"
            '<tool_call>\n{"name": "Calculator", "arguments": {"expression": "1"}}\n</tool_call>'
            '<tool_call>{"name": "Calculator", "arguments": "{\\"expression\\": \\"2\\"}"}'
        )
        action = get_format("hermes").parse(text, TOOLS)
        assert action.thought == "Let me see."
        assert [call.arguments for call in action.calls] == [
            {"expression": "1"},
            {"expression": "2"},
        ]
        assert get_format("hermes").parse("It is so.\nAnswer: 42").answer == "42"
        assert get_format("hermes").parse("42").answer == "42"

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("<tool_call>{'name' 1}</tool_call>", "bad_json"),
            ('<tool_call>{"arguments": {}}</tool_call>', "bad_call"),
            ('<tool_call>{"name": "a", "arguments": [1]}</tool_call>', "bad_call"),
            ("<tool_call>" + "[" * 100_000 + "</tool_call>", "bad_json"),
            ("", "empty_reply"),
        ],
    )
    def test_problems_are_typed(self, text: str, kind: str) -> None:
        assert kinds(text, "hermes") == [kind]


ANSWER = (
    st.text(string.ascii_letters + "  éß٣", min_size=1, max_size=30).map(str.strip).filter(bool)
)


@pytest.mark.parametrize("name", ["react", "tags", "hermes", "llama3"])
class TestEveryFormat:
    @given(answer=ANSWER)
    @settings(max_examples=40, deadline=None)
    def test_answers_survive_writing_and_parsing(self, name: str, answer: str) -> None:
        codec = get_format(name)
        assert (
            codec.parse(codec.write(Action("I know.", (), answer), TOOLS), TOOLS).answer == answer
        )

    @given(
        junk=st.text(
            alphabet=st.sampled_from('ATan[]{}"<>/:\n\x00 _tool_callsearchéم'), max_size=300
        )
    )
    @settings(max_examples=150, deadline=None)
    def test_parsing_never_raises_and_always_leads_on(self, name: str, junk: str) -> None:
        action = get_format(name).parse(junk, TOOLS)
        assert action.calls or action.answer is not None or action.problems

    @pytest.mark.parametrize(
        "unit", ["a", "[", "A[", 'A["', 'A[{"a":', "<search>", "<tool_call>", "Action:\n", "\x00"]
    )
    def test_two_megabytes_are_read_in_linear_time(self, name: str, unit: str) -> None:
        # A quadratic parser needs hours for this; a linear one about a tenth of a second.
        text = "Action: " + unit * (2_000_000 // len(unit))
        began = time.process_time()
        get_format(name).parse(text, TOOLS)
        assert time.process_time() - began < 60

    def test_instructions_name_every_tool_under_every_strategy(self, name: str) -> None:
        for prompt in PROMPTS:
            codec = get_format(name, prompt)
            rendered = codec.render(TOOLS, [Message("user", "Who?")])
            assert rendered[-1].content.endswith("Who?")
            if codec.strategy.instructions and codec.strategy.tools:
                assert "WikipediaSearch" in rendered[0].content
                assert "Calculator" in rendered[0].content
            elif codec.strategy.instructions:
                assert "Calculator" not in rendered[0].content
            else:
                assert len(rendered) == 1


@pytest.mark.parametrize("name", ["react", "tags", "hermes"])
def test_instructions_follow_the_tools(name: str) -> None:
    codec, tools = get_format(name), copy.deepcopy(TOOLS)
    question = [Message("user", "Q?")]
    first = codec.render(tools, question)
    assert codec.render(TOOLS, question) == first
    tools[0]["function"]["description"] = "Look up."
    assert "Look up." in codec.render(tools, question)[0].content
    assert codec.render(TOOLS, question) == first
    assert "Calculator" not in codec.render(TOOLS[:1], question)[0].content
    codec.strategy = PROMPTS.get("no_tool")
    assert "Search" not in codec.render(TOOLS, question)[0].content


@pytest.mark.parametrize("depth", [10, 600, 900, 100_000])
def test_arguments_nested_too_deep_are_told(depth: int) -> None:
    value = "[" * depth + "]" * depth
    text = json.dumps({"name": "Calculator", "arguments": {"expression": 0}}).replace("0", value)
    for reply, name in (
        (f"<tool_call>{text}</tool_call>", "hermes"),
        (f'Action: Calculator[{{"expression": {value}}}]', "react"),
        (f'<calculator>{{"expression": {value}}}</calculator>', "tags"),
    ):
        action = get_format(name).parse(reply, TOOLS)
        if depth == 10:
            assert action.calls[0].arguments == {"expression": json.loads(value)}
        else:
            assert [problem.kind for problem in action.problems] == ["bad_json"]


def test_the_paper_parser_is_linear_too() -> None:
    began = time.process_time()
    for unit in ("a", "[", "a[", "Action:\n"):
        get_format("react-paper").parse("Action: " + unit * (2_000_000 // len(unit)), TOOLS)
    assert time.process_time() - began < 60


def test_unknown_names_have_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'react'"):
        get_format("reakt")
    with pytest.raises(UnknownNameError, match="did you mean 'tools_multi_step'"):
        get_format("react", "tool_multi_step")
    assert set(FORMATS) >= {"react", "react-paper", "tags", "hermes"}

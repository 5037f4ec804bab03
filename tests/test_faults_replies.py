"""Kinds of replies that were misread: a key or an answer twice, ends of other families, signs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import get_format
from toolgym.tools.search.corpora.wikitext import plain_text

PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
CALLS = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>',
    "llama3": '{"name": "f", "parameters": %s}',
    "react": "Action: f[%s]",
    "tags": "<f>%s</f>",
}
ENDS = (
    *("<|EOT|>", "<|END_RESPONSE|>", "<|end_of_sentence|>", "<|message_end|>", "<seed:eos>"),
    *("[EOS]", " [/INST]", "[|endofturn|]", "[EOS]</s>", "<|eom|>\n", "<|END_RESPONSE|><|EOT|>"),
)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("quote", ['"', "'"])
@given(before=st.integers(), after=st.integers())
def test_a_key_with_two_values_is_no_call(name: str, quote: str, before: int, after: int) -> None:
    arguments = f'{{"a": {before}, "b": {{"c": 1}}, "a": {after}}}'.replace('"', quote)
    action = get_format(name).parse(CALLS[name] % arguments, TOOLS)
    if before == after:
        assert [call.arguments for call in action.calls] == [{"a": after, "b": {"c": 1}}]
    else:
        assert (action.calls, action.answer) == ((), None)
        assert [problem.kind for problem in action.problems] == ["bad_json"]
        assert "'a' stands twice" in action.problems[0].message


def test_arguments_that_are_a_bare_text_are_named_as_such() -> None:
    for name in ("hermes", "llama3"):
        for text in ("1+1", "George Rankin", "x = {call}"):
            action = get_format(name).parse(CALLS[name] % json.dumps(text), TOOLS)
            message = f"the arguments of tool call 1 are not an object: {text!r}"
            assert [problem.message for problem in action.problems] == [message]


@pytest.mark.parametrize("end", ENDS)
def test_ends_of_more_families_are_no_part_of_the_answer(end: str) -> None:
    for name, reply in (
        ("hermes", "Answer: Rabat"),
        ("llama3", "Rabat"),
        ("react", "Answer: Rabat"),
    ):
        action = get_format(name).parse(reply + end, TOOLS)
        assert (action.answer, action.problems) == ("Rabat", ())


@pytest.mark.parametrize("answer", ["the array a[EOS] ends it", "[/INST] closes a turn"])
def test_words_in_brackets_within_an_answer_stay(answer: str) -> None:
    for name in ("hermes", "llama3", "react"):
        assert get_format(name).parse(f"Answer: {answer}", TOOLS).answer == answer


@pytest.mark.parametrize(
    "text",
    [
        "Answer: 3\nFinal Answer: 7",
        "Final answer: 7",
        "Answer: 3\n**Final Answer:** 7",
        "x\nFINAL ANSWER: 7",
    ],
)
@pytest.mark.parametrize("name", ["hermes", "llama3", "react"])
def test_a_final_answer_is_an_answer(name: str, text: str) -> None:
    assert get_format(name).parse(text, TOOLS).answer == "7"


@pytest.mark.parametrize("argument", ["a ] b", "(x] and y", "list[0] ] z", "a ]b"])
def test_react_does_not_cut_an_argument_at_a_bracket(argument: str) -> None:
    action = get_format("react").parse(f"Action: f[{argument}]", TOOLS)
    assert not action.calls
    assert [problem.kind for problem in action.problems] == ["bad_call"]
    quoted = get_format("react").parse(f'Action: f["{argument}"]', TOOLS)
    assert [call.arguments for call in quoted.calls] == [{"a": argument}]


@pytest.mark.parametrize(
    "text", ["f[a]]", "f[a] ]", "f[a] g[b]", "f[a] to see [1]", "f[a]\nnote 3]"]
)
def test_react_reads_what_closes(text: str) -> None:
    action = get_format("react").parse(f"Action: {text}", TOOLS)
    assert action.calls[0].arguments == {"a": "a"}


@pytest.mark.parametrize(("mantissa", "exponent"), [("6.02", "23"), ("1", "-5"), ("9", "10")])
def test_a_power_of_ten_is_not_joined_to_its_number(mantissa: str, exponent: str) -> None:
    shown = plain_text(f"It is {mantissa}{{{{e|{exponent}}}}} kg.")
    assert shown == f"It is {mantissa}×10^{exponent} kg."

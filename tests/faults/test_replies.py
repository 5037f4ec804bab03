"""What a reply says: calls, answers, reasoning and cuts, by input and by what is right.

The files of this folder take nothing but what users may: they say what must hold, not how.
"""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import Toolset, get_format, rollout, tool

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


ESCAPED = ["\\frac{1}{2}", "\\theta", "$a \\times b$", "\\nabla f", "\\right)", "C:\\new\\temp"]
INNER = [
    *("</tool_call>", "<tool_call>", "]", "[x", "</f>", "<answer>x</answer>", "a\nAnswer: x"),
    *('; {"name": "f", "parameters": {}}', "<|im_end|>", "<think>", "</think>", "```", 'x"]', "}}"),
    *("\nAction: f[y]", "\nResponse from tool f: x", "<|python_tag|>", "</s>", "[THINK]", "it's"),
]


def read(name: str, text: str) -> tuple[list[Any], str | None, list[str]]:
    """Arguments of the calls, the answer, and the kinds of the problems."""
    action = get_format(name).parse(text, TOOLS)
    kinds = [problem.kind for problem in action.problems]
    return [call.arguments for call in action.calls], action.answer, kinds


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e309", "[[1e999]]", '{"b": Infinity}'])
def test_what_is_no_number_is_no_call(name: str, number: str) -> None:
    assert read(name, CALLS[name] % f'{{"a": {number}}}') == ([], None, ["bad_json"])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("text", INNER)
def test_a_delimiter_in_a_string_is_text(name: str, text: str) -> None:
    arguments = json.dumps({"a": text, "b": [text]})
    assert read(name, CALLS[name] % arguments) == ([{"a": text, "b": [text]}], None, [])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("text", ESCAPED)
def test_latex_is_read_as_such(name: str, text: str) -> None:
    calls, _, kinds = read(name, CALLS[name] % f'{{"a": "{text}"}}')
    assert (calls, set(kinds)) == ([{"a": text}], {"repaired_json"})


@pytest.mark.parametrize("given", ["null", '""', "[]", "{}", '"{}"', "[{}]"])
@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_no_arguments_are_no_arguments(name: str, given: str) -> None:
    assert read(name, CALLS[name] % given)[:2] == ([{}], None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 3\nAnswer: 7", "7"),
        ("Answer:\nAnswer: 7", "7"),
        ("<think>Answer: 3</think>Answer: 7", "7"),
        ("[THINK]Answer: 3[/THINK]\nAnswer: 7", "7"),
        ("Answer: 3</think>\nAnswer: 7", "7"),
        ("◁think▷Answer: 3◁/think▷Answer: 7", "7"),
        ("<think>\nAnswer: 7", None),
        ("<thinking>Answer: 7\n", None),
        ("Answer: 7<|im_end|>\nAnswer: 8", "7"),
        ("Answer: 7<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnswer: 8", "7"),
        ("Answer：北京", "北京"),
        ("Answer : Paris", "Paris"),
        ("### Final Answer: 7", "7"),
        ("> Answer: 7", "7"),
        ("```\nAnswer: 7\n```", "7"),
        ("**Answer:** 7\n\nI hope that this helps.", "7"),
        ("Answer: 7\nThought: it is odd", "7"),
        ("Answer: 7\nRationale: as the tool says", "7"),
    ],
)
@pytest.mark.parametrize("name", ["hermes", "llama3", "react"])
def test_the_answer_is_the_last_one_outside_of_reasoning(
    name: str, text: str, answer: str | None
) -> None:
    assert read(name, text)[:2] == ([], answer)


ATTEMPTS = [
    *('{"action": "f", "action_input": "x"}', '{"tool_name": "f", "tool_input": {"a": "x"}}'),
    *('{"recipient_name": "functions.f", "parameters": {"a": "x"}}', '[f(a="x")]', "f[x]"),
    *("<start_function_call>call:f{a:x}<end_function_call>", "[TOOL_CALLS]f[ARGS]{}"),
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "x"}<|call|>',
    *("Action 1: f[x]", "Action：f[x]", "- Action: f[x]", '<invoke name="f"></invoke>'),
]


@pytest.mark.parametrize("text", ATTEMPTS)
@pytest.mark.parametrize("name", ["hermes", "llama3", "tags"])
def test_a_call_in_the_manner_of_others_is_never_the_answer(name: str, text: str) -> None:
    assert read(name, text) == ([], None, ["no_call"])


def test_a_call_beside_an_answer_is_told_in_react() -> None:
    call = '{"name": "f", "parameters": {"a": "x"}}'
    assert read("react", f"I call f.\n{call}\nAnswer: y") == ([], "y", ["no_call"])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("{'name': 'f', 'parameters': {'a': 1}}; {'name': 'f', 'parameters': {'a': 2}}", [1, 2]),
        ("{'name': 'f', 'parameters': {'a': None}}\n{'name': 'f', 'parameters': {}}", [None, 0]),
        ("[{'name': 'f', 'parameters': {'a': 1}}, {'name': 'f', 'parameters': {'a': 2}}]", [1, 2]),
        ('{"name": "f", "parameters": {"a": 1}} and {"name": "f", "parameters": {"a": 2}}', [1, 2]),
        ('{"name": "f", "parameters": {"a": 1}; {"name": "f", "parameters": {"a": 2}}', [1, 2]),
    ],
)
def test_every_call_of_llama3_is_made(text: str, calls: list[Any]) -> None:
    assert [found.get("a", 0) for found in read("llama3", text)[0]] == calls


def test_a_semicolon_between_arguments_drops_none() -> None:
    text = '{"name": "f", "parameters": {"a": "x"; "b": "y"}}'
    assert read("llama3", text) == ([], None, ["bad_json"])


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_bounded(name: str) -> None:
    one = CALLS[name] % '{"a": 1}'
    calls, _, kinds = read(name, "\n".join([one] * 200))
    assert (len(calls), kinds) == (64, ["too_many_calls"])


def played(reply: Any) -> tuple[list[Any], str | None, list[str], list[str]]:
    """A first turn of this reply: calls, answer, problems, and kinds of the failures."""
    replies = iter([reply])
    run = rollout(
        "ToolQA-GSM8K-v0",
        lambda messages, tools: next(replies, "Answer: 0"),
        episodes=1,
        env_args={"format": "hermes"},
    )
    failures = [row["kind"] for row in run.failures()]
    for trajectory in run:
        step = trajectory.steps[0]
        problems = [problem.kind for problem in step.problems]
        return [call.arguments for call in step.calls], step.answer, problems, failures
    return [], None, [], failures


def native(arguments: Any) -> dict[str, Any]:
    function = {"name": "Calculator", "arguments": arguments}
    call = {"id": "x1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


ONE = {"expression": "1+1"}


@pytest.mark.parametrize(
    ("arguments", "read_as"),
    [
        (ONE, [ONE]),
        (json.dumps(ONE), [ONE]),
        (json.dumps(json.dumps(ONE)), [ONE]),
        ([ONE], [ONE]),
        (f"```json\n{json.dumps(ONE)}\n```", [ONE]),
        ("{'expression': '1+1'}", [ONE]),
        ('{"expression": "1+1"', [ONE]),
        ("", [{}]),
        (None, [{}]),
        ('{"expression": NaN}', []),
        ({"expression": float("inf")}, []),
        ("[" * 10_000, []),
        ("1+1", []),
    ],
)
def test_native_arguments(arguments: Any, read_as: list[Any]) -> None:
    calls, answer, problems, failures = played(native(arguments))
    assert (calls, answer, failures) == (read_as, None, [])
    assert bool(problems) or bool(calls)


def test_messages_of_every_client() -> None:
    call = {"name": "Calculator", "args": ONE, "id": "7", "type": "tool_call"}
    function = SimpleNamespace(name="Calculator", arguments=json.dumps(ONE))
    openai = SimpleNamespace(id="9", type="function", function=function)
    use = {"type": "tool_use", "id": "t1", "name": "Calculator", "input": ONE}
    for message in (
        SimpleNamespace(content="", tool_calls=[call], response_metadata={}),
        SimpleNamespace(role="assistant", content=None, tool_calls=[openai]),
        {"role": "assistant", "content": [{"type": "text", "text": "So:"}, use]},
    ):
        assert played(message) == ([ONE], None, [], [])


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "content_filter"])
def test_a_cut_reply_is_no_answer(reason: str) -> None:
    message = {"role": "assistant", "content": "Answer: 5"}
    completion = {"choices": [{"finish_reason": reason, "message": message}]}
    assert played(completion) == ([], None, ["cut_reply"], [])


def adds(x: int, y: int = 2) -> int:
    """Add.

    Args:
        x: one.
        y: the other.
    """
    return x + y


async def waits(x: int) -> int:
    """Add one.

    Args:
        x: it.
    """
    return x + 1


def leaves() -> str:
    """End the program."""
    raise SystemExit(3)


def test_functions_of_every_kind_are_tools() -> None:
    from toolgym import ToolCall

    made = [tool(functools.partial(adds, y=3)), tool(waits), tool(leaves)]
    calls = [ToolCall(f"c{n}", item.name, {"x": 1} if n < 2 else {}) for n, item in enumerate(made)]
    results = Toolset(made).execute(calls)
    assert [(result.content, result.error) for result in results[:2]] == [("4", None), ("2", None)]
    assert results[2].error == "bug"


@pytest.mark.parametrize("name", ["a b", "f[x]", "x<y", "a\nb", 'a"b', "x" * 65])
def test_a_name_that_no_format_can_write_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="tool name"):
        tool(adds, name=name)


@pytest.mark.parametrize("name", ["self", "cls", "name", "args", "model_config", "schema", "json"])
def test_any_name_is_free_for_a_parameter(name: str) -> None:
    from toolgym import ToolCall

    lines = [f"def f({name}: int) -> int:", '    """F.', "", "    Args:", f"        {name}: it."]
    scope: dict[str, Any] = {}
    exec("\n".join([*lines, '    """', f"    return {name}"]), scope)
    (result,) = Toolset([tool(scope["f"])]).execute([ToolCall("c", "f", {name: 5})])
    assert (result.content, result.error) == ("5", None)

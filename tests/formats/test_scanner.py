"""The scanner under all formats: what is written is read back, a delimiter in a string is text."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.formats import Action, Format, get_format, json_calls
from toolgym.formats import hermes as hermes_module
from toolgym.formats import react as react_module
from toolgym.formats import tags as tags_module
from toolgym.formats.base import MAX_CALLS
from toolgym.formats.calls import native_call
from toolgym.messages import ToolCall


def document(name: str, *required: str) -> dict[str, Any]:
    properties = {key: {"type": "string"} for key in required}
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {
        "type": "function",
        "function": {"name": name, "description": "Does it.", "parameters": parameters},
    }


TOOLS = [
    *(document("Calculator", "expression"), document("WikipediaSearch", "query")),
    *(document("now"), document("my tool", "x"), document("a/b", "x"), document("math.add", "x")),
    *(document("answer", "x"), document("search", "q")),
]
FIRST = {
    tool["function"]["name"]: next(iter(tool["function"]["parameters"]["properties"]), "input")
    for tool in TOOLS
}
FORMATS = ("react", "tags", "hermes", "llama3")
PIECES = (
    *("<think>", "</think>", "[THINK]", "[/THINK]", "◁think▷", "<tool_call>", "</tool_call>"),
    *("Action:", "\nAction:", "\nAnswer:", "Answer: 5", "\nResponse from tool x", "\nRationale:"),
    *("<search>", "</search>", "<answer>", "</answer>", "<information>", "</information>"),
    *("</my tool>", "</a/b>", "</now>", "<call-answer>", "</call-answer>", "<|python_tag|>"),
    *("<|eot_id|>", "<|im_end|>", "</s>", "<|im_start|>assistant", "```", "`", '"', "'", "\\"),
    *("[", "]", "{", "}", "; ", "\n", "\t", "\r", "\x00", "\x08", "\x0b", "\x0c", "\x85", "\u2028"),
    *(
        "العربية",
        "😀",
        "\ud800",
        "\\frac{1}{2}",
        "\\times",
        "\x0crac{",
        "\x09imes",
        "\ne",
        "\x08ar",
    ),
    *(
        '{"name": "f"',
        '{"name": "f", "parameters": {}}',
        "Calculator[1]",
        "null",
        "True",
        "\\u0041",
    ),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=9).map("".join)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def made_calls(draw: st.DrawFn) -> tuple[ToolCall, ...]:
    calls = []
    for number in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(FIRST)))
        arguments = draw(
            st.fixed_dictionaries({FIRST[name]: TEXTS})
            | st.dictionaries(TEXTS | st.sampled_from(["query", "k"]), VALUES, max_size=3)
        )
        calls.append(ToolCall(f"call_{number}", name, arguments))
    return tuple(calls)


@pytest.mark.parametrize("name", FORMATS)
@given(made_calls(), st.sampled_from(["", "I think so.", "Let me see: 1 + 1\nand more"]))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(name: str, calls: tuple[ToolCall, ...], thought: str) -> None:
    codec, action = get_format(name), Action(thought, calls)
    assert codec.parse(codec.write(action, TOOLS), TOOLS) == action


REPLIES = st.lists(
    st.sampled_from(
        (
            *PIECES,
            *("Thought:", "Thought: x\n", "Answer:", "**Answer:** 5", "ANSWER: x", "5\n", "}; {"),
            *('{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "parameters": {"a": "b"}}'),
            *("\n</tool_call>", "<tool_call>\n", "Action: Calculator[", '"arguments": ', '"name"'),
            *("{'name': 'f', 'parameters': {'a': True}}", "WikipediaSearch['a']", "Calculator("),
        )
    )
    | st.text(max_size=4),
    max_size=9,
).map("".join)


SHORTCUTS = pytest.mark.parametrize(
    ("name", "module", "shortcut"),
    [
        ("react", react_module, "_simple"),
        ("hermes", hermes_module, "_common"),
        ("llama3", json_calls, "_common"),
        ("tags", tags_module, "_simple"),
    ],
)


@SHORTCUTS
@pytest.mark.parametrize("prompt", ["tools_multi_step", "no_tool", "no_tool_cot"])
@given(text=REPLIES)
@settings(max_examples=100, deadline=None)
def test_any_reply_leads_on_and_the_shortcut_reads_as_the_scanner(
    name: str, module: Any, shortcut: str, prompt: str, text: str
) -> None:
    codec = get_format(name, prompt)
    action = codec.parse(text, TOOLS)
    assert not (action.calls and action.answer is not None)
    assert action.calls or action.answer is not None or action.problems
    json.dumps([call.arguments for call in action.calls], allow_nan=False)
    assert action == by_the_scanner(codec, module, shortcut, text)
    cut = codec.parse(text, TOOLS, cut=True)
    assert cut.answer is None
    assert "cut_reply" in [problem.kind for problem in cut.problems]


def by_the_scanner(codec: Format, module: Any, shortcut: str, text: str) -> Action:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, shortcut, lambda *_: None)
        return codec.parse(text, TOOLS)


WORDS = st.sampled_from(
    (
        *("Lake Ortmund", "12*34+5", "the answer is", "So the answer is 5", "Answer", "Hence"),
        *("FINAL ANSWER", "Action", "The Beatles", "[THINK]", "}; {", "</tool_call>", "</search>"),
        *(
            "null",
            "\u0130",
            "\u017fo the answer is 7",
            "\x85",
            "\x1c",
            " ",
            "\n",
            "\n\n",
            "\\",
            '"',
        ),
        *(":", "(", "-"),
    )
)
LINES = st.lists(WORDS | st.text(max_size=3), max_size=4).map("".join)


@SHORTCUTS
@given(
    thought=st.just("") | LINES,
    said=LINES,
    call=st.sampled_from([*sorted(FIRST), "search", "answer", "think", ""]),
    more=st.dictionaries(LINES, VALUES, max_size=1),
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3), WORDS), max_size=2),
)
@settings(max_examples=200, deadline=None)
def test_the_shortcut_reads_what_is_written_and_what_is_nearly_so_as_the_scanner(
    name: str,
    module: Any,
    shortcut: str,
    thought: str,
    said: str,
    call: str,
    more: dict[str, Any],
    edits: list[tuple[int, int, str]],
) -> None:
    codec = get_format(name)
    made = ToolCall("call_0", call, {FIRST.get(call, "input"): said} | more)
    text = codec.write(Action(thought, (made,) if call else (), None if call else said), TOOLS)
    for place, length, words in edits:
        place %= len(text) + 1
        text = text[:place] + words + text[place + length :]
    assert codec.parse(text, TOOLS) == by_the_scanner(codec, module, shortcut, text)


@SHORTCUTS
@pytest.mark.parametrize("thought", ["", "I need to look this up, first."])
def test_the_common_replies_take_the_shortcut(
    name: str, module: Any, shortcut: str, thought: str
) -> None:
    codec, quick = get_format(name), getattr(module, shortcut)
    arguments = (TOOLS,) if shortcut == "_simple" else ()
    call = ToolCall("call_0", "WikipediaSearch", {"query": "Troyes (France), 12*34+5"})
    for action in (Action(thought, (call,)), Action(thought, (), "Troyes, 1 200 km")):
        assert quick(codec.write(action, TOOLS), *arguments) == action


def read(name: str, text: str, prompt: str = "tools_multi_step") -> tuple[Any, str | None, Any]:
    action = get_format(name, prompt).parse(text, TOOLS)
    made = [(call.name, call.arguments) for call in action.calls]
    return made, action.answer, [problem.kind for problem in action.problems]


REASONED = [
    "<think>Thought: hm\nAnswer: Casablanca</think>\nAnswer: Rabat",
    "Answer: Casablanca\n</think>\nAnswer: Rabat",
    "<think>Action: Calculator[1+1]\n</think>Answer: Rabat",
    '<think>{"name": "f", "parameters": {}} <tool_call>\n</think>\n\nAnswer: Rabat',
    "[THINK]Answer: Casablanca[/THINK]Answer: Rabat",
    "◁think▷Answer: Casablanca◁/think▷Answer: Rabat",
    "<thinking>\nAnswer: Casablanca\n</thinking>\nAnswer: Rabat",
    "<|START_THINKING|>Answer: Casablanca<|END_THINKING|>Answer: Rabat",
    "<|channel|>analysis<|message|>Answer: Casablanca<|end|><|start|>assistant"
    "<|channel|>final<|message|>Answer: Rabat<|return|>",
    "Answer: Casablanca <think>no\nAnswer: Fez</think>\nAnswer: Rabat",
    "<think>a</think>Answer: Fez</think>Answer: Rabat",
]


@pytest.mark.parametrize("name", ["react", "hermes", "llama3"])
class TestReplies:
    @pytest.mark.parametrize("text", REASONED)
    def test_reasoning_is_no_answer_and_no_call(self, name: str, text: str) -> None:
        assert read(name, text) == ([], "Rabat", [])

    @pytest.mark.parametrize(
        "text",
        [
            "<think>I guess\nAnswer: Paris",
            "Sure. <think>hm\nAnswer: Paris",
            "<think>a</think>\n<thinking>\nAnswer: Paris",
            "<|channel|>analysis<|message|>Answer: Paris",
        ],
    )
    def test_what_never_leaves_its_reasoning_is_no_answer(self, name: str, text: str) -> None:
        assert read(name, text) == ([], None, ["unfinished_reasoning"])

    def test_an_answer_may_speak_of_a_marker(self, name: str) -> None:
        assert read(name, "Answer: the <think> tag")[1] == "the <think> tag"
        assert read(name, "Answer: `</think>` ends it")[1] == "`</think>` ends it"
        assert read(name, "Answer: use <s>this</s> tag")[1] == "use <s>this</s> tag"

    @pytest.mark.parametrize(
        "text",
        [
            *("Answer: Rabat<|im_end|>", "Answer: Rabat</s>", "Answer: Rabat<|eot_id|>\n"),
            *("Answer: Rabat<end_of_turn>\n<eos>", "Answer: Rabat<｜end▁of▁sentence｜>"),
            "<|im_start|>assistant\nAnswer: Rabat<|im_end|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\nAnswer: Rabat<|eot_id|>",
        ],
    )
    def test_tokens_of_a_turn_are_no_part_of_the_answer(self, name: str, text: str) -> None:
        assert read(name, text) == ([], "Rabat", [])

    def test_what_follows_the_end_of_the_turn_is_not_read(self, name: str) -> None:
        text = "Answer: Rabat<|im_end|>\n<|im_start|>user\nSure?\nAnswer: Fez"
        assert read(name, text) == ([], "Rabat", ["text_after_end"])

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            ("Answer: 5\nWait, that is wrong.\nAnswer: 7", "7"),
            ("Answer:\n\nAnswer: 7", "7"),
            ("**Answer:** 5\n\n**Answer:** 7", "7"),
            ("Answer: 7\nAnswer:", "7"),
        ],
    )
    def test_the_last_answer_counts(self, name: str, text: str, answer: str) -> None:
        assert read(name, text)[1] == answer

    @pytest.mark.parametrize(
        "text",
        [
            "[TOOL_CALLS]Calculator{}",
            "<function=Calculator>1+1</function>",
            'Calculator(expression="1+1")',
            '[Calculator(expression="1+1")]',
            "<search>Rabat</search>",
            "<Calculator>1+1</Calculator>",
            "Calculator[1+1]",
        ],
    )
    def test_a_call_in_the_manner_of_another_format_is_no_answer(
        self, name: str, text: str
    ) -> None:
        for prompt in ("tools_multi_step", "no_tool"):
            assert read(name, text, prompt) == ([], None, ["no_call"])


JSON_CALLS = {
    "hermes": ("<tool_call>\n%s\n</tool_call>", "arguments"),
    "llama3": ("%s", "parameters"),
}


@pytest.mark.parametrize("name", JSON_CALLS)
class TestJsonCalls:
    @pytest.mark.parametrize(
        ("body", "wanted"),
        [
            ('{"name": "now", "arguments": null}', {}),
            ('{"name": "now", "arguments": ""}', {}),
            ('{"name": "now", "arguments": []}', {}),
            ('{"name": "now"}', {}),
            ('[{"name": "now", "arguments": {"a": 1}}]', {"a": 1}),
            ('{"name": "now", "arguments": [{"a": 1}]}', {"a": 1}),
            ('{"type": "function", "function": {"name": "now", "arguments": {"a": 1}}}', {"a": 1}),
            ('{"type": "function", "function": "now", "parameters": {"a": 1}}', {"a": 1}),
            (
                '{"tool_calls": [{"id": "x", "type": "function", "function": '
                '{"name": "now", "arguments": "{\\"a\\": 1}"}}]}',
                {"a": 1},
            ),
            ('{"name": "now", "arguments": "{\\"a\\": \\"</think>\\"}"}', {"a": "</think>"}),
            ('{"name": "now", "arguments": "\\"{\\\\\\"a\\\\\\": 1}\\""}', {"a": 1}),
            (
                "{'name': 'now', 'arguments': {'a': 'it\\'s </tool_call> {'}}",
                {"a": "it's </tool_call> {"},
            ),
            ('```json\n{"name": "now", "arguments": {"a": 1}}\n```', {"a": 1}),
            ('{"name": "now", "arguments": {"a": 1}, "parameters": {}}', {"a": 1}),
        ],
    )
    def test_a_call_of_one_reading_is_made(
        self, name: str, body: str, wanted: dict[str, Any]
    ) -> None:
        made, answer, problems = read(name, JSON_CALLS[name][0] % body)
        assert (made, answer) == ([("now", wanted)], None)
        assert set(problems) <= {"repaired_json"}

    @pytest.mark.parametrize(
        ("body", "kind", "said"),
        [
            ('{"name": "now", "arguments": {"k": NaN}}', "bad_json", "NaN is not a JSON number"),
            ('{"name": "now", "arguments": {"k": -Infinity}}', "bad_json", "-Infinity is not"),
            ('{"name": "now", "arguments": {"k": 1e999}}', "bad_json", "1e999 is too large"),
            ('{"name": "now", "arguments": "{\\"k\\": NaN}"}', "bad_json", "NaN"),
            ("{'name': 'now', 'arguments': {'k': Infinity}}", "bad_json", "Infinity is not"),
            ('{"name": "now", "arguments": {"k": "\\x41"}}', "bad_json", "backslash"),
            ('{"name": "", "arguments": {}}', "bad_call", "needs a 'name'"),
            ('{"name": "now", "k": 1}', "bad_call", "'k' beside its name"),
            (
                '{"name": "now", "arguments": {"a": 1}, "parameters": {"a": 2}}',
                "bad_call",
                "differ",
            ),
            ('{"name": "now", "arguments": [1]}', "bad_call", "must be an object"),
        ],
    )
    def test_any_other_is_refused_with_what_is_true(
        self, name: str, body: str, kind: str, said: str
    ) -> None:
        action = get_format(name).parse(JSON_CALLS[name][0] % body, TOOLS)
        assert (action.calls, action.answer) == ((), None)
        assert [problem.kind for problem in action.problems] == [kind]
        assert said in action.problems[0].message

    def test_a_broken_call_does_not_hide_the_next(self, name: str) -> None:
        broken = JSON_CALLS[name][0] % '{"name": "f", "arguments": {"a": oops}}'
        whole = JSON_CALLS[name][0] % '{"name": "g", "arguments": {"b": 1}}'
        assert read(name, f"{broken}; {whole}") == ([("g", {"b": 1})], None, ["bad_json"])
        assert read(name, f"{whole} and then {whole}")[0] == [("g", {"b": 1})] * 2

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            (r"\frac{1}{2}", r"\frac{1}{2}"),
            (r"2 \times 3", r"2 \times 3"),
            (r"\binom{5}{2}", r"\binom{5}{2}"),
            (r"\left(1+1\right)", r"\left(1+1\right)"),
            (r"\sqrt{4}", r"\sqrt{4}"),
            (r"\tan(0) \neq \theta", r"\tan(0) \neq \theta"),
            (r"\pi \to \infty", r"\pi \to \infty"),
            (r"\nabla \rho", r"\nabla \rho"),
            (r"\underline{x}", r"\underline{x}"),
            (r"\d+\.\d", r"\d+\.\d"),
            (r"\\frac{1}{2}", r"\frac{1}{2}"),
            (r"a\nb\tc", "a\nb\tc"),
            (r"pane\ne vino", "pane\ne vino"),
            (r"\u00e9\/", "é/"),
        ],
    )
    def test_latex_is_read_as_such(self, name: str, written: str, meant: str) -> None:
        frame, key = JSON_CALLS[name]
        made, _, problems = read(name, frame % f'{{"name": "f", "{key}": {{"x": "{written}"}}}}')
        assert made == [("f", {"x": meant})]
        assert problems == (["repaired_json"] if "\\" in meant and "\\\\" not in written else [])

    def test_what_may_be_latex_is_named(self, name: str) -> None:
        frame, key = JSON_CALLS[name]
        text = frame % f'{{"name": "f", "{key}": {{"x": "5 \\ne 3"}}}}'
        action = get_format(name).parse(text)
        assert action.calls[0].arguments == {"x": "5 \ne 3"}
        assert [problem.kind for problem in action.problems] == ["unclear_escape"]
        assert "backslash" in action.problems[0].message


@pytest.mark.parametrize(
    ("text", "made", "kinds"),
    [
        ("{'name': 'f', 'parameters': {'a': 1}}; {'name': 'g', 'parameters': {'b': None}}", 2, 3),
        ("[{'name': 'f', 'parameters': {'a': 1}}, {'name': 'g', 'parameters': {'b': 2}}]", 2, 1),
        ('{"name": "f", "parameters": {"a": 1}; {"name": "g", "parameters": {}}', 2, 1),
        ('<|python_tag|>{"name": "f"}; <|python_tag|>{"name": "g"}', 2, 0),
        ('{"name": "f"}<|eom_id|>{"name": "g"}', 2, 0),
        (
            '{"name": "f"}<|eom_id|><|start_header_id|>assistant<|end_header_id|>\n{"name": "g"}',
            2,
            0,
        ),
        ('{"name": "f", "parameters": {"name": {"type": oops}}}', 0, 1),
        ('{"name": "f", "parameters": {}}\nAnswer: 3', 1, 1),
    ],
)
def test_llama3_loses_no_call(text: str, made: int, kinds: int) -> None:
    action = get_format("llama3").parse(text)
    assert (len(action.calls), len(action.problems)) == (made, kinds)
    assert action.answer is None


def test_an_object_that_is_no_call_is_text() -> None:
    call = '{"id": "x1", "type": "function", "function": {"name": "now", "arguments": "{}"}}'
    assert read("llama3", call)[0] == [("now", {})]
    assert read("hermes", call) == ([], None, ["no_call"])
    for name in ("hermes", "llama3"):
        assert read(name, '{"id": 5, "title": "x"}') == ([], '{"id": 5, "title": "x"}', [])
        assert read(name, '{"answer": "Paris"}')[1] == '{"answer": "Paris"}'


def test_hermes_tags() -> None:
    call = '{"name": "Calculator", "arguments": {"expression": "1+1"}}'
    wanted = ("Calculator", {"expression": "1+1"})
    assert read("hermes", f"<tool_call>\n<tool_call>\n{call}\n</tool_call>")[0] == [wanted]
    assert read("hermes", f"<tool_call>{call}<tool_call>{call}") == ([wanted] * 2, None, [])
    assert read("hermes", f"<tool_call>{call} so</tool_call>") == (
        [wanted],
        None,
        ["repaired_json"],
    )
    assert read("hermes", f"<tool_call>{call}</tool_call>\nAnswer: 2") == (
        *([wanted], None),
        ["answer_with_call"],
    )
    assert read("hermes", call) == ([], None, ["no_call"])
    assert read("hermes", f"<tool_call>{call}</tool_call>", "no_tool") == (
        *([], None),
        ["call_not_offered"],
    )


@pytest.mark.parametrize(
    ("action", "calls", "kinds"),
    [
        ("WikipediaSearch[a poem\nAnswer: to everything]", ["a poem\nAnswer: to everything"], []),
        ("WikipediaSearch[a\nResponse from tool b]", ["a\nResponse from tool b"], []),
        ("WikipediaSearch['a ] b']", ["a ] b"], []),
        ("WikipediaSearch['90s music]", ["'90s music"], []),
        ('WikipediaSearch[who wrote "a ] b"]', ['who wrote "a ] b"'], []),
        ('WikipediaSearch[5" pipe] WikipediaSearch[6" pipe]', ['5" pipe', '6" pipe'], []),
        ("WikipediaSearch[a </think> b]", ["a </think> b"], []),
        ("WikipediaSearch[a]\nThought: b\nAction: WikipediaSearch[b]", ["a", "b"], []),
        ("WikipediaSearch[a] <think>x</think> WikipediaSearch[b]", ["a", "b"], []),
        ('WikipediaSearch[{"query": "a"]', ["a"], ["repaired_json"]),
        ("WikipediaSearch[{'query': 'a'}]", ["a"], ["repaired_json"]),
        ('WikipediaSearch["{\\"query\\": \\"a\\"}"]', ["a"], ["repaired_json"]),
        ('WikipediaSearch[{"query": NaN}]', [], ["bad_json"]),
        ("WikipediaSearch[a\nAnswer: 5", [], ["unclosed_call", "answer_with_call"]),
        ("WikipediaSearch[a\nAction: WikipediaSearch[b[0]]", ["b[0]"], ["unclosed_call"]),
    ],
)
def test_react_calls(action: str, calls: list[str], kinds: list[str]) -> None:
    wanted = [("WikipediaSearch", {"query": query}) for query in calls]
    assert read("react", f"Thought: x\nAction: {action}") == (wanted, None, kinds)


def test_calls_without_arguments_and_of_odd_names() -> None:
    assert read("react", "Action: now[] my tool[1] use a/b[2]")[0] == [
        *(("now", {}), ("my tool", {"x": "1"}), ("a/b", {"x": "2"}))
    ]
    assert read("tags", "<now></now><my tool>1</my tool>")[0] == [
        ("now", {}),
        ("my tool", {"x": "1"}),
    ]
    assert read("tags", "<search>x</search>")[0] == [("search", {"q": "x"})]
    assert read("tags", "<call-answer>x</call-answer>")[0] == [("answer", {"x": "x"})]


def test_tags_know_json_reasoning_and_transcripts() -> None:
    quoted = '<WikipediaSearch>{"query": "a</WikipediaSearch>b"}</WikipediaSearch>'
    assert read("tags", quoted)[0] == [("WikipediaSearch", {"query": "a</WikipediaSearch>b"})]
    assert read("tags", "<now>{'a': NaN}</now>") == ([], None, ["bad_json"])
    assert read("tags", "<think><answer>a</answer></think><answer>b</answer>") == ([], "b", [])
    assert read("tags", "<think>so <answer>a</answer>") == ([], None, ["unfinished_reasoning"])
    text = "<think>so <now></now><information>x</information><answer>a</answer>"
    assert read("tags", text) == ([], "a", ["wrote_result"])
    assert read("tags", "<answer>a<|im_end|></answer>") == ([], "a", [])


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("react", "Calculator[1]"),
        ("tags", "<calculator>1</calculator>"),
        ("hermes", '<tool_call>{"name": "Calculator"}</tool_call>'),
        ("llama3", '{"name": "Calculator", "parameters": {}}; '),
    ],
)
@pytest.mark.parametrize("count", [MAX_CALLS, MAX_CALLS + 1, 5_000])
def test_calls_of_a_turn_are_bounded(name: str, call: str, count: int) -> None:
    text = ("Action: " if name == "react" else "") + call * count
    action = get_format(name).parse(text, TOOLS)
    assert len(action.calls) == MAX_CALLS
    more = count > MAX_CALLS
    assert [problem.kind for problem in action.problems] == ["too_many_calls"] * more
    assert not more or "call 65 (Calculator) and those behind it" in action.problems[0].message


@pytest.mark.parametrize(
    ("given", "arguments", "kinds"),
    [
        ({"a": 1}, {"a": 1}, []),
        (None, {}, []),
        ("", {}, []),
        ("null", {}, []),
        ('{"a": 1}', {"a": 1}, []),
        ('"{\\"a\\": 1}"', {"a": 1}, ["repaired_json"]),
        ('{"a": 1', {"a": 1}, ["repaired_json"]),
        ("{'a': True}", {"a": True}, ["repaired_json"] * 2),
        (r'{"a": "\frac{1}{2}"}', {"a": r"\frac{1}{2}"}, ["repaired_json"]),
        ('{"a": NaN}', None, ["bad_json"]),
        ("{a: one plus one}", None, ["bad_json"]),
        ([1], None, ["bad_call"]),
    ],
)
@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_native_calls_are_read_as_those_in_text(
    name: str, given: Any, arguments: dict[str, Any] | None, kinds: list[str]
) -> None:
    codec = get_format(name)
    action = codec.parse(codec.write(Action("", (native_call("f", given, 0),)), TOOLS), TOOLS)
    assert [problem.kind for problem in action.problems] == kinds
    assert [call.arguments for call in action.calls] == ([] if arguments is None else [arguments])


@pytest.mark.parametrize("name", [*FORMATS, "react-paper"])
@pytest.mark.parametrize(
    "begin",
    [
        *("", "Action: ", "Action: A[", "<tool_call>", "<search>{'q': '", 'Action: A[{"x": 1}}'),
        *('<tool_call>{"name": "f"}}', '{"name": "f"}}', "<search>{'q': 1}}", "Calculator", "```"),
    ],
)
def test_hostile_repetition_is_read_in_linear_time(name: str, begin: str) -> None:
    codec = get_format(name)
    units = (
        *(
            "[",
            "[]",
            "a[b]",
            "A[",
            'A[{"a":"',
            "<think>",
            "</think>",
            "</s>",
            "</s>x",
            "<|eot_id|>",
        ),
        *(
            "\nAction:",
            "\nAnswer: x <think>",
            "<search>",
            "<information>",
            "<tool_call>{",
            "''",
            "\\",
        ),
        *(
            "\nAction: A[x ",
            "\nAction: A[",
            " ",
            "\n",
            "\t\n",
            "{} ",
            "}",
            "} ",
            "\x0b",
            "A ",
            "`",
            "```",
            "Thought:",
            "( ",
            "*",
        ),
        *('{"name": ', "{'name': 'f', 'parameters': {}}; ", "{'a':1},", "[/THINK]", '\\"', "\\f"),
    )
    for unit in units:
        # Quadratic reading would take minutes for each.
        action = codec.parse(begin + unit * (300_000 // len(unit)), TOOLS)
        assert action.calls or action.answer is not None or action.problems, unit


@pytest.mark.sources
def test_a_short_run_of_the_fuzz_benchmark() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "formats_fuzz.py"
    spec = importlib.util.spec_from_file_location("formats_fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.fuzz(3_000, seed=1, folder=None)  # raises where a reading leads nowhere
    assert [row["replies"] for row in found.values()] == [600] * 5

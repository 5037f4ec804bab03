"""Grammars: every reply that they allow is read without a problem, with calls that are valid."""

from __future__ import annotations

import random
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolgym.errors import BadInputError
from toolgym.formats import Action, Format, get_format
from toolgym.formats.grammar import MOST_CALLS, narrowed, with_markers
from toolgym.messages import Message, ToolCall
from toolgym.policies import Request
from toolgym.policies.base import cut_at_stop
from toolgym.tools.base import Schema

llguidance = pytest.importorskip("llguidance")
tokenizers = pytest.importorskip("tokenizers")

FORMATS = ("react", "react-paper", "tags", "hermes", "hermes-paper", "llama3")
PROMPTS = ("tools_multi_step", "tools_single_step", "non_reasoning", "reasoning", "bare")
END = "<|end|>"
# What begins something else in one of the formats, each a token of its own.
TEMPTING = (
    *(
        "Answer:",
        "Final Answer:",
        "Action:",
        "Action Input:",
        "Thought:",
        "Rationale:",
        "\nAnswer:",
    ),
    *("<think>", "</think>", "[THINK]", "[EOS]", "[/INST]", "◁think▷", "</s>", "<|im_end|>"),
    *("<tool_call>", "</tool_call>", "<search>", "</search>", "<answer>", "</answer>", "<3d>"),
    *('{"name": ', '"parameters": ', '"type": "function"', "}; {", "[name: ", "{ type: ", "```"),
    *("\\f", "\\to", "\\n", "\\u00", '"', "'", "]", "[", "{", "}", "\n", "\t", "\r\n", " ", "  "),
    *("\u2028", "\x85", "\u00a0", "\u3000", "WikipediaSearch", "Calculator", "now", "(", ">", "*"),
    *("Response from tool ", "e999", "NaN", "functools[", "<function=", "Rationale:", "**", "東京"),
)


def make_tokenizer() -> Any:
    """One token a byte, and one for each tempting text."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_tokens([tokenizers.AddedToken(t, normalized=False, special=False) for t in TEMPTING])
    bpe.add_special_tokens([END])
    return bpe


BPE = make_tokenizer()
END_ID = BPE.token_to_id(END)
TEMPTING_IDS = {BPE.token_to_id(text) for text in TEMPTING} - {None}
READER = llguidance.LLTokenizer(BPE.to_str(), eos_token=END_ID, slices=[])
MARKERS = {t: f"<[{n}]>" for t in TEMPTING if READER.is_special_token(n := BPE.token_to_id(t))}


def tool(name: str, properties: dict[str, Any], required: list[str] | None = None) -> Schema:
    parameters = {"type": "object", "properties": properties}
    parameters["required"] = list(properties) if required is None else required
    return {
        "type": "function",
        "function": {"name": name, "description": "Does it.", "parameters": parameters},
    }


TEXT = {"type": "string"}
PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
BOOK = {
    "city": {"enum": ["Paris", "Zürich", "東京"]},
    "nights": {"type": "integer", "minimum": 1, "maximum": 14},
    "guest": PERSON,
    "tags": {"type": "array", "items": TEXT, "maxItems": 3},
    "price": {"type": "number", "exclusiveMinimum": 0},
    "note": {"anyOf": [TEXT, {"type": "null"}], "default": None},
}
SEARCH = tool("WikipediaSearch", {"query": TEXT})
CALCULATOR = tool("Calculator", {"expression": TEXT})
TOOLS: dict[str, list[Schema]] = {
    "search": [SEARCH],
    "both": [SEARCH, CALCULATOR],
    "without parameters": [
        tool("now", {}),
        {
            "type": "function",
            "function": {"name": "here", "description": "It.", "parameters": {"type": "object"}},
        },
        SEARCH,
    ],
    "rich": [tool("book", BOOK, ["city", "nights", "guest"]), CALCULATOR],
    "optional": [tool("lookup", {"text": TEXT, "k": {"type": "integer", "maximum": 5}}, ["text"])],
    "odd": [
        tool("überprüfe_größe", {"größe": {"type": "number"}}),
        tool("3d", {"q": {"type": "string", "minLength": 3, "maxLength": 7}}),
        tool("one", {"sign": {"type": "string", "maxLength": 1}}),
        tool("free", {"a": {}, "b": {"type": "object"}, "c": {"type": "number"}}),
        tool("mapped", {"c": {"type": "object", "additionalProperties": {"type": "integer"}}}),
        tool("answer", {"x": {"type": ["string", "null"]}}),
        tool("MachineTranslator", {"text": TEXT, "target": {"const": "en"}}, ["text"]),
    ],
    "references": [
        {
            "type": "function",
            "function": {
                "name": "tree",
                "description": "It.",
                "parameters": {
                    "type": "object",
                    "properties": {"root": {"$ref": "#/$defs/Node"}, "title": TEXT},
                    "required": ["root", "title"],
                    "$defs": {
                        "Node": {
                            "type": "object",
                            "properties": {"leaf": {"type": "boolean"}, "weight": TEXT},
                            "required": ["leaf"],
                        }
                    },
                },
            },
        },
        SEARCH,
    ],
}


def compiled(grammar: str | None) -> Any:
    assert grammar is not None
    matcher = llguidance.LLMatcher(READER, with_markers(grammar, MARKERS), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    assert not matcher.get_grammar_warnings()
    return matcher


def walk(grammar: str | None, seed: int, least: int = 0) -> str:
    """A reply of the grammar, drawn from its masks, tempting tokens more often than others."""
    matcher, rng, ids = compiled(grammar), random.Random(seed), list[int]()
    while not matcher.is_stopped():
        bits = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [i for i in range(READER.vocab_size) if bits[i // 8] >> (i % 8) & 1]
        assert allowed, ids
        if END_ID in allowed and len(ids) >= least and (rng.random() < 0.1 or len(allowed) == 1):
            break
        kept = [i for i in allowed if i != END_ID] or [END_ID]
        lures = [i for i in kept if i in TEMPTING_IDS]
        chosen = rng.choice(lures if lures and rng.random() < 0.4 else kept)
        if chosen == END_ID:
            break
        assert matcher.consume_token(chosen)
        ids.append(chosen)
        assert len(ids) < 12_000, "it never ends"
    return str(BPE.decode(ids, skip_special_tokens=False))


def check(codec: Format, tools: list[Schema], text: str) -> Action:
    """Read a reply: no problem, calls of known tools with valid arguments, or an answer."""
    action = codec.parse(text, tools)
    assert not action.problems, (text, action)
    assert bool(action.calls) != bool(action.answer), (text, action)
    schemas = {t["function"]["name"]: t["function"]["parameters"] for t in tools}
    for call in action.calls:
        assert jsonschema_rs.is_valid(schemas[call.name], call.arguments), (text, call)
    return action


def takes(grammar: str | None, text: str) -> bool:
    matcher = compiled(grammar)
    ids = BPE.encode(text, add_special_tokens=False).ids
    return bool(matcher.consume_tokens(ids)) and bool(matcher.is_accepting())


class TestEveryReply:
    @given(
        st.sampled_from(FORMATS),
        st.sampled_from(PROMPTS),
        st.sampled_from(sorted(TOOLS)),
        st.integers(0, 2**32),
        st.sampled_from((0, 8, 60)),
    )
    @settings(max_examples=250, deadline=None)
    def test_is_read_without_a_problem(
        self, name: str, prompt: str, tools: str, seed: int, least: int
    ) -> None:
        codec, offered = get_format(name, prompt), TOOLS[tools]
        text = walk(codec.grammar(offered), seed, least)
        action = check(codec, offered, text)
        assert len(action.calls) <= MOST_CALLS
        # The policy ends at the first stop text.
        request = Request([], offered, codec)
        check(codec, offered, cut_at_stop(text, request))

    @given(st.sampled_from(FORMATS), st.sampled_from(PROMPTS), st.integers(0, 2**32))
    @settings(max_examples=100, deadline=None)
    def test_is_an_answer_where_no_tool_may_be_called(
        self, name: str, prompt: str, seed: int
    ) -> None:
        codec = get_format(name, prompt)
        action = check(codec, TOOLS["both"], walk(codec.grammar(TOOLS["both"], calls=False), seed))
        assert action.answer == (action.answer or "").strip() != ""
        assert "\n" not in (action.answer or "")

    @given(
        st.sampled_from(FORMATS), st.sampled_from(("no_tool", "no_tool_cot")), st.integers(0, 2**32)
    )
    @settings(max_examples=60, deadline=None)
    def test_is_an_answer_where_the_strategy_has_no_tools(
        self, name: str, prompt: str, seed: int
    ) -> None:
        codec = get_format(name, prompt)
        for tools in ([], TOOLS["both"]):
            assert check(codec, tools, walk(codec.grammar(tools), seed)).answer

    @given(st.sampled_from(FORMATS), st.sampled_from(sorted(TOOLS)), st.integers(0, 2**32))
    @example("hermes", "odd", 1520398)  # "<=" within a text of seven characters at most
    @settings(max_examples=60, deadline=None)
    def test_is_a_call_where_no_answer_may_be_given(self, name: str, tools: str, seed: int) -> None:
        codec, offered = get_format(name), TOOLS[tools]
        if name == "react-paper" and tools in ("rich", "references"):
            offered = [*offered, SEARCH]  # nothing else there is called with bare text
        assert check(codec, offered, walk(codec.grammar(offered, answer=False), seed)).calls


# Texts with what begins a mark of some format, and with signs of regular expressions.
WORDS = st.sampled_from(
    (
        *("Jordan", "O'Connor's", "St.", "Petersburg", "(1879–1961)", "東京", "e\u0301tude", "A/B"),
        *("1,000", "Answer:", "[THINK]", "<search>", "</answer>", '{"name":', "}; {", "a\\to", "|"),
        *("*", "?", ".*", "x{2}", "Großglockner,", "\n", "THINK", "/THINK", "“I”", "-3.5", "\t"),
    )
)
TEXTS = st.lists(WORDS, max_size=25).map(" ".join)


def words_of(text: str) -> str:
    return " ".join(word for word in re.findall(r"[^\W_]+", text) if word != "THINK")


@pytest.mark.parametrize("name", FORMATS)
def test_no_answer_is_said_anew(name: str) -> None:
    """ "The answer is:" behind the label of an answer would be read with a problem."""
    codec = get_format(name, "non_reasoning")
    grammar = str(codec.grammar([SEARCH]))
    for answer in ("The answer is Paris", "Paris is the answer: yes", "the answered call"):
        assert takes(grammar, codec.write(Action("", (), answer), [SEARCH])), answer
    for answer in (
        *("The answer to this question is: Forensic", "So, the final answer is: x"),
        *("**The correct answer is** 12", "the answer is 1815"),
    ):
        assert not takes(grammar, f"Answer: {answer}"), answer
        assert not takes(grammar, f"<answer>{answer}</answer>"), answer


class TestNarrowed:
    @given(
        st.sampled_from(FORMATS),
        st.sampled_from(PROMPTS),
        st.sampled_from(sorted(TOOLS)),
        st.none() | st.integers(1, 8),
        TEXTS,
        TEXTS,
        st.integers(0, 2**32),
    )
    @settings(max_examples=250, deadline=None)
    def test_what_is_left_is_read_without_a_problem(
        self,
        name: str,
        prompt: str,
        tools: str,
        most: int | None,
        asked: str,
        read: str,
        seed: int,
    ) -> None:
        codec, offered = get_format(name, prompt), TOOLS[tools]
        grammar = codec.grammar(offered)
        assert grammar is not None
        action = check(
            codec, offered, walk(narrowed(grammar, answer_words=most, asked=asked, read=read), seed)
        )
        if action.answer is not None:
            assert len(action.answer.split()) <= (most or 240)
            if words_of(read):
                assert f" {words_of(action.answer)} " in f" {words_of(read)} "

    @given(st.sampled_from(FORMATS), TEXTS, st.integers(0, 2**32))
    @settings(max_examples=100, deadline=None)
    def test_arguments_are_words_of_what_was_asked(self, name: str, asked: str, seed: int) -> None:
        codec, tools = get_format(name, "non_reasoning"), [SEARCH]
        grammar = codec.grammar(tools, answer=False)
        assert grammar is not None
        for call in check(codec, tools, walk(narrowed(grammar, asked=asked), seed)).calls:
            if words_of(asked):
                assert f" {words_of(call.arguments['query'])} " in f" {words_of(asked)} "

    @pytest.mark.parametrize("name", FORMATS)
    def test_quotations_may_begin_and_end_at_any_word(self, name: str) -> None:
        codec, tools = get_format(name, "non_reasoning"), [SEARCH]
        read = "George Martin (1926–2016) was its producer, in St. John's Wood."
        grammar = codec.grammar(tools)
        assert grammar is not None
        grammar = narrowed(grammar, answer_words=3, asked="Who was it?", read=read)
        taken = {
            answer: takes(grammar, codec.write(Action("", (), answer), tools))
            for answer in (
                *("George Martin", "producer", "1926–2016", "in St. John's", "was its"),
                *("eorge Martin", "George Martin was it", "George its", "Paul", "Wood."),
            )
        }
        allowed = [answer for answer, may in taken.items() if may]
        assert allowed == ["George Martin", "producer", "1926–2016", "in St. John's", "was its"]

    @given(
        st.sampled_from(FORMATS),
        st.lists(st.sampled_from(("Ada", "born", "München", "1815", "e")), min_size=1, max_size=9),
        st.sets(st.sampled_from(("ada", "BORN", "münchen", "1815", "e")), max_size=4),
        st.integers(0, 2**32),
    )
    @settings(max_examples=80, deadline=None)
    def test_known_words_are_left_out(
        self, name: str, read: list[str], known: set[str], seed: int
    ) -> None:
        codec = get_format(name, "no_tool")
        grammar = codec.grammar([])
        assert grammar is not None
        left = {word for word in read if word.casefold() not in {k.casefold() for k in known}}
        made = narrowed(grammar, answer_words=3, read=" ".join(read), known=" ".join(known))
        answer = check(codec, [], walk(made, seed)).answer
        assert answer is not None
        assert len(answer.split()) <= 3
        if left:
            assert set(answer.split()) <= left

    def test_an_answer_without_the_questions_words(self) -> None:
        codec = get_format("react", "non_reasoning")
        read = "Carrie Fisher's father was Eddie Fisher, a singer."
        grammar = narrowed(
            str(codec.grammar([SEARCH])),
            answer_words=2,
            asked="x",
            read=read,
            known="Who is the father of Carrie Fisher?",
        )
        for answer in ("Eddie", "a singer", "was"):
            assert takes(grammar, f"Answer: {answer}"), answer
        for answer in ("Carrie", "Fisher's", "Eddie Fisher", "father was", "was Eddie Fisher"):
            assert not takes(grammar, f"Answer: {answer}"), answer

    @given(
        st.sampled_from(FORMATS),
        st.lists(st.sampled_from(("Bank", "of", "the", "West", "is")), min_size=1, max_size=9),
        st.sets(st.sampled_from(("Of", "the", "is")), max_size=3),
        st.integers(0, 2**32),
    )
    @settings(max_examples=80, deadline=None)
    def test_trimmed_words_are_inside_alone(
        self, name: str, read: list[str], trimmed: set[str], seed: int
    ) -> None:
        codec = get_format(name, "no_tool")
        barred = {word.casefold() for word in trimmed}
        made = narrowed(
            str(codec.grammar([])), answer_words=4, read=" ".join(read), trimmed=trimmed
        )
        answer = check(codec, [], walk(made, seed)).answer
        assert answer is not None
        if set(read) - barred:
            words = answer.split()
            assert f" {answer} " in f" {' '.join(read)} "
            assert len(words) <= 4
            assert not barred & {words[0], words[-1]}

    def test_an_answer_that_is_no_piece_of_a_sentence(self) -> None:
        codec = get_format("react", "non_reasoning")
        read = "She was a clerk at the Bank of the West in Reno."
        grammar = narrowed(
            str(codec.grammar([SEARCH])),
            answer_words=4,
            asked="x",
            read=read,
            trimmed=["a", "at", "in", "of", "she", "the", "was"],
        )
        for answer in ("clerk", "Bank", "Bank of the West", "West in Reno", "Reno"):
            assert takes(grammar, f"Answer: {answer}"), answer
        for answer in (
            "She",
            "She was",
            "a clerk",
            "the Bank",
            "Bank of",
            "Bank of the",
            "in Reno",
        ):
            assert not takes(grammar, f"Answer: {answer}"), answer

    @pytest.mark.parametrize("name", FORMATS)
    def test_answers_without_digits(self, name: str) -> None:
        codec = get_format(name, "no_tool")
        read = "Ada May (1879–1961), a painter in Route 66 Town, met U2 on 4 May."
        grammar = str(codec.grammar([]))
        free, made = (narrowed(grammar, answer_words=4, read=read, no_digits=n) for n in (0, 1))
        for answer, digits in {
            **dict.fromkeys(("Ada May", "a painter in Route", "Town, met", "on", "May"), False),
            **dict.fromkeys(("1879–1961", "Route 66 Town", "U2", "met U2 on", "4 May"), True),
        }.items():
            reply = codec.write(Action("", (), answer), [])
            assert takes(free, reply), answer
            assert takes(made, reply) is not digits, answer

    def test_bounds_of_a_schema_are_not_quoted(self) -> None:
        tools = [tool("f", {"code": {"type": "string", "maxLength": 3}})]
        for name in ("react", "hermes"):
            codec = get_format(name, "non_reasoning")
            grammar = codec.grammar(tools, answer=False)
            assert narrowed(str(grammar), asked="Longer words alone") == grammar

    def test_without_words_nothing_is_narrowed(self) -> None:
        grammar = str(get_format("react").grammar([SEARCH]))
        assert narrowed(grammar) == grammar == narrowed(grammar, asked="?!", read="<>")

    def test_a_grammar_that_says_answers_in_its_own_way_is_refused(self) -> None:
        own = '%llguidance {}\nstart: "yes" | "no"\n'
        with pytest.raises(BadInputError, match="cannot be narrowed"):
            narrowed(own, answer_words=1)


class TestWhatFormatsWrite:
    @given(
        st.sampled_from(FORMATS),
        st.sampled_from(("", "I must look it up, for I don't know (yet): 2 < 3.")),
        st.sampled_from(("George Rankin", "Who wrote “Ödipus”?", "2*(3+4)/5", "a, b; c")),
    )
    @example("hermes", "Answers are easy to find.", "x")
    @example("llama3", "The action is clear.", "x")
    def test_is_of_the_grammar(self, name: str, thought: str, text: str) -> None:
        codec, tools = get_format(name), TOOLS["both"]
        calls = (
            ToolCall("call_0", "WikipediaSearch", {"query": text}),
            ToolCall("call_1", "Calculator", {"expression": "1 + 1"}),
        )
        for action in (
            Action(thought, calls),
            Action(thought, calls[:1]),
            Action(thought, (), text),
        ):
            written = codec.write(action, tools)
            assert takes(codec.grammar(tools), written), written

    @pytest.mark.parametrize("name", ["react", "tags", "hermes", "hermes-paper", "llama3"])
    def test_rich_arguments(self, name: str) -> None:
        codec, tools = get_format(name), TOOLS["rich"]
        given = {
            "city": "Zürich",
            "nights": 3,
            "guest": {"name": 'Ada "A." \\frac{1}{2}', "age": 36},
            "tags": ["quiet", "東京"],
            "price": 120.5,
            "note": None,
        }
        written = codec.write(Action("", (ToolCall("call_0", "book", given),)), tools)
        grammar = codec.grammar(tools)
        assert takes(grammar, written), written
        assert codec.parse(written, tools).calls[0].arguments == given
        for wrong in (written.replace("3", "15"), written.replace("Zürich", "Rome")):
            assert not takes(grammar, wrong), wrong


def test_a_format_that_has_none_says_so() -> None:
    class Own(Format):
        name = "own"

        def instructions(self, tools: Any) -> str:
            return ""

        def parse(self, text: str, tools: Any = (), *, cut: bool = False) -> Action:
            return Action("", (), text)

        def write(self, action: Action, tools: Any = ()) -> str:
            return str(action.answer)

        def results(self, calls: Any, results: Any, tools: Any = ()) -> list[Message]:
            return []

    assert Own(get_format("react").strategy).grammar(TOOLS["both"]) is None


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_to_write_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="needs a tool"):
        get_format(name).grammar([], answer=False)
    with pytest.raises(BadInputError, match="needs a tool"):
        get_format(name).grammar(TOOLS["both"], calls=False, answer=False)


def test_the_papers_react_calls_with_bare_text_alone() -> None:
    grammar = get_format("react-paper").grammar(TOOLS["rich"])
    assert grammar is not None
    assert "Calculator" in grammar
    assert "book" not in grammar


@pytest.mark.parametrize("name", FORMATS)
def test_servers_take_it_for_lark(name: str) -> None:
    from llguidance.gbnf_to_lark import is_lark_syntax

    grammar = get_format(name).grammar(TOOLS["both"])
    assert grammar is not None
    assert is_lark_syntax(grammar)
    # vLLM takes any text with this sign for EBNF.
    assert "::=" not in grammar

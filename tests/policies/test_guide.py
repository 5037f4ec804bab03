"""Guided decoding: of a local model and through a server's field; what is recorded of it."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from toolgym import evaluate, rollout
from toolgym.errors import BadInputError, EndpointError, PolicyError
from toolgym.formats import get_format
from toolgym.messages import Message, ToolResult, to_chats
from toolgym.policies import Reply, ReplyTokens, Request
from toolgym.policies.base import join_tokens
from toolgym.policies.guiding import Narrow, grammar_of
from toolgym.trajectory import Tokens, Trajectory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
llguidance = pytest.importorskip("llguidance")
pytest.importorskip("llguidance.hf")  # a module of its own, which its package does not load

from toolgym.policies.endpoint import EndpointPolicy  # noqa: E402
from toolgym.policies.local.guides import Guides, token_penalties  # noqa: E402
from toolgym.policies.local.sampling import Sampler, uniforms  # noqa: E402  # noqa: E402
from toolgym.policies.local.transformers import TransformersPolicy  # noqa: E402

PAD, END = "<|pad|>", "<|end|>"
TEMPLATE = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
WORDS = ["Thought:", "Action:", "Answer:", "Wikipedia", "Search[", "\u0120of", "\u0120the", "]"]


def make_tokenizer() -> Any:
    """All bytes, a few words, roles, and a mark that is a token of its own, as Qwen's is."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_tokens([tokenizers.AddedToken(w, normalized=False) for w in WORDS])
    bpe.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False, special=False)])
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]
    bpe.add_special_tokens([PAD, END, *roles])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END)
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only get into each other's way in a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights in float64, and more rows of logits than tokens."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + 37,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=4096,
        initializer_range=0.4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float64",
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.float64).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": "Does it.", "parameters": parameters},
    }


SEARCH = tool("WikipediaSearch", query={"type": "string", "maxLength": 12})
BOOK = tool("book", nights={"type": "integer", "minimum": 1, "maximum": 9}, city={"enum": ["東京"]})
TOOLS = [SEARCH, BOOK]
SEARCH_ANY = tool("WikipediaSearch", query={"type": "string"})


def asked(
    question: str = "Q?", format: str = "react", prompt: str = "non_reasoning", **fields: Any
) -> Request:
    codec = get_format(format, prompt)
    messages = to_chats([Message("user", question)])
    return Request(messages, fields.pop("tools", TOOLS), codec, **fields)


def made(policy: Any, requests: list[Request]) -> list[Reply]:
    replies = policy.act(requests)
    for reply in replies:
        assert not isinstance(reply, Exception), reply
    return list(replies)


def tokens(reply: Reply) -> ReplyTokens:
    assert reply.tokens is not None
    return reply.tokens


class TestLocal:
    @pytest.mark.parametrize("format", ["react", "react-paper", "tags", "hermes", "llama3"])
    def test_no_reply_of_an_untrained_model_is_malformed(self, folder: Path, format: str) -> None:
        requests = [asked("x" * n, format, seed=n, episode=f"t{n}#0") for n in range(24)]
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=700, temperature=0.7)
        called = 0
        schemas = {t["function"]["name"]: t["function"]["parameters"] for t in TOOLS}
        for request, reply in zip(requests, made(policy, requests), strict=True):
            action = request.format.parse(reply.text, TOOLS)
            assert not reply.cut
            assert not action.problems, (reply.text, action.problems)
            assert bool(action.calls) != bool(action.answer)
            for call in action.calls:
                assert jsonschema_rs.is_valid(schemas[call.name], call.arguments)
            called += bool(action.calls)
            assert tokens(reply).guided
        assert 0 < called < 24

    def test_a_reply_is_the_same_alone_and_in_any_batch(self, folder: Path) -> None:
        requests = [asked("x" * (7 * n % 40), seed=n, episode=f"t{n}#0") for n in range(9)]
        policy = TransformersPolicy(
            folder, guided=True, max_new_tokens=300, temperature=0.8, top_p=0.9, logprobs=True
        )
        together = made(policy, requests)
        for request, reply in zip(requests[:3], together, strict=False):
            (alone,) = made(policy, [request])
            assert alone.text == reply.text
            assert tokens(alone).completion_ids == tokens(reply).completion_ids
            assert tokens(alone).logprobs == pytest.approx(tokens(reply).logprobs)

    def test_log_probabilities_are_those_of_the_unguided_model(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=300, logprobs=True)
        (reply,) = made(policy, [asked(seed=3)])
        said = tokens(reply)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float64")
        with torch.inference_mode():
            ids = torch.tensor([said.prompt_ids + said.completion_ids])
            free = model(ids).logits[0, len(said.prompt_ids) - 1 : -1].log_softmax(-1)
        wanted = free.gather(1, torch.tensor(said.completion_ids)[:, None])[:, 0].tolist()
        assert said.logprobs == pytest.approx(wanted, abs=1e-4)
        assert min(wanted) < -3, "the guide forced nothing here"

    def test_the_end_is_forced_where_the_grammar_ends(self, folder: Path) -> None:
        only = [tool("t", n={"const": 1})]
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=400, temperature=0)
        (reply,) = made(policy, [asked(format="llama3", tools=only, seed=1)])
        end = make_tokenizer().convert_tokens_to_ids(END)
        assert tokens(reply).completion_ids[-1] == end
        assert tokens(reply).completion_ids.count(end) == 1

    def test_a_reply_that_is_cut_stays_cut(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=3)
        (reply,) = made(policy, [asked(seed=1)])
        assert reply.cut
        assert len(tokens(reply).completion_ids) == 3

    def test_models_that_generate_in_their_own_way_are_guided_too(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=200, temperature=0)
        wanted = made(policy, [asked(seed=1), asked("Why?", seed=2)])
        monkeypatch.setattr("toolgym.policies.local.generation._is_plain", lambda model: False)
        found = made(policy, [asked(seed=1), asked("Why?", seed=2)])
        assert [reply.text for reply in found] == [reply.text for reply in wanted]

    def test_marks_that_are_one_token_are_written_as_that_token(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=600)
        mark = make_tokenizer().convert_tokens_to_ids("<tool_call>")
        requests = [asked(format="hermes", seed=n) for n in range(8)]
        for reply in made(policy, requests):
            assert ("<tool_call>" in reply.text) == (mark in tokens(reply).completion_ids)

    def test_unguided_replies_say_so(self, folder: Path) -> None:
        policy = TransformersPolicy(folder, max_new_tokens=4)
        assert not tokens(made(policy, [asked()])[0]).guided
        assert "guided" not in policy.describe()
        assert TransformersPolicy(folder, guided=True).describe()["guided"] is True

    def test_a_schema_that_cannot_be_guided_fails_its_own_reply(self, folder: Path) -> None:
        odd = tool("odd", n={"type": "array", "items": {"type": "integer"}, "uniqueItems": True})
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=200)
        failed, reply = policy.act([asked(tools=[odd]), asked()])
        assert isinstance(failed, PolicyError)
        assert "\n" not in str(failed)
        assert "odd" in str(failed)
        assert "uniqueItems" in str(failed)
        assert isinstance(reply, Reply)

    def test_a_format_without_a_grammar_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "toolgym.formats.react.ReactFormat.grammar", lambda self, tools, calls=True: None
        )
        policy = TransformersPolicy(folder, guided=True)
        with pytest.raises(BadInputError, match="'react' has no grammar"):
            policy.act([asked()])


class TestMasks:
    def test_rows_are_masked_each_by_its_own_guide(self) -> None:
        tokenizer = make_tokenizer()
        end = tokenizer.convert_tokens_to_ids(END)
        guides = Guides(tokenizer, [end], len(tokenizer) + 5)
        guide = guides.guide(asked())
        scores = torch.zeros(2, len(tokenizer) + 5)
        penalties = token_penalties([guide, None], scores)
        assert penalties is not None
        assert set(penalties.flatten().tolist()) == {0.0, float("-inf")}
        allowed = (penalties[0] == 0).nonzero()[:, 0].tolist()
        assert {tokenizer.decode([i]) for i in allowed} == {"A", "Action:", "Answer:"}
        assert (penalties[1] == 0).all()
        for token in tokenizer("Answer: x", add_special_tokens=False)["input_ids"]:
            assert not guide.ended
            guide.advance(token)
        penalties = token_penalties([guide, None], scores)
        assert penalties is not None
        assert penalties[0, end] == 0
        guide.advance(end)
        assert guide.ended
        assert not guide.failure
        assert token_penalties([guide, None], scores) is None

    def test_a_token_that_is_not_allowed_is_a_failure(self) -> None:
        tokenizer = make_tokenizer()
        guide = Guides(tokenizer, [tokenizer.eos_token_id], len(tokenizer)).guide(asked())
        guide.advance(tokenizer.convert_tokens_to_ids("]"))
        assert guide.ended
        assert "\n" not in guide.failure != ""

    @pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 0.5)])
    def test_what_is_not_allowed_is_never_chosen(self, temperature: float, top_p: float) -> None:
        rng = np.random.default_rng(0)
        scores = torch.tensor(rng.normal(size=(64, 50)) * 8)
        allowed = torch.tensor(rng.random((64, 50)) < 0.1)
        allowed[:, 7] |= ~allowed.any(1)
        sampler = Sampler(
            uniforms(range(64), 3),
            temperature=temperature,
            top_p=top_p,
            device=torch.device("cpu"),
            logprobs=True,
        )
        chosen = sampler.next(scores, torch.where(allowed, 0.0, float("-inf")))
        assert allowed.gather(1, chosen[:, None]).all()
        free = scores.float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        assert torch.equal(sampler.logprobs[0], free)


class TestTurns:
    def test_the_strategys_turns_bound_the_calls(self) -> None:
        codec = get_format("tags", "tools_single_step")
        call = "<search>a</search>"
        example = [Message("user", "E?"), Message("assistant", call), Message("user", "r")]
        chats = to_chats([*example, Message("user", "Q?")])
        first = Request(chats, TOOLS, codec, turn=0)
        assert "<search>" in grammar_of(first), "what an example calls is not called by the policy"
        more = to_chats([Message("assistant", call), Message("user", "result")])
        second = dataclasses.replace(first, messages=[*chats, *more], turn=1)
        assert "<search>" not in grammar_of(second)
        idle = to_chats([Message("assistant", "Hm."), Message("user", "Unusable.")])
        again = dataclasses.replace(first, messages=[*chats, *idle], turn=1)
        assert "<search>" in grammar_of(again)

    @pytest.mark.parametrize("format", ["react", "react-paper", "tags", "hermes", "llama3"])
    def test_one_call_a_turn(self, folder: Path, format: str) -> None:
        narrow = {"call_first": True, "calls": 1}
        policy = TransformersPolicy(folder, guided=True, narrow=narrow, max_new_tokens=900)
        requests = [
            asked(format=format, tools=[SEARCH], seed=n, episode=f"t{n}#0") for n in range(9)
        ]
        for request, reply in zip(requests, made(policy, requests), strict=True):
            assert len(request.format.parse(reply.text, [SEARCH]).calls) == 1

    @pytest.mark.parametrize(("most", "said"), [(1, 1), (2, 2), (3, 3), (None, 4)])
    def test_so_many_calls_a_turn(self, most: int | None, said: int) -> None:
        tokenizer = make_tokenizer()
        ends = [tokenizer.eos_token_id]
        guides = Guides(tokenizer, ends, len(tokenizer), narrow=Narrow(calls=most))
        for count in range(1, 6):
            guide = guides.guide(asked(tools=[SEARCH]))
            text = "Action: " + " ".join(f"WikipediaSearch[{n}]" for n in range(count))
            for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], *ends]:
                guide.advance(token)
            assert bool(guide.failure) == (count > said)

    def test_without_a_bound_tools_may_always_be_called(self) -> None:
        request = asked(prompt="tools_multi_step", turn=3)
        assert "WikipediaSearch[" in grammar_of(request)

    def test_no_answer_before_a_call_where_it_is_asked_for(self) -> None:
        first = asked(format="tags", prompt="tools_single_step", turn=0)
        assert "answer:" in grammar_of(first)
        assert "answer:" not in grammar_of(first, Narrow(call_first=True))
        called = [Message("assistant", "<search>a</search>"), Message("user", "result")]
        second = dataclasses.replace(first, messages=[*first.messages, *to_chats(called)], turn=1)
        assert "answer:" in grammar_of(second, Narrow(call_first=True))
        alone = dataclasses.replace(first, tools=[])
        assert "answer:" in grammar_of(alone, Narrow(call_first=True)), "there is no tool to call"

    def test_after_so_many_turns_with_calls_an_answer_is_given(self) -> None:
        first = asked(format="tags", prompt="non_reasoning", turn=0)
        once = Narrow(call_turns=1)
        assert "<search>" in grammar_of(first, once)
        called = [Message("assistant", "<search>a</search>"), Message("user", "result")]
        second = dataclasses.replace(first, messages=[*first.messages, *to_chats(called)], turn=1)
        assert "<search>" not in grammar_of(second, once)
        assert "<search>" in grammar_of(second, Narrow(call_turns=2))

    @pytest.mark.parametrize("format", ["react", "react-paper", "tags", "hermes", "llama3"])
    def test_a_model_that_quotes(self, folder: Path, format: str) -> None:
        """Arguments are the question's words, answers at most two of the result's."""
        narrow = {"quoted": True, "answer_words": 2, "call_turns": 1}
        policy = TransformersPolicy(folder, guided=True, narrow=narrow, max_new_tokens=700)
        assert policy.describe()["narrow"] == narrow
        codec = get_format(format, "non_reasoning")
        question, passage = "Who wrote it, and when?", "The Well by Ada May (1901) was read."
        opening = [codec.question(Message("user", question))]
        first = Request(to_chats(opening), [SEARCH_ANY], codec, episode="t#0")
        (reply,) = made(policy, [first])
        calls = codec.parse(reply.text, [SEARCH_ANY]).calls
        assert calls, (reply.text, reply.cut)
        assert all(call.arguments["query"] in question for call in calls)
        results = [ToolResult(call.id, passage) for call in calls]
        more = [Message("assistant", reply.text), *codec.results(calls, results, [SEARCH_ANY])]
        second = dataclasses.replace(
            first, messages=[*first.messages, *to_chats(more)], turn=1, seed=4
        )
        (reply,) = made(policy, [second])
        answer = codec.parse(reply.text, [SEARCH_ANY]).answer
        assert answer is not None
        assert answer in passage
        assert len(answer.split()) <= 2

    def test_samples_of_a_question_try_other_lengths(self) -> None:
        """The first one number, the second the next; a policy outside a run has no sample."""
        narrow = Narrow.read({"answer_words": [1, 3]}, guided=True)
        question = asked(format="tags", prompt="non_reasoning", turn=0)
        ways = [
            grammar_of(dataclasses.replace(question, episode=episode), narrow)
            for episode in ("t#0", "t#1", "t#2", "a#b#3", "")
        ]
        one, three = (grammar_of(question, Narrow(answer_words=most)) for most in (1, 3))
        assert ways == [one, three, one, three, one]
        assert one != three

    def test_what_narrows_is_plain_data(self) -> None:
        given = {"quoted": True, "answer_words": [1, 2], "trimmed": ["a", "the"]}
        narrow = Narrow.read(given, guided=True)
        assert narrow.said == given
        assert Narrow.read(narrow.said, guided=True) == narrow

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"answer_words": 0}, "answer_words must be at least 1, not 0"),
            ({"answer_words": []}, r"answer_words must hold at least 1, not \(\)"),
            ({"answer_words": [2, 41]}, "answer_words must be at most 40, not 41"),
            ({"no_digits": True}, "no_digits is about quotations: set quoted, too"),
            ({"trimmed": ["the"]}, "trimmed is about quotations: set quoted, too"),
            ({"quoted": True, "trimmed": "the"}, "trimmed must be a list, not 'the'"),
            (
                {"quoted": True, "trimmed": [True]},
                "trimmed must be a string, not True .YAML reads on, off",
            ),
        ],
    )
    def test_narrowing_that_cannot_be(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(BadInputError, match=message) as caught:
            Narrow.read(given, guided=True)
        assert "\n" not in str(caught.value)

    def test_what_narrows_is_for_guided_replies_alone(self, folder: Path) -> None:
        with pytest.raises(BadInputError, match="guided=True"):
            TransformersPolicy(folder, narrow={"quoted": True})
        with pytest.raises(BadInputError, match="did you mean 'answer_words'"):
            TransformersPolicy(folder, guided=True, narrow={"answer_word": 3})
        with pytest.raises(BadInputError, match="set quoted, too"):
            TransformersPolicy(folder, guided=True, narrow={"new_words": True})
        with pytest.raises(BadInputError, match="narrow"):
            TransformersPolicy(folder, guided=True, narrow={"call_turns": 0})
        assert "narrow" not in TransformersPolicy(folder, guided=True, narrow={}).describe()

    def test_a_server_is_asked_for_a_call_first(self) -> None:
        pytest.importorskip("aiohttp")
        with Grammatical("structured_outputs") as server:
            policy = EndpointPolicy(server.url, guided=True, narrow={"call_first": True}, retries=0)
            (reply,) = made(policy, [asked(prompt="tools_multi_step")])
            assert asked().format.parse(reply.text, TOOLS).calls
            assert policy.describe()["narrow"] == {"call_first": True}
            policy.close()
        with pytest.raises(BadInputError, match="guided=True"):
            EndpointPolicy("http://127.0.0.1:9/v1", model="m", narrow={"call_first": True})


class TestRecord:
    def test_tokens_say_that_they_were_guided(self) -> None:
        free, held = ReplyTokens([1], [2], [-1.0]), ReplyTokens([1, 2, 3], [4], [-2.0], guided=True)
        joined = join_tokens([free, held], "t")
        assert joined is not None
        assert joined.guided
        plain = join_tokens([free], "t")
        assert plain is not None
        assert not plain.guided

    def test_old_files_are_read_and_new_ones_round_trip(self, folder: Path, tmp_path: Path) -> None:
        policy = TransformersPolicy(folder, guided=True, max_new_tokens=1000, logprobs=True)
        run = rollout(
            "ToolQA-PopQA-v0",
            policy,
            env_args={"prompt": "non_reasoning", "max_steps": 1},
            episodes=3,
            out=tmp_path / "run",
        )
        assert json.loads((tmp_path / "run/run.json").read_text())["policy"]["guided"] is True
        for trajectory in run.trajectories():
            row = trajectory.to_row()
            assert row["tokens"]["guided"] is True
            assert Trajectory.from_row(row) == trajectory
            del row["tokens"]["guided"]
            old = Trajectory.from_row(row).tokens
            assert isinstance(old, Tokens)
            assert not old.guided
        rates = {row.name: row.value for row in evaluate(run).rows}
        assert not rates["malformed_rate"]


class Grammatical:
    """A stand-in for vLLM: takes a grammar in one of its fields, replies with a text of it."""

    def __init__(self, field: str, holds: bool = True) -> None:
        self.grammars: list[str] = []
        tokenizer = make_tokenizer()
        reader = llguidance.hf.from_tokenizer(tokenizer)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                given = body.get(field)
                if given is None:
                    self.say(400, {"message": "Extra inputs are not permitted: structured_outputs"})
                    return
                grammar = given["grammar"] if field == "structured_outputs" else given
                matcher = llguidance.LLMatcher(reader, llguidance.grammar_from("grammar", grammar))
                assert not matcher.is_error(), matcher.get_error()
                owner.grammars.append(grammar)
                ids, rng = list[int](), random.Random(body["seed"])
                while not matcher.is_stopped():
                    bits = matcher.compute_bitmask()
                    may = [i for i in range(reader.vocab_size) if bits[i // 8] >> (i % 8) & 1]
                    ids.append(rng.choice(may))
                    if ids[-1] == tokenizer.eos_token_id:
                        break
                    matcher.consume_token(ids[-1])
                text = tokenizer.decode(ids).removesuffix(END) if holds else "I would rather not"
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                frame = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
                self.say(200, {**frame, "choices": [choice]})

            def say(self, status: int, body: Any) -> None:
                raw = json.dumps(body if status == 200 else {"error": body}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1#m"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Grammatical:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class TestServer:
    @pytest.mark.parametrize("field", ["structured_outputs", "guided_grammar", "grammar", "ebnf"])
    def test_a_server_gets_the_grammar_in_its_field(self, field: str) -> None:
        pytest.importorskip("aiohttp")
        with Grammatical(field) as server:
            policy = EndpointPolicy(
                server.url, guided=True if field == "structured_outputs" else field, retries=0
            )
            requests = [asked(format=f, seed=n) for n, f in enumerate(("react", "tags", "llama3"))]
            for request, reply in zip(requests, made(policy, requests), strict=True):
                action = request.format.parse(reply.text, TOOLS)
                assert not action.problems, (reply.text, action)
            assert sorted(server.grammars) == sorted(map(grammar_of, requests))
            assert policy.describe()["guided"] == field
            policy.close()

    def test_a_mark_that_is_one_token_of_the_model(self) -> None:
        pytest.importorskip("aiohttp")
        with Grammatical("structured_outputs") as server:
            policy = EndpointPolicy(server.url, guided=True, guided_markers=["<tool_call>"])
            request = asked(format="hermes", prompt="non_reasoning", seed=2)
            (reply,) = made(policy, [request])
            assert not request.format.parse(reply.text, TOOLS).problems
            assert ' <tool_call> "' in server.grammars[0]
            policy.close()

    def test_a_server_that_refuses_the_field_names_the_option(self) -> None:
        pytest.importorskip("aiohttp")
        with Grammatical("guided_grammar") as server:
            policy = EndpointPolicy(server.url, guided=True, retries=0)
            (reply,) = policy.act([asked()])
            assert isinstance(reply, EndpointError)
            assert reply.kind == "refused"
            assert "\n" not in str(reply)
            assert "guided='structured_outputs'" in str(reply)
            assert "guided_grammar" in str(reply)
            policy.close()

    def test_a_server_that_passes_over_the_field_is_told_of(self) -> None:
        pytest.importorskip("aiohttp")
        with Grammatical("grammar", holds=False) as server:
            policy = EndpointPolicy(server.url, guided="grammar", retries=0)
            with pytest.warns(RuntimeWarning, match="pass over the field 'grammar'"):
                made(policy, [asked()])
            made(policy, [asked()])
            policy.close()

    def test_options_that_do_not_fit_are_refused(self) -> None:
        pytest.importorskip("aiohttp")
        url = "http://127.0.0.1:1/v1#m"
        with pytest.raises(BadInputError, match="structured_outputs"):
            EndpointPolicy(url, guided="structured_output")
        with pytest.raises(BadInputError, match="native_tools"):
            EndpointPolicy(url, guided=True, native_tools=True)

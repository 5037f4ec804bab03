"""Guided replies are written in the tokens that the tokenizer itself would take."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.data.export import token_row
from toolgym.formats import get_format
from toolgym.messages import Message, ToolResult, to_chats
from toolgym.policies import Request
from toolgym.policies.guiding import Narrow
from toolgym.task import Task
from toolgym.trajectory import Tokens, Trajectory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("trl")
pytest.importorskip("llguidance")
pytest.importorskip("llguidance.hf")

from toolgym.policies.local.canonical import Canonical  # noqa: E402
from toolgym.policies.local.guides import Guides  # noqa: E402
from toolgym.policies.local.sampling import Sampler, uniforms  # noqa: E402
from toolgym.policies.local.transformers import TransformersPolicy  # noqa: E402
from toolgym.training.config import DpoConfig  # noqa: E402
from toolgym.training.dpo import prepare_pairs  # noqa: E402
from toolgym.training.encoding import encode_chat, spans  # noqa: E402
from toolgym.training.sft import prepare  # noqa: E402

END = "<|end|>"
PASSAGE = (
    "Naguib Mahfouz wrote Palace Walk in 1956. The Saskatchewan river is in Canada. Antanas "
    "Mockus was born in Vilnius; Juno is a film by Diablo Cody. Brașov, 東京 and Tórshavn are "
    "cities."
)
TOOL = {
    "type": "function",
    "function": {
        "name": "WikipediaSearch",
        "description": "Searches.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}
TEMPLATE = (
    "{%- for m in messages %}{{- m.role + ':' + m.content + '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"
)


def make_tokenizer(kind: str = "bytes") -> Any:
    """A BPE of bytes as Llama 3 has it, or one of signs that marks blanks as Llama 2 does."""
    texts = [PASSAGE, "Action: WikipediaSearch[Palace Walk]", "Answer: Naguib Mahfouz"] * 4
    if kind == "bytes":
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = tokenizers.decoders.ByteLevel()
        first = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    else:
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True))
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
        bpe.decoder = tokenizers.decoders.Sequence(
            [
                tokenizers.decoders.Replace("▁", " "),
                tokenizers.decoders.ByteFallback(),
                tokenizers.decoders.Fuse(),
                tokenizers.decoders.Strip(" ", 1, 0),
            ]
        )
        first = [f"<0x{n:02X}>" for n in range(256)]
    special = [END] if kind == "bytes" else [END, "<unk>", *first]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=first if kind == "bytes" else [],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)
    made.chat_template = TEMPLATE
    return made


class TestCanonical:
    def test_other_ways_to_write_a_text_are_told_apart(self) -> None:
        tokenizer = make_tokenizer()
        canonical = Canonical(tokenizer)
        assert canonical.known
        ids = tokenizer("Answer: Saskatchewan").input_ids
        assert canonical(ids)
        signs = [i for sign in "Answer" for i in tokenizer(sign).input_ids]
        assert len(signs) > len(tokenizer("Answer").input_ids)
        assert not canonical(signs)

    def test_a_sign_that_is_not_complete_is_waited_for(self) -> None:
        tokenizer = make_tokenizer()
        canonical = Canonical(tokenizer)
        ids = tokenizer("é").input_ids
        assert len(ids) > 1, "a sign of two tokens is meant"
        assert canonical(ids[:1])
        assert canonical(ids)

    @given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=40))
    def test_what_the_tokenizer_writes_is_canonical_from_its_beginning_on(self, text: str) -> None:
        text = " ".join(text.split()).replace("\ufffd", "")
        ids = _BYTES(text, add_special_tokens=False).input_ids
        canonical = Canonical(_BYTES)
        assert all(canonical(ids[:n]) for n in range(len(ids) + 1))

    def test_a_tokenizer_that_changes_what_it_reads_tells_nothing(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Strip()
        assert not Canonical(tokenizer).known


_BYTES = make_tokenizer()


def conversation() -> tuple[Request, Request]:
    """A first request, and one with a passage to quote from."""
    codec = get_format("react", "non_reasoning")
    question = codec.question(Message("user", "Who is the author of Palace Walk?"))
    first = Request(to_chats([question]), [TOOL], codec, episode="t#0")
    said = Message("assistant", "Action: WikipediaSearch[Palace Walk]")
    calls = codec.parse(said.content, [TOOL]).calls
    read = codec.results(calls, [ToolResult(call.id, PASSAGE) for call in calls], [TOOL])
    messages = [*first.messages, *to_chats([said, *read])]
    return first, dataclasses.replace(first, messages=messages, turn=1)


class TestGuided:
    @pytest.mark.parametrize("kind", ["bytes", "signs"])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_replies_of_a_random_model_are_canonical(
        self, tmp_path: Path, kind: str, temperature: float
    ) -> None:
        tokenizer = make_tokenizer(kind)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=len(tokenizer) + 3,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=2048,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
            )
        )
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        narrow = Narrow(quoted=True, call_turns=1, answer_words=3)
        policy = TransformersPolicy(
            tmp_path, guided=True, narrow=narrow, max_new_tokens=300, temperature=temperature
        )
        requests = [
            dataclasses.replace(request, seed=n)
            for n in range(40 if temperature else 1)
            for request in conversation()
        ]
        texts = set()
        for reply in policy.act(requests):
            assert not isinstance(reply, Exception)
            assert reply.tokens is not None
            ids = reply.tokens.completion_ids
            assert ids[-1] == tokenizer.eos_token_id
            lead = tokenizer.backend_tokenizer.encode("\n", add_special_tokens=False).ids
            wanted = tokenizer.backend_tokenizer.encode(f"\n{reply.text}", add_special_tokens=False)
            assert [*lead, *ids[:-1]] == wanted.ids
            texts.add(reply.text)
        assert len(texts) > (20 if temperature else 1)

    def test_where_no_token_keeps_it_so_any_is_taken(self) -> None:
        """A guide that is forced into one spelling goes on: it says what a reply may be."""
        tokenizer = make_tokenizer()
        guides = Guides(tokenizer, [tokenizer.eos_token_id], len(tokenizer))
        guide = guides.guide(conversation()[0])
        first = tokenizer("A").input_ids[0]
        assert not guide.take(first)
        guide.insist(first)
        second = tokenizer("c").input_ids[0]
        assert guide.take(second), "what follows is judged by the grammar alone"
        assert not guide.failure


class Refusing:
    """A guide that refuses some tokens."""

    def __init__(self, refused: set[int]) -> None:
        self.refused, self.ended, self.failure = refused, False, ""
        self.taken: list[int] = []

    def fill(self, mask: Any, row: int) -> None:
        mask[row] = 0b11111

    def take(self, token: int) -> bool:
        if token in self.refused:
            return False
        self.taken.append(token)
        return True

    def insist(self, token: int) -> None:
        self.taken.append(token)


def drawing(guides: list[Any], **options: Any) -> Sampler:
    """A sampler of one token a row, guided."""
    options = {"temperature": 1.0, "top_p": 1.0, "logprobs": False} | options
    drawn = uniforms(range(len(guides)), 1)
    return Sampler(drawn, device=torch.device("cpu"), guides=guides, **options)


class TestDrawnAgain:
    @pytest.mark.parametrize("top_p", [1.0, 0.999999])
    def test_the_others_keep_their_proportions(self, top_p: float) -> None:
        count = 20_000
        weights = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
        scores = torch.tensor(np.log(weights)).repeat(count, 1)
        guides: list[Any] = [Refusing({0, 3}) for _ in range(count)]
        sampler = drawing(guides, top_p=top_p, logprobs=True)
        chosen = sampler.next(scores).tolist()
        assert [guide.taken for guide in guides] == [[token] for token in chosen]
        found, left = Counter(chosen), {n: weights[n] for n in (1, 2, 4)}
        assert set(found) == set(left)
        for token, weight in left.items():
            share = weight / sum(left.values())
            spread = (share * (1 - share) / count) ** 0.5
            assert abs(found[token] / count - share) < 4 * spread
        free = torch.log_softmax(scores.float(), -1)[range(count), chosen]
        assert torch.equal(sampler.logprobs[0], free)

    @pytest.mark.parametrize("top_p", [1.0, 0.999999])
    def test_rounding_does_not_decide(self, top_p: float) -> None:
        """Scores in their last bits depend on what else is in the batch; samples must not."""
        rows, width = 1000, 1000
        scores = torch.zeros(rows, width).uniform_(-1, 1, generator=torch.manual_seed(0))
        near = scores + 1e-6 * torch.randn(rows, width)
        found = []
        for offered in (scores, near):
            guides: list[Any] = [Refusing(set(range(0, width, 2))) for _ in range(rows)]
            found.append(drawing(guides, top_p=top_p).next(offered))
        assert (found[0] == found[1]).float().mean() > 0.99

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_where_all_are_refused_the_first_is_taken(self, temperature: float) -> None:
        guides: list[Any] = [Refusing(set(range(5))), Refusing({1}), None]
        sampler = drawing(guides, temperature=temperature)
        scores = torch.tensor([[0.0, 90.0, 0.0, 60.0, 0.0]]).repeat(3, 1)
        assert sampler.next(scores).tolist() == [1, 3, 1]
        assert guides[0].taken == [1]
        assert guides[1].taken == [3]


def sign_by_sign(tokenizer: Any, text: str) -> list[int]:
    """A text in tokens of single signs, as a guide of any tokens may lead to."""
    return [i for sign in text for i in tokenizer(sign, add_special_tokens=False).input_ids]


def spelled(tokenizer: Any, *, guided: bool, answer: str = "Naguib Mahfouz") -> Trajectory:
    """An episode of a call and an answer, whose replies were sampled sign by sign."""
    task = Task("t", "Who is the author of Palace Walk?", ["Naguib Mahfouz"])
    env: Any = gym.make("ToolQA-PopQA-v0", tasks=[task], prompt="non_reasoning").unwrapped
    env.reset()
    texts = ["Action: WikipediaSearch[Palace Walk]", f"Answer: {answer}"]
    for text in texts:
        env.step(text)
    made: Trajectory = env.trajectory
    encoded = encode_chat(tokenizer, [message.to_chat() for message in made.messages])
    parts = list(spans(encoded.labels))
    begin, ids, mask = parts[0][0], list[int](), list[int]()
    for (first, end), text, follow in zip(parts, texts, [*parts[1:], None], strict=True):
        said = [*sign_by_sign(tokenizer, text), tokenizer.eos_token_id]
        read = encoded.input_ids[end : follow[0]] if follow else []
        assert encoded.input_ids[first:end] != said
        ids += [*said, *read]
        mask += [1] * len(said) + [0] * len(read)
    made.tokens = Tokens(encoded.input_ids[:begin], ids, mask, None, "t", guided=guided)
    return made


class TestLearned:
    """What a guide wrote in odd tokens is learned as the tokenizer writes it."""

    def test_rows_of_guided_replies(self) -> None:
        episode = spelled(_BYTES, guided=True)
        anew = encode_chat(_BYTES, [message.to_chat() for message in episode.messages])
        prepared = prepare([episode], _BYTES, max_length=None)
        assert prepared.counts == {"respelled": 1}
        (row,) = prepared.rows
        assert row["input_ids"] == anew.input_ids[: len(row["input_ids"])]
        assert row["labels"] == anew.labels[: len(row["labels"])]
        assert row["labels"][-1] == _BYTES.eos_token_id
        again = prepare([token_row(episode)], _BYTES, max_length=None)
        assert list(again.rows) == [row], "a file of rows says that they were guided"

    def test_what_the_model_wrote_freely_stays_as_it_is(self) -> None:
        episode = spelled(_BYTES, guided=False)
        prepared = prepare([episode], _BYTES, max_length=None)
        assert prepared.counts == {"token_exact": 1}
        assert episode.tokens is not None
        ids = episode.tokens.prompt_ids + episode.tokens.completion_ids
        assert prepared.rows[0]["input_ids"] == ids

    def test_pairs_of_guided_replies(self) -> None:
        chosen = spelled(_BYTES, guided=True)
        rejected = dataclasses.replace(spelled(_BYTES, guided=True, answer="Diablo Cody"), sample=1)
        made = prepare_pairs([chosen, rejected], _BYTES, DpoConfig(pairing="right_wrong"))
        assert made.counts == {"respelled": 1}
        row = made.rows[0]
        said = [t for t, mine in zip(row["chosen_ids"], row["chosen_mask"], strict=True) if mine]
        texts = ["Action: WikipediaSearch[Palace Walk]", "Answer: Naguib Mahfouz"]
        wanted = [[*_BYTES(text).input_ids, _BYTES.eos_token_id] for text in texts]
        assert said == [*wanted[0], *wanted[1]]

    def test_what_cannot_be_told_stays_as_it_is(self) -> None:
        half = _BYTES("é").input_ids[:1]
        assert Canonical(_BYTES).written(half) == half
        odd = make_tokenizer()
        odd.backend_tokenizer.normalizer = tokenizers.normalizers.Strip()
        assert Canonical(odd).written([5, 6]) == [5, 6]
        assert Canonical(object()).written([5, 6]) == [5, 6]  # type: ignore[arg-type]

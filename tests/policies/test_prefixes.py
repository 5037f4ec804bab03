"""Batches that rows join and leave, and what they need not read again: the same replies always."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from toolgym.errors import BadInputError, PolicyError
from toolgym.formats import get_format
from toolgym.messages import Message, to_chats
from toolgym.policies import Reply, ReplyTokens, Request
from toolgym.rollouts.engine import rollout

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from toolgym.policies.local import attention, generation  # noqa: E402
from toolgym.policies.local.attention import Place, Prefix, Slots  # noqa: E402
from toolgym.policies.local.models import Loaded, load_model  # noqa: E402
from toolgym.policies.local.prefixes import Kept, Prefixes  # noqa: E402
from toolgym.policies.local.transformers import TransformersPolicy  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Loaded:
    """In float64: no float ties between ways of computing the same."""
    loaded = load_model(str(tiny_base), adapter=None, device="cpu", dtype="float64")
    # It has not learned to end its replies: twenty ends make some short and some long.
    return dataclasses.replace(loaded, ends={*loaded.ends, *range(100, 120)})


def beginning(count: int) -> list[Request]:
    """Requests of different lengths."""
    codec = get_format("react", "bare")
    return [
        Request(
            to_chats([Message("user", f"Question: {'how many ' * (n % 7)}{n}?")]),
            [],
            codec,
            seed=n,
            episode=f"t{n}#0",
        )
        for n in range(count)
    ]


def following(request: Request, said: str) -> Request:
    """The next turn; what is heard is long for some episodes and short for others."""
    heard = f"Response from tool: {'4 and 5, ' * (request.seed % 5)}6"
    messages = [
        *request.messages,
        {"role": "assistant", "content": said},
        {"role": "user", "content": heard},
    ]
    return dataclasses.replace(request, messages=messages, turn=request.turn + 1)


def conversations(policy: TransformersPolicy, count: int, turns: int = 3) -> list[ReplyTokens]:
    """All replies of some episodes that are played together; new ones begin in each turn."""
    said: list[ReplyTokens] = []
    waiting = beginning(count)
    running: list[Request] = []
    for _ in range(turns):
        running, waiting = running + waiting[: count // turns], waiting[count // turns :]
        made = policy.act(running)
        replies = [reply for reply in made if isinstance(reply, Reply)]
        assert len(replies) == len(running), made
        said += [reply.tokens for reply in replies if reply.tokens is not None]
        running = [following(q, r.text) for q, r in zip(running, replies, strict=True)]
    return said


def same(left: Sequence[ReplyTokens], right: Sequence[ReplyTokens]) -> bool:
    return [(t.prompt_ids, t.completion_ids) for t in left] == [
        (t.prompt_ids, t.completion_ids) for t in right
    ]


@pytest.mark.parametrize(("cache_gib", "batch_size"), [(1.0, 64), (1.0, 4), (2e-4, 64)])
def test_replies_are_those_of_reading_everything_anew(
    base: Loaded, cache_gib: float, batch_size: int
) -> None:
    """Whatever is kept: all, all in several batches, or what has room."""
    settings: dict[str, Any] = {"max_new_tokens": 40, "logprobs": True}
    anew = conversations(TransformersPolicy(base, cache_gib=0, **settings), 24)
    policy = TransformersPolicy(base, cache_gib=cache_gib, batch_size=batch_size, **settings)
    kept = conversations(policy, 24)
    assert same(kept, anew)
    for mine, other in zip(kept, anew, strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-6)
    assert len({len(t.completion_ids) for t in kept}) > 5  # rows ended in different spans


@pytest.mark.parametrize("cache_gib", [0, 1.0])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_our_own_steps_are_those_of_generate(
    base: Loaded, cache_gib: float, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 40, "logprobs": True, "cache_gib": cache_gib}
    settings["temperature"] = temperature
    ours = conversations(TransformersPolicy(base, **settings), 24)
    used: list[int] = []
    real = base.model.generate

    def counted(**inputs: Any) -> Any:
        used.append(len(inputs["input_ids"]))
        return real(**inputs)

    monkeypatch.setattr(base.model, "generate", counted)
    assert same(conversations(TransformersPolicy(base, **settings), 24), ours)
    assert not used
    monkeypatch.setattr(generation, "_is_plain", lambda model: False)
    theirs = conversations(TransformersPolicy(base, **settings), 24)
    assert used
    assert same(theirs, ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-6)


def test_a_turn_reads_only_what_is_new(base: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    real = base.model.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        widths.append(kwargs["input_ids"].shape[1])
        return real(*args, **kwargs)

    policy = TransformersPolicy(base, max_new_tokens=12)
    request = dataclasses.replace(beginning(7)[6], seed=4)
    said = policy.act([request])[0]
    assert isinstance(said, Reply)
    assert said.tokens is not None
    monkeypatch.setattr(base.model, "forward", watched)
    again = policy.act([following(request, said.text)])[0]
    assert isinstance(again, Reply)
    assert again.tokens is not None
    # The last token of the reply was sampled, but not read yet.
    known = len(said.tokens.prompt_ids) + len(said.tokens.completion_ids) - 1
    assert widths[0] == len(again.tokens.prompt_ids) - known
    assert set(widths[1:]) <= {1}


def test_another_beginning_is_not_continued(base: Loaded) -> None:
    policy = TransformersPolicy(base, max_new_tokens=12)
    fresh = TransformersPolicy(base, max_new_tokens=12, cache_gib=0)
    request = beginning(2)[1]
    policy.act([request])
    other = dataclasses.replace(beginning(5)[4], episode=request.episode)
    assert policy.act([other]) == fresh.act([other])


def test_nothing_is_left_of_ended_episodes(base: Loaded) -> None:
    policy = TransformersPolicy(base, max_new_tokens=12)
    prefixes = policy._generator.prefixes if policy._generator else None
    assert prefixes is not None
    rollout(
        "ToolQA-GSM8K-v0",
        policy,
        env_args={"prompt": "bare", "max_steps": 3, "tools": ["Calculator"]},
        episodes=6,
        concurrency=4,
    )
    assert not prefixes._episodes
    policy.act([beginning(1)[0]])
    assert list(prefixes._episodes) == ["t0#0"]
    policy.forget("t0#0")
    assert not prefixes._episodes
    assert prefixes._size == sum(
        8 * 2 * p.states[0][0].numel() * len(p.states) for p in shared_of(policy)
    )


def shared_of(policy: TransformersPolicy) -> list[Prefix]:
    assert policy._generator is not None
    assert policy._generator.prefixes is not None
    return policy._generator.prefixes._shared


def states(tokens: int) -> attention.States:
    """Of one layer with two heads and five channels in float32: 80 bytes a token."""
    return [(torch.zeros(2, tokens, 5), torch.ones(2, tokens, 5))]


def test_what_was_not_asked_for_longest_goes_first() -> None:
    prefixes = Prefixes(2 * 3 * 80)
    for episode in ("a", "b", "c"):
        prefixes.keep(episode, Kept([7, 8, 9], None, states(3)))
    assert list(prefixes._episodes) == ["b", "c"]
    prefixes.keep("long", Kept(list(range(6)), None, states(6)))
    assert list(prefixes._episodes) == ["long"]  # it fills the room alone
    prefixes.keep("longer", Kept(list(range(7)), None, states(7)))
    prefixes.keep("", Kept([7, 8, 9], None, states(3)))
    assert list(prefixes._episodes) == ["long"]
    prefixes.keep("d", Kept([7, 8, 9], None, states(3)))
    assert list(prefixes._episodes) == ["d"]
    found = prefixes.take("d", [7, 8, 9, 10])
    assert found is not None
    assert found.ids == [7, 8, 9]
    assert prefixes.take("d", [7, 8, 9, 10]) is None  # it was given away
    prefixes.keep("d", Kept([7, 8, 9], None, states(3)))
    assert prefixes.take("d", [7, 8, 9]) is None  # there must be something to read
    prefixes.keep("d", Kept([7, 8, 9], None, states(3)))
    assert prefixes.take("d", [7, 8, 8, 9]) is None
    assert prefixes._size == 0


def test_the_longest_common_beginning_is_worth_sharing() -> None:
    prefixes = Prefixes(10**6)
    head = list(range(100))
    assert prefixes.worth_sharing([[*head, 1, 2]]) == []
    # The one before is remembered.
    assert prefixes.worth_sharing([[*head, 3, 4, 5]]) == [head]
    prefixes.share(Prefix(head, states(100)))
    first = prefixes.longest([*head, 9])
    assert first is not None
    assert prefixes.longest(head) is None  # there must be something to read
    assert prefixes.longest([5, *head]) is None
    assert prefixes.worth_sharing([[*head, n] for n in range(5)]) == []
    # Samples of one task have more in common.
    longer = [*head, *range(200, 250)]
    assert prefixes.worth_sharing([longer] * 3) == [longer[:-1]]
    prefixes.share(Prefix(longer[:-1], states(149)))
    assert prefixes.longest(longer) is not first
    # Another beginning altogether, beside the known one.
    other = list(range(500, 560))
    assert prefixes.worth_sharing([[*other, 1], [*head, 2], [*other, 3]]) == [other]


def test_prefixes_count_towards_the_limit() -> None:
    prefixes = Prefixes(80 * 100)
    prefixes.share(Prefix(list(range(60)), states(60)))
    prefixes.share(Prefix(list(range(100, 201)), states(101)))  # larger than the limit
    assert len(prefixes._shared) == 1
    prefixes.keep("a", Kept([1], None, states(50)))
    assert prefixes._shared == []
    assert prefixes._size == 80 * 50


def test_rows_of_like_lengths_are_attended_to_together() -> None:
    """A long row among short ones would pad them all; many short ones each alone take longer."""

    def runs(*counts: int, own: int = 0) -> list[tuple[int, int]]:
        places = [Place([0] * count, own=own) for count in counts]
        return attention._runs(1, [Place([0]), *places], torch.device("cpu"))

    assert runs() == []
    assert runs(*[12] * 60) == [(1, 61)]
    assert runs(170, 165, 172) == [(1, 4)]
    assert runs(12, 12, 12, 300, 12, 12) == [(1, 4), (4, 5), (5, 7)]
    assert runs(20, 20, own=5000) == [(1, 3)]


@pytest.mark.parametrize("kernel", ["flash", "by hand", "one block"])
def test_a_pass_gives_the_models_own_logits(
    base: Loaded, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with and without a prefix, of any length; as many query heads as keys, and more."""
    if kernel == "by hand":
        monkeypatch.setattr(attention, "_on_cpu", lambda tensor: False)
    if kernel == "one block":
        monkeypatch.setattr(attention, "_CPU_PAIRS", 1 << 30)
    for groups in (1, 2, 4):
        torch.manual_seed(groups)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=97,
                hidden_size=32,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4 // groups,
                initializer_range=0.3,
            )
        )
        model = model.to(torch.float64).eval()
        rng = torch.Generator().manual_seed(groups)

        def some(count: int, rng: Any = rng) -> list[int]:
            return torch.randint(0, 97, (count,), generator=rng).tolist()

        with torch.inference_mode():
            slots, place = Slots(), Place(some(40))
            head = list(place.fresh)
            slots.forward(model, [place])
            prefix = Prefix(head, slots.take(0, 40))
            said = [some(n) for n in (1, 1, 70, 3)]
            places = [
                Place(said[0], prefix),
                Place(said[1]),
                Place(said[2], prefix),
                Place(said[3]),
            ]
            whole = [[*(p.prefix.ids if p.prefix else []), *p.fresh] for p in places]
            slots = Slots()
            for _ in range(3):
                found = slots.forward(model, places)
                for row, ids in enumerate(whole):
                    expected = model(torch.tensor([ids])).logits[0, -1].float()
                    assert torch.allclose(found[row], expected, atol=1e-5)
                for p, ids in zip(places, whole, strict=True):
                    p.fresh = some(2 if p is places[3] else 1)
                    ids += p.fresh
    assert model.config._attn_implementation != "toolgym_rows"


def test_rows_join_and_leave_at_any_step(base: Loaded) -> None:
    """Requests come one by one while others are being answered; the replies are those of `act`."""
    requests = beginning(20)
    settings: dict[str, Any] = {"max_new_tokens": 40, "logprobs": True}
    alone = TransformersPolicy(base, cache_gib=0, **settings)
    expected = [alone.act([request])[0] for request in requests]
    policy = TransformersPolicy(base, batch_size=3, **settings)
    stream = policy.stream()
    found: dict[Hashable, Reply | Exception] = {}
    together = []
    for number, request in enumerate(requests):
        stream.begin({number: request})
        found |= stream.advance()
        together.append(len(stream._batch.rows))  # type: ignore[attr-defined]
    while len(found) < len(requests):
        found |= stream.advance()
    assert max(together) == 3
    assert list(found) != sorted(found)  # type: ignore[type-var]
    written = 0
    for number, reply in enumerate(expected):
        mine = found[number]
        assert isinstance(mine, Reply)
        assert isinstance(reply, Reply)
        assert mine.tokens is not None
        assert reply.tokens is not None
        assert same([mine.tokens], [reply.tokens])
        assert mine.tokens.logprobs == pytest.approx(reply.tokens.logprobs, abs=1e-6)
        written += len(mine.tokens.completion_ids)
    assert stream.written == written
    assert stream.advance() == {}


def test_the_shared_beginning_is_read_once(base: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = base.model.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        read.append(kwargs["input_ids"].shape[1])
        return real(*args, **kwargs)

    system = Message("system", "Be good and answer with as few words as ever you can. " * 4)
    requests = [
        dataclasses.replace(r, messages=[*to_chats([system]), *r.messages]) for r in beginning(12)
    ]
    fresh = TransformersPolicy(base, max_new_tokens=3, cache_gib=0)
    expected = fresh.act(requests)
    policy = TransformersPolicy(base, max_new_tokens=3, batch_size=4)
    monkeypatch.setattr(base.model, "forward", watched)
    assert policy.act(requests) == expected
    (prefix,) = shared_of(policy)
    prompts = [len(r.tokens.prompt_ids) for r in expected if isinstance(r, Reply) and r.tokens]
    written = [len(r.tokens.completion_ids) for r in expected if isinstance(r, Reply) and r.tokens]
    once = len(prefix.ids) + sum(prompts) - 12 * len(prefix.ids) + sum(written) - 12
    assert len(prefix.ids) > 32
    assert sum(read) == once


def test_who_was_too_much_fails_and_the_others_go_on(
    base: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out while a long prompt is read beside others."""
    requests = beginning(4)
    long = dataclasses.replace(requests[3], messages=to_chats([Message("user", "how " * 300)]))
    expected = TransformersPolicy(base, max_new_tokens=40).act(requests[:3])
    policy = TransformersPolicy(base, max_new_tokens=40)
    real = base.model.forward

    def small(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 300:
            raise torch.OutOfMemoryError("out of memory: tried to allocate everything")
        return real(*args, **kwargs)

    monkeypatch.setattr(base.model, "forward", small)
    stream = policy.stream()
    stream.begin(dict(enumerate(requests[:3])))
    found = dict(stream.advance())
    assert len(found) < 3
    stream.begin({3: long})
    while len(found) < 4:
        found |= stream.advance()
    assert [found[n] for n in range(3)] == expected
    failed = found[3]
    assert isinstance(failed, PolicyError)
    assert "a batch of 1 with up to" in str(failed)
    assert "lower batch_size or cache_gib" in str(failed)
    alone = policy.act([long, long])
    assert all(isinstance(reply, PolicyError) for reply in alone)
    assert policy.act(requests[:3]) == expected


def test_a_class_of_the_users_own_keeps_its_act(base: Loaded) -> None:
    class Shouting(TransformersPolicy):
        def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
            return [Reply("HO") for _ in super().act(requests)]

    stream = Shouting(base, max_new_tokens=3).stream()
    stream.begin(dict(enumerate(beginning(2))))
    assert stream.advance() == {0: Reply("HO"), 1: Reply("HO")}


def test_an_attention_that_wants_more_is_left_to_the_model(base: Loaded) -> None:
    """Gemma's second generation caps its scores; without sliding windows only that tells it."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=len(base.tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=["full_attention"] * 2,
        attn_logit_softcapping=0.5,
    )
    model = transformers.Gemma2ForCausalLM(config).to(torch.float64).eval()
    assert generation._seems_plain(model)
    assert not generation._is_plain(model)
    assert generation._is_plain(base.model)


@pytest.mark.parametrize("kind", ["sliding", "state-space", "alibi"])
def test_models_that_cannot_be_continued_read_every_prompt_anew(base: Loaded, kind: str) -> None:
    sizes = {"vocab_size": len(base.tokenizer), "hidden_size": 16, "num_hidden_layers": 2}
    torch.manual_seed(0)
    if kind == "sliding":
        config = transformers.MistralConfig(
            **sizes,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=24,
            sliding_window=8,
        )
        model = transformers.MistralForCausalLM(config)
    elif kind == "alibi":
        config = transformers.FalconConfig(**sizes, num_attention_heads=2, alibi=True)
        model = transformers.FalconForCausalLM(config)
    else:
        config = transformers.MambaConfig(**sizes, state_size=4, intermediate_size=32)
        model = transformers.MambaForCausalLM(config)
    model = model.to(torch.float64).eval()
    model.generation_config = transformers.GenerationConfig()
    loaded = Loaded(model, base.tokenizer, set(), "tiny")
    made = []
    for cache_gib in (0, 1.0):
        policy = TransformersPolicy(loaded, max_new_tokens=10, cache_gib=cache_gib, top_p=0.9)
        made.append(conversations(policy, 9))
    assert policy._generator is not None
    assert policy._generator.prefixes is not None
    assert not policy._generator.prefixes._episodes
    assert same(*made)


@pytest.mark.parametrize("wrong", [-0.1, float("inf"), float("nan")])
def test_bad_size(base: Loaded, wrong: float) -> None:
    with pytest.raises(BadInputError, match="cache_gib must be at least 0"):
        TransformersPolicy(base, cache_gib=wrong)

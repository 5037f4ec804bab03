"""Keys and values kept between turns: the same replies, and only what is new is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from toolgym.errors import BadInputError
from toolgym.formats import get_format
from toolgym.messages import Message, to_chats
from toolgym.policies import Reply, ReplyTokens, Request
from toolgym.rollouts.engine import rollout

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from toolgym.policies.local.generation import Prefixes, joined_cache  # noqa: E402
from toolgym.policies.local.models import Loaded, load_model  # noqa: E402
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
    monkeypatch.setattr("toolgym.policies.local.generation._is_plain", lambda model: False)
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
    assert (prefixes._known, prefixes._size) == ({}, 0)
    policy.act([beginning(1)[0]])
    assert list(prefixes._known) == ["t0#0"]
    policy.forget("t0#0")
    assert (prefixes._known, prefixes._size) == ({}, 0)


def test_what_was_not_asked_for_longest_goes_first() -> None:
    def cache() -> Any:
        made = transformers.DynamicCache()
        states = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (row, head, token, channel)
        made.update(states, -states, 0)
        return made

    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    size = 2 * 3 * 3 * 5 * 4  # bytes of three tokens: keys and values of one layer
    prefixes = Prefixes(2 * size)
    for episode in ("a", "b", "c"):
        prefixes.keep(episode, [7, 8, 9], cache(), 0, mask)
    assert list(prefixes._known) == ["b", "c"]
    prefixes.keep("long", list(range(9)), cache(), 1, torch.ones(2, 4, dtype=torch.long))
    assert list(prefixes._known) == ["long"]  # more than a half: alone
    prefixes.keep("", [7, 8, 9], cache(), 0, mask)
    prefixes.keep("d", [7, 8, 9], cache(), 0, mask)
    found = prefixes.take("d", [7, 8, 9, 10])
    assert found is not None
    assert found.ids == [7, 8, 9]
    joined, width = joined_cache([None, found])
    assert width == 3
    assert (joined.layers[0].keys[1] == cache().layers[0].keys[0][:, 1:]).all()
    assert not joined.layers[0].keys[0].any()
    prefixes.keep("d", [7, 8, 9], cache(), 0, mask)
    assert prefixes.take("d", [7, 8, 9]) is None  # there must be something to read
    assert Prefixes(size - 1).take("a", [1]) is None
    assert joined_cache([None, None]) == (None, 0)


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
    assert not policy._generator.prefixes._known
    assert same(*made)


@pytest.mark.parametrize("wrong", [-0.1, float("inf"), float("nan")])
def test_bad_size(base: Loaded, wrong: float) -> None:
    with pytest.raises(BadInputError, match="cache_gib must be at least 0"):
        TransformersPolicy(base, cache_gib=wrong)

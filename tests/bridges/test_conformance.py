"""The comparison behind `make bridges` sees what it is there to see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolgym import rollout

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
pytestmark = pytest.mark.sources


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    import benchmarks.bridges.recorded as module

    return module


def episodes(recorded: Any) -> list[Any]:
    args = {"format": "hermes", "max_steps": 4}
    run = rollout("ToolQA-GSM8K-v0", "lookup", env_args=args, episodes=3)
    return [recorded.Recorded("ToolQA-GSM8K-v0", args, record) for record in run.trajectories()]


def shift(mask: list[int]) -> list[int]:
    return [mask[-1], *mask[:-1]]


def change_tokens(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda seen: setattr(seen.tokens, name, change(getattr(seen.tokens, name)))


PERTURBED: dict[str, tuple[str, Callable[[Any], None]]] = {
    "nothing": ("", lambda seen: None),
    "a mask that is shifted": ("loss masks", change_tokens("mask", shift)),
    "a mask of ones": ("loss masks", change_tokens("mask", lambda mask: [1] * len(mask))),
    "a token that is left out": ("response ids", change_tokens("completion_ids", lambda x: x[1:])),
    "another prompt": ("prompt ids", change_tokens("prompt_ids", lambda x: [*x, 0])),
    "log-probabilities that are shifted": ("log-probabilities", change_tokens("logprobs", shift)),
    "a result that is lost": ("observations", lambda seen: seen.observations[0].clear()),
    "a role": ("opening", lambda seen: seen.opening[0].update(role="tool")),
    "a reward": ("rewards by step", lambda seen: seen.rewards.append(0.0)),
    "the sum": ("reward of the episode", lambda seen: setattr(seen, "reward", seen.reward + 1)),
    "no end": ("ends", lambda seen: setattr(seen, "done", [False] * len(seen.done))),
}


@pytest.mark.parametrize("what", PERTURBED)
def test_each_difference_is_counted_and_fails(
    recorded: Any, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    part, change = PERTURBED[what]
    made = episodes(recorded)
    speaker = recorded.Speaker(made)

    def play(episode: Any) -> Any:
        seen = copy.deepcopy(recorded.seen_of(episode))
        seen.tokens = speaker.tokens(episode)
        change(seen)
        return seen

    code = recorded.conform("it", "toolgym/bridges/skyrl.py", play, made, speaker, timed=False)
    printed = capsys.readouterr().out
    assert code == int(bool(part))
    unequal = [
        line.split("equal")[0].strip()
        for line in printed.splitlines()
        if "unequal" in line and not line.endswith(" 0")
    ]
    assert unequal == ([part] if part else [])
    assert ("first: 0 ToolQA-GSM8K-v0" in printed) == bool(part)


def test_comparing_nothing_fails(recorded: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = episodes(recorded)
    assert recorded.conform("it", "", lambda episode: recorded.Seen(), made, timed=False) == 1
    capsys.readouterr()


@pytest.mark.parametrize("whole", [True, False])
def test_sampled_tokens_are_not_those_of_the_text(recorded: Any, whole: bool) -> None:
    made = episodes(recorded)
    speaker = recorded.Speaker(made, whole)
    other = ended = 0
    for episode in made:
        tokens = speaker.tokens(episode)
        said = [speaker.said(episode, turn) for turn in range(len(episode.replies))]
        own = zip(tokens.completion_ids, tokens.mask, strict=True)
        assert [i for i, mine in own if mine] == [i for ids, _ in said for i in ids]
        for text, (ids, logprobs) in zip(episode.replies, said, strict=True):
            assert len(ids) == len(logprobs)
            assert speaker.tokenizer.decode(ids, skip_special_tokens=True) == text
            plain = speaker.tokenizer(text, add_special_tokens=False)["input_ids"]
            ended += ids[-1] == speaker.tokenizer.eos_token_id
            other += ids[: len(plain)] != plain
    assert other > 0
    assert ended == sum(len(e.replies) for e in made) or not whole


def test_a_flat_episode_has_the_same_texts(recorded: Any) -> None:
    for episode in episodes(recorded):
        flat = episode.flat()
        assert {message.role for message in flat.record.messages} <= {"user", "assistant"}
        assert flat.replies == episode.replies
        for mine, theirs in zip(flat.turns(), episode.turns(), strict=True):
            assert len(mine) <= 1
            joined = "\n\n".join(chat["content"] for chat in theirs)
            assert "".join(chat["content"] for chat in mine) == joined

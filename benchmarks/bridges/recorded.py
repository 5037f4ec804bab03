"""Recorded episodes, what is compared of them, and the lines that a bridge's conformance prints."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolgym import rollout
from toolgym.env import ToolEnv
from toolgym.messages import Chat, Message, to_chats
from toolgym.policies.base import (
    Policy,
    Reply,
    ReplyTokens,
    Request,
    cut_at_stop,
    join_tokens,
    make_policy,
)
from toolgym.rollouts.playing import Opened, open_env
from toolgym.trajectory import Tokens, Trajectory

__all__ = ["Recorded", "Seen", "Speaker", "conform", "recorded", "seen_of"]

ROOT = Path(__file__).parents[2]
_OPENED: dict[str, Opened] = {}
EPISODES = 200
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What models write beside what is asked of them, in each format; none of it may end a run.
_STUMBLES = (
    "I look at it step by step.\nAction: NoSuchTool[naïve 😀 input]",
    'Now. <tool_call>{"name": "nothing", "arguments": {"x": [1, {"y": "ü"}]}}</tool_call>',
    "Thought: this breaks off.\nAction: WikipediaSearch[",
    '<tool_call>{"name": "broken", "arguments": {',
    "  \n",
    "Answer: I do not know\n",
)


@dataclass
class Seen:
    """An episode as one of two sides saw it; None is what that side does not have.

    Args:
        opening: the messages before the policy's first reply.
        observations: by step, the messages that were new for the policy.
        rewards: by step.
        done: by step, whether the episode had ended.
        reward: of the whole episode.
        tokens: with the loss mask, 1 on the policy's own tokens.
    """

    opening: list[Chat] | None = None
    observations: list[list[Chat]] | None = None
    rewards: list[float] | None = None
    done: list[bool] | None = None
    reward: float | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Recorded:
    """One episode of ours, and what it takes to play it again.

    Args:
        env: id of the environment.
        args: its keyword arguments.
        record: as `toolgym.rollout` made it.
    """

    env: str
    args: Mapping[str, Any]
    record: Trajectory

    @property
    def task(self) -> str:
        """The task's id."""
        return self.record.task.id

    def fresh(self) -> ToolEnv:
        """An environment to play it in."""
        key = f"{self.env} {self.args}"
        if key not in _OPENED:
            _OPENED[key] = open_env(self.env, self.args)
        return _OPENED[key].play().env

    @property
    def replies(self) -> list[str]:
        """What the policy said, by turn."""
        return [str(step.action) for step in self.record.steps]

    def turns(self) -> list[list[Chat]]:
        """The new messages after each reply, without the reply itself."""
        found: list[list[Chat]] = []
        for chat in to_chats(self.record.messages)[self.record.opening :]:
            if chat["role"] == "assistant":
                found.append([])
            else:
                found[-1].append(chat)
        return found

    def flat(self) -> Recorded:
        """As a framework that takes texts sees it: one user message for all that is new."""
        record, place = self.record, self.record.opening
        said = record.messages[:place]
        messages = [Message("user", "\n\n".join(message.content for message in said))]
        for step, new in zip(record.steps, self.turns(), strict=True):
            messages.append(record.messages[place])
            messages += [Message("user", step.observation)] if new else []
            place += 1 + len(new)
        return replace(self, record=replace(record, messages=messages, examples=0))

    def requests(self) -> list[Request]:
        """What the policy was asked, by turn."""
        codec = self.fresh().format
        chats, place = to_chats(self.record.messages), self.record.opening
        found = []
        for turn, new in enumerate(self.turns()):
            found.append(
                Request(
                    chats[:place],
                    self.record.tools,
                    codec,
                    episode=f"{self.env} {self.args} {self.record.id}",
                    turn=turn,
                    examples=self.record.examples,
                )
            )
            place += 1 + len(new)
        return found


def seen_of(episode: Recorded) -> Seen:
    """An episode as ours saw it, without tokens: those are `Speaker.tokens`."""
    record = episode.record
    last = len(record.steps) - 1
    return Seen(
        opening=to_chats(record.messages)[: record.opening],
        observations=episode.turns(),
        rewards=[step.reward for step in record.steps],
        done=[place == last for place in range(last + 1)],
        reward=record.reward,
    )


@dataclass
class _Stumbling(Policy):
    """A policy, and in about every fourth turn something else than what is asked for."""

    inner: Policy
    batched = True

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        drawn = [_drawn(request.episode, turn) for turn in range(request.turn + 1)]
        if drawn[-1] % 4 == 0:
            return Reply(_STUMBLES[drawn[-1] // 4 % len(_STUMBLES)])
        stumbled = sum(number % 4 == 0 for number in drawn)
        return self.inner.act([replace(request, turn=request.turn - stumbled)])[0]

    def describe(self) -> dict[str, Any]:
        return {"policy": "stumbling", "inner": self.inner.describe()}


def _drawn(*of: Any) -> int:
    """A number from a hash: the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:6], "big")


def recorded(folder: Path, episodes: int = EPISODES) -> list[Recorded]:
    """Episodes of real environments by scripted policies, the same each time.

    Questions with a search tool and with a calculator, in three formats; scenarios with tools of
    their own; worlds that remember and whose users speak. Some are cut at ``max_steps``.

    Args:
        folder: for the worlds, which are built first; environments read them from there.
        episodes: how many.
    """
    worlds = folder / "worlds.jsonl"
    if not worlds.exists():
        build = [
            "scenarios",
            "build",
            "--author",
            "template",
            "--kind",
            "stateful",
            "--count",
            "24",
        ]
        command = [sys.executable, "-m", "toolgym.cli", *build, "--seed", "0", "--out", str(worlds)]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    scenario, popqa, gsm8k = "ToolScenario-v0", "ToolQA-PopQA-v0", "ToolQA-GSM8K-v0"
    sets: list[tuple[str, dict[str, Any], str, int]] = [
        (popqa, {}, "lookup", 5),
        (popqa, {"format": "hermes", "max_steps": 3}, "lookup", 3),
        (gsm8k, {"format": "tags"}, "lookup", 3),
        (gsm8k, {"format": "hermes", "prompt": "bare"}, "lookup", 2),
        (scenario, {}, "scenario-oracle", 4),
        (scenario, {"tasks": str(worlds)}, f"scenario-oracle:{worlds}", 3),
    ]
    found: list[Recorded] = []
    for env, args, policy, share in sets:
        count = episodes * share // 20
        run = rollout(
            env,
            _Stumbling(make_policy(policy)),
            env_args=args,
            samples_per_task=8,
            episodes=count,
        )
        assert not run.failures(), run.failures()
        found += [Recorded(env, args, record) for record in run.trajectories()]
    assert len(found) == episodes, f"{len(found)} episodes"
    return found


class Speaker:
    """Recorded replies as a model would have sampled them, and the tokens of ours for an episode.

    The tokenizer is a small byte-level one, made from the episodes. A reply's ids are not those
    that its text would be tokenised to: whoever tokenises replies again is found out.

    Args:
        episodes: whose texts make the vocabulary.
        whole: each reply ends with the end token; else about every tenth was cut before it.
    """

    def __init__(self, episodes: Sequence[Recorded], whole: bool = True) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        base = Tokenizer(models.BPE())
        base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        base.decoder = decoders.ByteLevel()
        special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        texts = (m.content for e in episodes for m in e.record.messages)
        base.train_from_iterator(texts, trainer)
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=base, eos_token="<|im_end|>", pad_token="<|pad|>"
        )
        self.tokenizer.chat_template = _TEMPLATE
        self._whole = whole

    def said(self, episode: Recorded, turn: int) -> tuple[list[int], list[float]]:
        """Ids and log-probabilities of a reply."""
        text, drawn = episode.replies[turn], _drawn(episode.env, episode.record.id, turn)
        middle = drawn % (len(text) + 1)
        ids: list[int] = []
        for part in (text[:middle], text[middle:]):
            ids += self.tokenizer(part, add_special_tokens=False)["input_ids"]
        if self._whole or drawn % 10:
            ids.append(self.tokenizer.eos_token_id)
        return ids, [-((drawn + place) % 997 + 1) / 256 for place in range(len(ids))]

    def tokens(self, episode: Recorded) -> Tokens:
        """An episode's tokens, as `toolgym.rollout` records them."""
        from toolgym.policies.local.chat import TokenChat

        chat, turns = TokenChat(self.tokenizer), []
        chats = to_chats(episode.record.messages)
        for turn, request in enumerate(episode.requests()):
            prompt = chat.prompts([request])[0]
            assert isinstance(prompt, list), prompt
            ids, logprobs = self.said(episode, turn)
            text = cut_at_stop(chat.decode(ids), request)
            assert text == cut_at_stop(episode.replies[turn], request), episode.replies[turn]
            chat.keep(request, ids, str(chats[len(request.messages)]["content"]))
            turns.append(ReplyTokens(prompt, ids, logprobs))
        joined = join_tokens(turns, "")
        assert joined is not None, "our own tokens are not exact"
        return joined


@dataclass
class _Count:
    equal: int = 0
    unequal: int = 0
    first: str = ""


def _parts(ours: Seen, theirs: Seen) -> Iterable[tuple[str, Any, Any]]:
    yield "opening", ours.opening, theirs.opening
    yield "observations", ours.observations, theirs.observations
    yield "rewards by step", ours.rewards, theirs.rewards
    yield "ends", ours.done, theirs.done
    yield "reward of the episode", ours.reward, theirs.reward
    mine, other = ours.tokens, theirs.tokens
    if mine is not None and other is not None:
        yield "prompt ids", mine.prompt_ids, other.prompt_ids
        yield "response ids", mine.completion_ids, other.completion_ids
        yield "loss masks", mine.mask, other.mask
        if other.logprobs is not None:
            near = [round(x, 5) for x in mine.logprobs or []]
            yield "log-probabilities", near, [round(x, 5) for x in other.logprobs]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float):
        return abs(ours - theirs) < 1e-6
    if isinstance(ours, list) and ours and isinstance(ours[0], float):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(abs(a - b) < 1e-6 for a, b in pairs)
    return bool(ours == theirs)


@dataclass
class Comparison:
    """Counts of equal and unequal parts over all episodes."""

    counts: dict[str, _Count] = field(default_factory=dict)

    def add(self, name: str, ours: Seen, theirs: Seen) -> None:
        """Compare one episode; what either side does not have is left out.

        Args:
            name: of the episode, for the first difference.
            ours: reference.
            theirs: as the framework saw it.
        """
        for part, mine, other in _parts(ours, theirs):
            if mine is None or other is None:
                continue
            count = self.counts.setdefault(part, _Count())
            if _same(mine, other):
                count.equal += 1
            else:
                count.unequal += 1
                told = json.dumps([mine, other], default=repr)
                count.first = count.first or f"{name}: {told:.600}"


def conform(
    bridge: str,
    module: str,
    play: Callable[[Recorded], Seen],
    episodes: Sequence[Recorded],
    speaker: Speaker | None = None,
    bare: Callable[[Recorded], object] | None = None,
    *,
    timed: bool = True,
) -> int:
    """Play the episodes through a framework, compare, print.

    Args:
        bridge: its name.
        module: path of its file below the root, whose lines are counted; empty: there is none.
        play: plays the replies of an episode through the framework's own loop.
        episodes: of `recorded`.
        speaker: whose tokens are compared.
        bare: plays the replies through the bridge alone, for its cost a step; default: `play`.
        timed: measure that cost.

    Returns:
        An exit code: 1 where anything differs, or nothing was compared.
    """
    found = Comparison()
    for number, episode in enumerate(episodes):
        ours = seen_of(episode)
        if speaker is not None:
            ours.tokens = speaker.tokens(episode)
        found.add(f"{number} {episode.env} {episode.record.id}", ours, play(episode))
    steps = sum(len(episode.replies) for episode in episodes)
    lines = len((ROOT / module).read_text().splitlines()) if module else 0
    print(f"{bridge}: {len(episodes)} episodes, {steps} steps, bridge of {lines} lines")
    for part, count in found.counts.items():
        print(f"  {part:<24} equal {count.equal:>4}  unequal {count.unequal:>4}")
        if count.first:
            print(f"    first: {count.first}")
    if timed:
        extra = _overhead(bare or play, episodes, steps)
        print(
            f"  overhead {extra:.0f} microseconds of processor time a step, beside env.step alone"
        )
    wrong = sum(count.unequal for count in found.counts.values())
    whole = {"observations", "reward of the episode"} & found.counts.keys()
    return int(wrong > 0 or not whole)


def _overhead(
    play: Callable[[Recorded], object], episodes: Sequence[Recorded], steps: int
) -> float:
    """Processor time that a step costs more than in the environment alone, in microseconds."""
    passes = [(_pass(play, episodes), _pass(_alone, episodes)) for _ in range(3)]
    return (min(mine for mine, _ in passes) - min(alone for _, alone in passes)) / steps * 1e6


def _pass(play: Callable[[Recorded], object], episodes: Sequence[Recorded]) -> float:
    begin = time.process_time()
    for episode in episodes:
        play(episode)
    return time.process_time() - begin


def _alone(episode: Recorded) -> Seen:
    env = episode.fresh()
    _, info = env.reset(options={"task": episode.task, "sample": episode.record.sample})
    opening, new, rewards, done = info["messages"], [], [], []
    for reply in episode.replies:
        before = len(info["messages"])
        _, reward, terminated, truncated, info = env.step(reply)
        new.append(info["messages"][before + 1 :])
        rewards.append(reward)
        done.append(terminated or truncated)
    env.end()
    return Seen(opening, new, rewards, done, sum(rewards))


def main() -> int:
    """Record, and play again in the environment alone: what the comparison itself says."""
    with tempfile.TemporaryDirectory() as folder:
        return conform("environment alone", "", _alone, recorded(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())

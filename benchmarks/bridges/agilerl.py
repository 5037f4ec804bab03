"""AgileRL: its harness takes our environments as they are, and gives back what we recorded.

There is no bridge: ``reset(seed)`` gives a text, ``step(text)`` the five values, and that is what
the harness asks for. It puts all that is new into one user message, so the reference does, too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from agilerl.llm_envs.harness import RolloutHarness
from gymnasium.utils import seeding

from benchmarks.bridges.recorded import Recorded, Seen, Speaker, conform, recorded
from toolgym.trajectory import Tokens

_SEEDS: dict[str, dict[str, int]] = {}


class Watched(gym.Wrapper[str, str, str, str]):
    """An environment, and what it told the harness."""

    def __init__(self, env: gym.Env[str, str]) -> None:
        super().__init__(env)
        self.opening, self.told = "", list[tuple[Any, ...]]()

    def reset(self, **given: Any) -> Any:
        """As the environment."""
        self.opening, info = super().reset(**given)
        self.told = []
        return self.opening, info

    def step(self, action: str) -> Any:
        """As the environment."""
        self.told.append(super().step(action))
        return self.told[-1]


def seed_of(episode: Recorded) -> int:
    """A seed with which the environment draws the episode's task: a harness knows no other way."""
    key = f"{episode.env} {episode.args}"
    if key not in _SEEDS:
        tasks, found = [task.id for task in episode.fresh().tasks], dict[str, int]()
        seed = 0
        while len(found) < len(tasks):
            drawn, _ = seeding.np_random(seed)
            found.setdefault(tasks[int(drawn.integers(len(tasks)))], seed)
            seed += 1
        _SEEDS[key] = found
    return _SEEDS[key][episode.task]


class Harness:
    """AgileRL's harness over the environment of an episode, and the replies that it is given."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._made: dict[str, tuple[Watched, RolloutHarness]] = {}

    def play(self, episode: Recorded) -> Seen:
        """One episode in tokens."""
        key = f"{episode.env} {episode.args}"
        if key not in self._made:
            env = Watched(gym.make(episode.env, disable_env_checker=True, **episode.args))
            made = RolloutHarness.local(env, self._speaker.tokenizer, max_turns=20)
            self._made[key] = env, made
        env, harness = self._made[key]
        prompt, _ = harness.reset(seed=seed_of(episode))
        turn, done = 0, False
        while not done:
            ids, logprobs = self._speaker.said(episode, turn)
            whole = torch.cat([prompt["input_ids"], torch.tensor([ids])], dim=1)
            prompt, _, ended, cut, _ = harness.step(whole, torch.tensor(logprobs))
            turn, done = turn + 1, ended or cut
        return self._seen(env, harness)

    def _seen(self, env: Watched, harness: RolloutHarness) -> Seen:
        whole, mask, _, rewards, sampled, *_ = harness.get_episode_data()
        ids, prompt = whole[0].tolist(), harness.turn_boundaries[0][0]
        own = [int(one) for one in mask[0, prompt - 1 :]]
        said = iter([] if sampled is None else sampled.tolist())
        logprobs = [next(said) if one else 0.0 for one in own]
        texts = [told[0] for told in env.told]
        return Seen(
            opening=[{"role": "user", "content": env.opening}],
            observations=[[{"role": "user", "content": text}] if text else [] for text in texts],
            rewards=rewards[: len(texts)].tolist(),
            done=[told[2] or told[3] for told in env.told],
            reward=float(rewards.sum()),
            tokens=Tokens(ids[:prompt], ids[prompt:], own, logprobs),
        )


def main() -> int:
    """Play whole replies, and replies that were cut before their end."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        episodes = [episode.flat() for episode in recorded(Path(folder))]
        for whole in (True, False):
            speaker = Speaker(episodes, whole)
            name = f"agilerl, replies {'whole' if whole else 'cut now and then'}"
            harness = Harness(speaker)
            wrong += conform(name, "", harness.play, episodes, speaker, timed=False)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

"""SkyRL: its generator plays recorded episodes, and gives back what we recorded of them."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import typing
from pathlib import Path
from typing import Any

import typing_extensions

if sys.version_info < (3, 12):  # pydantic refuses SkyRL's own types there: they need another base
    typing.TypedDict = typing_extensions.TypedDict  # type: ignore[misc, assignment]

import skyrl_gym
from skyrl.train.config import GeneratorConfig, SkyRLGymConfig
from skyrl.train.dataset import PromptDataset
from skyrl.train.generators.base import TrajectoryID
from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator

from benchmarks.bridges.recorded import Recorded, Seen, Speaker, conform, recorded
from toolgym.bridges.episode import COLUMN
from toolgym.bridges.skyrl import NAME, SkyRLEnv, register, skyrl_rows
from toolgym.trajectory import Tokens

_WATCHED: dict[str, Any] = {}


class Watched(SkyRLEnv):
    """The bridge's environment, and what it told the generator."""

    def __init__(self, env_config: Any = None, extras: Any = None) -> None:
        super().__init__(env_config, extras)
        _WATCHED[extras["key"]] = self
        self.opening: list[Any] = []
        self.told: list[Any] = []

    def init(self, prompt: Any) -> Any:
        """As the bridge."""
        found = super().init(prompt)
        assert prompt == found[0], "the row's prompt is not the opening"
        self.opening = list(found[0])
        return found

    def step(self, action: str) -> Any:
        """As the bridge."""
        self.told.append(super().step(action))
        return self.told[-1]


class Engine:
    """Says what was recorded, in place of an inference server."""

    model_name, weight_version = "recorded", 0

    def __init__(self, episodes: list[Recorded], speaker: Speaker) -> None:
        self._episodes, self._speaker = episodes, speaker
        self._said = [0] * len(episodes)

    async def generate(self, asked: Any, model: Any = None) -> dict[str, Any]:
        """The next reply of the episode that asks."""
        number = int(str(asked["session_ids"][0]).split("_")[0])
        ids, logprobs = self._speaker.said(self._episodes[number], self._said[number])
        self._said[number] += 1
        text = self._speaker.tokenizer.decode(ids, skip_special_tokens=True)
        return {
            "responses": [text],
            "response_ids": [ids],
            "stop_reasons": ["stop"],
            "response_logprobs": [logprobs],
        }

    async def finish_session(self, session: Any) -> None:
        """Nothing is held."""


def rows_of(episodes: list[Recorded], tokenizer: Any) -> list[dict[str, Any]]:
    """The rows of the bridge, one for each episode, read by SkyRL's own data set."""
    made: dict[str, dict[str, Any]] = {}
    rows = []
    for number, episode in enumerate(episodes):
        key = f"{episode.env} {episode.args}"
        if key not in made:
            every = skyrl_rows(episode.env, episode.args, name="watched")
            made[key] = {row[COLUMN]["task"]: row for row in every}
        row = made[key][episode.task]
        place = row[COLUMN] | {"sample": episode.record.sample}
        rows.append(row | {COLUMN: place, "key": str(number)})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read = PromptDataset(str(file), tokenizer, 100_000, num_workers=1)
        return [read[number] for number in range(len(rows))]


def main() -> int:
    """Play all episodes in one batch of the generator."""
    skyrl_gym.register(id="watched", entry_point=f"{__name__}:Watched")
    register()
    with tempfile.TemporaryDirectory() as folder:
        episodes = recorded(Path(folder))
        speaker = Speaker(episodes)
        config = GeneratorConfig(max_turns=20, max_input_length=100_000)
        engine = Engine(episodes, speaker)
        generator = SkyRLGymGenerator(config, SkyRLGymConfig(), engine, speaker.tokenizer)
        rows = rows_of(episodes, speaker.tokenizer)
        batch = {
            "prompts": [row[0] for row in rows],
            "env_classes": [row[1] for row in rows],
            "env_extras": [row[2] for row in rows],
            "sampling_params": None,
            "trajectory_ids": [TrajectoryID(str(number), 0) for number in range(len(rows))],
            "batch_metadata": None,
        }
        made = asyncio.run(generator.generate(batch))
        numbers = {id(episode): number for number, episode in enumerate(episodes)}

        def play(episode: Recorded) -> Seen:
            return _seen(made, numbers[id(episode)])

        def bare(episode: Recorded) -> None:
            place = {"env": episode.env, "env_args": json.dumps(episode.args)}
            extras = {COLUMN: place | {"task": episode.task, "sample": episode.record.sample}}
            env = skyrl_gym.make(NAME, env_config={}, extras=extras)
            env.init([])
            for reply in episode.replies:
                env.step(reply)
            env.close()

        return conform("skyrl", "toolgym/bridges/skyrl.py", play, episodes, speaker, bare)


def _seen(made: Any, number: int) -> Seen:
    """What the generator gives its trainer; the messages are those that it was told."""
    watched, mask = _WATCHED[str(number)], made["loss_masks"][number]
    rewards = made["rewards"][number]
    ends = [n for n, one in enumerate(mask) if one and not (mask[n + 1 :] or [0])[0]]
    tokens = Tokens(
        made["prompt_token_ids"][number],
        made["response_ids"][number],
        mask,
        made["rollout_logprobs"][number],
    )
    return Seen(
        opening=watched.opening,
        observations=[told["observations"] for told in watched.told],
        rewards=[rewards[end] for end in ends],
        done=[told["done"] for told in watched.told],
        reward=sum(rewards),
        tokens=tokens,
    )


if __name__ == "__main__":
    sys.exit(main())

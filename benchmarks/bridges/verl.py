"""verl: its agent loop worker plays recorded episodes, and gives back what we recorded of them."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers
import verl
from hydra import compose, initialize_config_dir
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker, register
from verl.protocol import DataProto
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.rollout.replica import TokenOutput

from benchmarks.bridges.recorded import Recorded, Seen, Speaker, conform, recorded
from toolgym.bridges.episode import COLUMN, BridgedEpisode, Turn
from toolgym.bridges.verl import VerlLoop, verl_rows, write_verl
from toolgym.trajectory import Tokens

_LONGEST = 16_384
_playing: contextvars.ContextVar[int] = contextvars.ContextVar("number of the episode")
_turns: dict[int, list[Turn]] = {}
_openings: dict[int, list[Any]] = {}


@register("watched")
class Watched(VerlLoop):
    """The bridge's loop, and what the environment told it."""

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """As the bridge."""
        _playing.set(int(row["extra_info"]["index"]))
        _openings[_playing.get()] = [dict(chat) for chat in row["raw_prompt"]]
        return await super().run(sampling_params, **row)

    def _output(self, episode: BridgedEpisode, stream: Any, *rest: Any) -> Any:
        _turns[_playing.get()] = list(stream.turns)
        return super()._output(episode, stream, *rest)


class Server:
    """Says what was recorded, in place of verl's client of a vLLM or SGLang server."""

    def __init__(self, episodes: list[Recorded], speaker: Speaker) -> None:
        self._episodes, self._speaker = episodes, speaker
        self._said = [0] * len(episodes)

    async def generate(self, request_id: str, **_: Any) -> TokenOutput:
        """The next reply of the episode that asks."""
        number = _playing.get()
        ids, logprobs = self._speaker.said(self._episodes[number], self._said[number])
        self._said[number] += 1
        return TokenOutput(token_ids=ids, log_probs=logprobs)


def rows_of(episodes: list[Recorded]) -> list[dict[str, Any]]:
    """The rows of the bridge, one for each episode."""
    made: dict[str, dict[str, Any]] = {}
    rows = []
    for number, episode in enumerate(episodes):
        key = f"{episode.env} {episode.args}"
        if key not in made:
            every = verl_rows(episode.env, episode.args)
            made[key] = {row["extra_info"][COLUMN]["task"]: row for row in every}
        row = made[key][episode.task]
        extra = row["extra_info"]
        place = extra[COLUMN] | {"sample": episode.record.sample}
        told = {"extra_info": extra | {"index": number, COLUMN: place}, "agent_name": "watched"}
        rows.append(row | told)
    return rows


def played(episodes: list[Recorded], speaker: Speaker, family: str, folder: Path) -> DataProto:
    """All episodes in one batch of verl's worker.

    Args:
        episodes: to be played.
        speaker: says the replies.
        family: of the model, by which verl chooses how it continues tokens.
        folder: for model settings and rows.
    """
    model = folder / family
    speaker.tokenizer.save_pretrained(model)
    kind = f"{family.capitalize()}ForCausalLM"
    transformers.AutoConfig.for_model(family, architectures=[kind]).save_pretrained(model)
    # A family splits words in its own way, and what verl loads is a tokenizer of the family.
    speaker.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    file = write_verl(folder / f"{family}.parquet", rows_of(episodes))
    settings = Path(verl.__file__).parent / "trainer" / "config"
    with initialize_config_dir(str(settings), version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=[
                f"actor_rollout_ref.model.path={model}",
                "actor_rollout_ref.rollout.name=vllm",
                "actor_rollout_ref.rollout.calculate_log_probs=true",
                f"actor_rollout_ref.rollout.prompt_length={_LONGEST}",
                f"actor_rollout_ref.rollout.response_length={_LONGEST}",
                "data.filter_overlong_prompts=false",
            ],
        )
    data = RLHFDataset(str(file), speaker.tokenizer, config.data)
    rows = collate_fn([data[number] for number in range(len(data))])
    worker = AgentLoopWorker(config, Server(episodes, speaker))
    return asyncio.run(worker.generate_sequences(DataProto.from_single_dict(rows)))


def _seen(made: DataProto, number: int) -> Seen:
    """What the worker gives verl's trainer; the messages are those that the loop was told."""
    batch, turns = made.batch, _turns[number]
    read = batch["attention_mask"][number].bool()
    width = batch["prompts"].shape[1]
    response = read[width:]
    scores = made.non_tensor_batch["turn_scores"][number]
    return Seen(
        opening=_openings[number],
        observations=[turn.messages for turn in turns],
        rewards=[float(score) for score in scores],
        done=[turn.done for turn in turns],
        reward=float(batch["rm_scores"][number].sum()),
        tokens=Tokens(
            batch["prompts"][number][read[:width]].tolist(),
            batch["responses"][number][response].tolist(),
            batch["response_mask"][number][response].tolist(),
            batch["rollout_log_probs"][number][response].tolist(),
        ),
    )


def main() -> int:
    """Play with the builder of Qwen's family and with the general one, replies whole and cut."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        episodes = recorded(Path(folder))
        numbers = {id(episode): number for number, episode in enumerate(episodes)}
        for family, whole in (("qwen2", True), ("llama", True), ("qwen2", False), ("llama", False)):
            speaker = Speaker(episodes, whole)
            made = played(episodes, speaker, family, Path(folder))

            def play(episode: Recorded, made: DataProto = made) -> Seen:
                return _seen(made, numbers[id(episode)])

            name = f"verl, {family}, replies {'whole' if whole else 'cut now and then'}"
            timed = (family, whole) == ("qwen2", True)
            file = "toolgym/bridges/verl.py"
            wrong += conform(name, file, play, episodes, speaker, bare, timed=timed)
    return int(wrong > 0)


def bare(episode: Recorded) -> None:
    """The bridge without verl: its tokens are verl's own work."""
    place = {"env": episode.env, "env_args": dict(episode.args), "task": episode.task}
    bridged = BridgedEpisode({COLUMN: place | {"sample": episode.record.sample}})
    bridged.begin()
    for reply in episode.replies:
        bridged.step(reply)
    bridged.close()


if __name__ == "__main__":
    sys.exit(main())

"""Episodes inside a training step: the current model plays our environments, in tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_rows
from toolgym._util.optional import require_extra
from toolgym.env import ToolEnv
from toolgym.episodes.branching import Snapshot
from toolgym.errors import BadInputError, EndpointError, PolicyError
from toolgym.policies.base import Policy, Reply, ReplyTokens, Request, join_tokens
from toolgym.policies.local.models import Loaded
from toolgym.policies.local.transformers import TransformersPolicy
from toolgym.rollouts.runs import episode_seed
from toolgym.training.config import rank
from toolgym.trajectory import Trajectory
from toolgym.vector import step_together

__all__ = ["Live", "Played", "Player", "Start", "starts_from_episodes", "starts_from_tasks"]

Live = Callable[[Any], Policy]
"""Takes the model in training; the policy writes with the weights that it has now."""

_ROUNDING = 0.1  # mean difference of a log-probability; of a single one bfloat16 makes 0.06
_MAX_FAILED = 0.5  # of a step's episodes; more mean a mistake, not bad luck


@dataclass(frozen=True, slots=True)
class Start:
    """Where an episode of a training step begins.

    Args:
        task: id of the task.
        actions: replies that are played again first; the loss does not see them.
        env: number of the environment.
    """

    task: str
    actions: tuple[str, ...] = ()
    env: int = 0

    @property
    def key(self) -> str:
        """Names it in the trainer's rows."""
        text = "\x00".join((str(self.env), self.task, *self.actions))
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.env}:{self.task}@{len(self.actions)}-{digest}"


def starts_from_tasks(envs: Sequence[ToolEnv]) -> list[Start]:
    """The beginning of every task of every environment."""
    return [Start(task.id, env=number) for number, env in enumerate(envs) for task in env.tasks]


def starts_from_episodes(
    envs: Sequence[ToolEnv], trajectories: Iterable[Trajectory]
) -> list[Start]:
    """Every prefix of recorded episodes, each once, the empty ones too (arXiv 2508.08791).

    Held are the replies of different prefixes, which the trainer begins from in any order.

    Args:
        envs: must hold their tasks.
        trajectories: of these environments.

    Raises:
        BadInputError: an episode of another task set, or there are none.
    """
    known = {(t.id, t.question): n for n, env in enumerate(envs) for t in env.tasks}
    found: dict[Start, None] = {}
    for trajectory in trajectories:
        number = known.get((trajectory.task.id, trajectory.task.question))
        if number is None:
            sources = ", ".join(repr(env.tasks.source) for env in envs)
            raise BadInputError(
                f"episode {trajectory.id!r} is of no task in {sources}: record prefixes in the "
                "environment that is trained in"
            )
        said = [step.action for step in trajectory.steps]
        for count in range(len(said)):
            found.setdefault(Start(trajectory.task.id, tuple(said[:count]), number))
    if not found:
        raise BadInputError("there is no episode with a turn to take prefixes from")
    return list(found)


@dataclass(slots=True)
class _Episode:
    env: ToolEnv
    key: str
    seed: int
    first: int
    info: dict[str, Any]
    turns: list[ReplyTokens | None] = field(default_factory=list)
    failure: str = ""

    def request(self) -> Request:
        turn = self.first + len(self.turns)
        return Request(
            messages=self.info["messages"],
            tools=self.info["tools"],
            format=self.env.format,
            seed=episode_seed(self.seed, turn),
            episode=self.key,
            turn=turn,
            examples=self.info.get("examples", 0),
            tokens_left=self.env.tokens_left,
        )

    def spent(self) -> int:
        """Tokens after the first prompt."""
        done = [turn for turn in self.turns if turn is not None]
        if not done:
            return 0
        total = len(done[-1].prompt_ids) + len(done[-1].completion_ids)
        return total - len(done[0].prompt_ids)


@dataclass
class Played:
    """Episodes as TRL takes them, one entry a row.

    Args:
        prompt_ids: [row][prompt] before the first token that counts.
        completion_ids: [row][completion] replies and tool output.
        mask: [row][completion] 1 = written by the policy.
        logprobs: [row][completion] at temperature 1, 0.0 where the mask is 0.
        parts: [row] unweighted rewards by name; None leaves the row out of the loss.
    """

    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    mask: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    parts: list[dict[str, float] | None] = field(default_factory=list)


@dataclass
class Player:
    """Plays the episodes of a training step; what TRL calls a rollout function.

    Args:
        envs: shared by all episodes of a step through clones; their rewards have equal names.
        tokenizer: the model's.
        starts: by key.
        credit: ``episode``: play to the end, and sum each reward over the turns; ``turn``: play
            one turn, and take its own reward.
        sampling: temperature and the like, see `TransformersPolicy`.
        max_tokens: an episode is cut after the turn that passes so many tokens.
        seed: of the training.
        record: folder for the episodes of each step, or None.
        branch_after: turns of a group that are played once: its episodes branch from there.
        served: what plays with the weights of a model in training, where this process does not.
        generations: episodes of a group, which may be spread over processes; 0: those that follow
            each other.
    """

    envs: Sequence[ToolEnv]
    tokenizer: Any
    starts: Mapping[str, Start]
    credit: str
    sampling: Mapping[str, Any]
    max_tokens: int
    seed: int
    record: Path | None = None
    branch_after: int = 0
    served: Live | None = None
    generations: int = 0

    def __call__(self, model: Any, keys: Sequence[str], step: int) -> Played:
        """Play one episode for each key.

        Args:
            model: in evaluation mode.
            keys: of starting points; those of a group follow each other.
            step: optimiser steps so far; fixes the seeds, so that a resumed step is the same.

        Raises:
            PolicyError: the model failed in more than half of the episodes, or its server is lost.
        """
        policy = self._policy(model)
        # A group may be spread over processes: each of its episodes has its own place and seed.
        places = range(rank() * len(keys), (rank() + 1) * len(keys))
        episodes = self._begin(policy, list(zip(keys, places, strict=True)), step)
        running = [episode for episode in episodes if not episode.failure]
        while running:
            running = self._turn(policy, running)
        played = Played()
        for episode in episodes:
            self._collect(played, episode)
        policy.close()
        self._judge(episodes)
        if self.served is not None:
            _require_own_weights(model, played)
        if self.record is not None:
            rows = (self._record(episode).to_row() for episode in episodes)
            own = f"-{rank()}" if rank() else ""
            write_rows(self.record / f"step-{step + 1:06}{own}.jsonl", rows)
        return played

    def _policy(self, model: Any) -> Policy:
        if self.served is not None:
            return self.served(model)
        loaded = Loaded(model, self.tokenizer, self._ends(model), "in training")
        return TransformersPolicy(loaded, logprobs=True, **self.sampling)

    def _begin(self, policy: Policy, asked: Sequence[tuple[str, int]], step: int) -> list[_Episode]:
        """The episodes of a step; those of a group go on from one beginning, where it has one."""
        episodes: list[_Episode] = []
        shared = self.branch_after or any(self.starts[key].actions for key, _ in asked)
        size = self.generations or len(asked)
        for (key, group), places in groupby(asked, key=lambda one: (one[0], one[1] // size)):
            others = [place for _, place in places]
            # The first of a group leads it, in each process that has a part of it.
            first = group * size if self.generations else others[0]
            leader = self._start(key, first, step)
            moment = self._played_once(policy, leader) if self.branch_after else None
            if moment is None and shared and not leader.failure:
                moment = leader.env.snapshot()
            if first == others[0]:
                episodes.append(leader)
                del others[0]
            for place in others:
                if moment is None:
                    episodes.append(self._start(key, place, step))
                    continue
                env = leader.env.clone()
                info = env.restore(moment, place)
                seed = episode_seed(self.seed, step, place, key)
                episodes.append(_Episode(env, f"{key}#{place}", seed, leader.first, info))
        return episodes

    def _played_once(self, policy: Policy, leader: _Episode) -> Snapshot | None:
        """Play a group's first turns, but for one that would end the episode; the moment after."""
        moment = None if leader.failure else leader.env.snapshot()
        for _ in range(self.branch_after if moment is not None else 0):
            self._turn(policy, [leader])
            leader.turns.clear()
            if leader.failure or leader.env.ended:
                break
            leader.first += 1
            moment = leader.env.snapshot()
        if moment is not None:
            # Its own way from here is a sample like the others'.
            leader.info, leader.failure = leader.env.restore(moment), ""
        return moment

    def _start(self, key: str, place: int, step: int) -> _Episode:
        start = self.starts[key]
        env = self.envs[start.env].clone()
        _, info = env.reset(
            seed=episode_seed(self.seed, key), options={"task": start.task, "sample": place}
        )
        episode = _Episode(
            env,
            f"{key}#{place}",
            episode_seed(self.seed, step, place, key),
            len(start.actions),
            info,
        )
        for action in start.actions:
            *_, episode.info = env.step(action)
            if env.ended:
                episode.failure = "the recorded prefix ends the episode now"
                break
        return episode

    def _turn(self, policy: Policy, running: list[_Episode]) -> list[_Episode]:
        replies = policy.act([episode.request() for episode in running])
        playing: list[tuple[_Episode, str]] = []
        for episode, reply in zip(running, replies, strict=True):
            if isinstance(reply, Reply):
                episode.turns.append(reply.tokens)
                playing.append((episode, reply.turn))
            elif isinstance(reply, EndpointError) and reply.kind == "ended":
                raise reply
            else:
                episode.failure = str(reply)
        stepped = step_together([e.env for e, _ in playing], [text for _, text in playing])
        for (episode, _), outcome in zip(playing, stepped, strict=True):
            if isinstance(outcome, Exception):
                raise outcome
            episode.info = outcome[-1]
        if self.credit == "turn":
            return []
        return [e for e, _ in playing if not e.env.ended and e.spent() < self.max_tokens]

    def _collect(self, played: Played, episode: _Episode) -> None:
        tokens = join_tokens(episode.turns, "") if not episode.failure else None
        if not episode.failure and tokens is None:
            episode.failure = _why_inexact(episode.turns)
        if tokens is None:
            # One masked token: rows may not be empty, and without a reward it changes nothing.
            played.prompt_ids.append([self.tokenizer.pad_token_id])
            played.completion_ids.append([self.tokenizer.pad_token_id])
            played.mask.append([0])
            played.logprobs.append([0.0])
            played.parts.append(None)
            return
        played.prompt_ids.append(tokens.prompt_ids)
        played.completion_ids.append(tokens.completion_ids)
        played.mask.append(tokens.mask)
        played.logprobs.append(tokens.logprobs or [0.0] * len(tokens.mask))
        steps = episode.env.trajectory.steps[episode.first :]
        names = episode.env.rubric.weights
        played.parts.append(
            {name: sum(step.reward_parts.get(name, 0.0) for step in steps) for name in names}
        )

    def _judge(self, episodes: list[_Episode]) -> None:
        failed = [episode for episode in episodes if episode.failure]
        if len(failed) > _MAX_FAILED * len(episodes):
            raise PolicyError(
                f"{len(failed)} of {len(episodes)} episodes of a training step cannot be used: "
                f"{failed[0].failure}"
            )

    def _record(self, episode: _Episode) -> Trajectory:
        return replace(episode.env.trajectory, tokens=join_tokens(episode.turns, ""))

    def _ends(self, model: Any) -> set[int]:
        ends = getattr(model.config, "eos_token_id", None)
        listed = ends if isinstance(ends, list) else [ends]
        return {int(end) for end in listed if end is not None}


def _require_own_weights(model: Any, played: Played) -> None:
    """Compare what a server says of an episode's tokens with the model in training.

    Raises:
        BadInputError: they differ by more than rounding: it writes with other weights.
    """
    torch = require_extra("torch", "train")
    for prompt, completion, mask, said in zip(
        played.prompt_ids, played.completion_ids, played.mask, played.logprobs, strict=True
    ):
        if not any(mask):
            continue
        ids = torch.tensor([[*prompt, *completion]], device=model.device)
        with torch.no_grad():
            kept = len(completion) + 1
            logits = model(input_ids=ids, logits_to_keep=kept).logits[0, :-1].float()
        own = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
        apart = (own - torch.tensor(said)).abs()[torch.tensor(mask, dtype=torch.bool)].mean()
        if not apart < _ROUNDING:
            raise BadInputError(
                f"the server writes with other weights than those that it was told to load: its "
                f"log-probabilities are {float(apart):.2f} from the model's; GRPO cannot play "
                "through it, set sampling.engine: local"
            )
        return


def _why_inexact(turns: Sequence[ReplyTokens | None]) -> str:
    known = [turn for turn in turns if turn is not None]
    for before, after in pairwise(known):
        if len(after.prompt_ids) < len(before.prompt_ids) + len(before.completion_ids):
            return "a prompt was cut; raise max_prompt_tokens, or lower max_length"
    return "the chat template renders earlier turns anew; use credit='turn'"

"""Who plays in `rollout_local.py`: our engine and a plain loop; what everyone plays."""

from __future__ import annotations

import contextlib
import functools
import time
import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym import ToolEnv, rollout
from toolgym.policies import Reply, Request
from toolgym.policies.base import Stream
from toolgym.policies.local.generation import PackedBatch
from toolgym.policies.local.models import Loaded, load_model
from toolgym.policies.local.transformers import RowStream, TransformersPolicy
from toolgym.rollouts import engine
from toolgym.rollouts.playing import make_env

ENVIRONMENTS = {"arithmetic": "ToolQA-GSM8K-v0", "entities": "ToolQA-PopQA-v0"}
TURNS = 4
"""Most replies of an episode."""
PARTS = ("network", "sampling, its loop", "templates, token ids", "calls and steps")
"""Where time goes; the last one is what environments and tools do in a turn."""
NETWORK, LOOP, TEXTS, TOOLS = PARTS


@dataclass
class World:
    """What everyone plays.

    Args:
        model: the model's folder.
        loaded: the model, shared.
        families: [family] environment id, its arguments, and an environment of them.
        tokens: longest reply.
    """

    model: Path
    loaded: Loaded
    families: list[tuple[str, dict[str, Any], ToolEnv]]
    tokens: int


@dataclass
class Played:
    """What one pass over all episodes came to.

    Args:
        episodes: number of them.
        tokens: sampled tokens that belong to replies.
        right: by task whether the episode ended with the right answer.
        inside: seconds in the policy, where the contender has one.
        wall: seconds in all.
        cpu: seconds of all threads.
        replies: by task what was said, for scoring afterwards.
    """

    episodes: int = 0
    tokens: int = 0
    right: dict[str, bool] = field(default_factory=dict)
    inside: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    replies: dict[str, list[str]] = field(default_factory=dict)


def open_world(model: Path, files: Path, work: Path, episodes: int, tokens: int) -> World:
    """Load the model and make the environments, with the first questions of each test file.

    Args:
        model: the base's folder.
        files: its world's folder.
        work: for the task files.
        episodes: in all, half of each family.
        tokens: longest reply.
    """
    families = []
    for name, env_id in ENVIRONMENTS.items():
        rows = (files / f"{name}-test.jsonl").read_text("utf-8").splitlines(keepends=True)
        count = episodes // len(ENVIRONMENTS)
        if not 0 < count <= len(rows):
            raise SystemExit(f"--episodes: {name} has {len(rows)} questions, not {count}")
        chosen = work / f"{name}.jsonl"
        chosen.write_text("".join(rows[:count]), "utf-8")
        arguments: dict[str, Any] = {
            "tasks": str(chosen),
            "corpus": str(files / "passages.jsonl"),
            "tools": ["WikipediaSearch", "Calculator"],
            "prompt": "bare",
            "format": "react",
            "max_steps": TURNS,
            "service": {"cache": False},
        }
        families.append((env_id, arguments, make_env(env_id, arguments)))
    loaded = load_model(str(model), adapter=None, device=None, dtype="auto")
    return World(model, loaded, families, tokens)


class Clock(defaultdict[str, float]):
    """Seconds by label; those of a part that runs within another count for the inner one only."""

    def __init__(self) -> None:
        super().__init__(float)
        self._inner: list[float] = []

    @contextlib.contextmanager
    def around(self, owner: Any, name: str, label: str) -> Iterator[None]:
        """Time a function of a module, class or object."""
        real = getattr(owner, name)
        own = name in vars(owner)

        @functools.wraps(real)  # generate reads the signature of forward
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - began
                self[label] += seconds - self._inner.pop()
                if self._inner:
                    self._inner[-1] += seconds

        setattr(owner, name, timed)
        try:
            yield
        finally:
            if own:
                setattr(owner, name, real)
            else:
                delattr(owner, name)


class Contender:
    """One way to play; ``whole`` episodes or only first turns."""

    whole = True

    def __init__(self, name: str, width: int = 1, basis: str = "") -> None:
        self.name, self.width, self.basis = name, width, basis or name

    def open(self, world: World) -> None:
        """Get ready; not timed."""

    def play(self, world: World, seed: int) -> Played:
        """Play all episodes once; timed."""
        raise NotImplementedError

    def score(self, world: World, played: Played) -> None:
        """Play the replies again where the contender itself does not score; not timed."""
        for _, _, env in world.families if self.whole else []:
            for task in env.tasks:
                if task.id not in played.replies:
                    continue
                env.reset(options={"task": task.id})
                rewards = [0.0]
                for text in played.replies[task.id]:
                    if not env.ended:
                        rewards.append(env.step(text)[1])
                played.right[task.id] = rewards[-1] > 0

    @contextlib.contextmanager
    def clocks(self, world: World) -> Iterator[Clock]:
        """Clocks with the labels of `PARTS`."""
        clock = Clock()
        with contextlib.ExitStack() as stack:
            for owner, name, label in self.parts(world):
                stack.enter_context(clock.around(owner, name, label))
            yield clock

    def parts(self, world: World) -> list[tuple[Any, str, str]]:
        """What is timed: owner, function, label."""
        return [
            (world.loaded.model, "forward", NETWORK),
            (ToolEnv, "step", TOOLS),
            (engine, "step_together", TOOLS),
        ]


class Timed(TransformersPolicy):
    """Our policy with a clock around its stream, and a count of what it sampled."""

    seconds = 0.0
    sampled = 0

    def stream(self) -> Stream:
        """As the policy's, watched."""
        return _Watched(self, super().stream())


class _Watched(Stream):
    def __init__(self, policy: Timed, stream: Stream) -> None:
        self._policy, self._stream = policy, stream

    def begin(self, requests: Mapping[Hashable, Request]) -> None:
        began = time.perf_counter()
        self._stream.begin(requests)
        self._policy.seconds += time.perf_counter() - began

    def advance(self) -> Mapping[Hashable, Reply | Exception]:
        began = time.perf_counter()
        replies = self._stream.advance()
        self._policy.seconds += time.perf_counter() - began
        self._policy.sampled += sum(map(_tokens, replies.values()))
        return replies


def _tokens(reply: Reply | Exception) -> int:
    if isinstance(reply, Exception) or reply.tokens is None:
        raise SystemExit(f"no tokens in {reply!r:.300}")
    return len(reply.tokens.completion_ids)


class Ours(Contender):
    """`rollout` with `TransformersPolicy`, so many episodes at once."""

    def play(self, world: World, seed: int) -> Played:
        """A run an environment, kept in memory."""
        played = Played()
        for env_id, arguments, _ in world.families:
            policy = Timed(world.loaded, max_new_tokens=world.tokens, batch_size=self.width)
            run = rollout(env_id, policy, env_args=arguments, seed=seed, concurrency=self.width)
            for trajectory in run.trajectories():
                played.episodes += 1
                played.right[trajectory.task.id] = trajectory.steps[-1].reward > 0
            played.tokens += policy.sampled
            played.inside += policy.seconds
        return played

    def parts(self, world: World) -> list[tuple[Any, str, str]]:
        """The policy's own parts, too."""
        own = [(RowStream, "begin", TEXTS), (RowStream, "advance", TEXTS)]
        own += [(PackedBatch, "step", LOOP), (PackedBatch, "join", LOOP)]
        return own + super().parts(world)


class FirstTurns(Contender):
    """`TransformersPolicy` alone: the first reply to every question, in batches."""

    whole = False

    def open(self, world: World) -> None:
        """Ask every question once."""
        self._requests = []
        for _, _, env in world.families:
            for task in env.tasks:
                _, info = env.reset(options={"task": task.id})
                self._requests.append((info["messages"], info["tools"], env.format, task.id))

    def play(self, world: World, seed: int) -> Played:
        """One call of the policy a batch."""
        policy = Timed(world.loaded, max_new_tokens=world.tokens, batch_size=self.width)
        for begin in range(0, len(self._requests), self.width):
            batch = self._requests[begin : begin + self.width]
            replies = policy.act(
                [
                    Request(
                        messages, tools, codec, zlib.crc32(f"{seed} {task}".encode()), f"{task}#0"
                    )
                    for messages, tools, codec, task in batch
                ]
            )
            policy.sampled += sum(map(_tokens, replies))
        return Played(len(self._requests), policy.sampled)


class Plain(Contender):
    """Chat template, ``generate``, decode, step: one episode after the other."""

    def play(self, world: World, seed: int) -> Played:
        """All of both environments."""
        import torch

        torch.manual_seed(seed)
        played = Played()
        model, tokenizer = world.loaded.model, world.loaded.tokenizer
        config = sampling_config(world)
        for _, _, env in world.families:
            for task in env.tasks:
                _, info = env.reset(options={"task": task.id})
                ended, reward = False, 0.0
                while not ended:
                    encoded = tokenizer.apply_chat_template(
                        info["messages"],
                        add_generation_prompt=True,
                        return_tensors="pt",
                        return_dict=True,
                    )
                    with torch.inference_mode():
                        out = model.generate(**encoded, generation_config=config)
                    fresh = out[0, encoded["input_ids"].shape[1] :]
                    text = tokenizer.decode(fresh, skip_special_tokens=True)
                    _, reward, terminated, truncated, info = env.step(text)
                    ended = terminated or truncated
                    played.tokens += len(fresh)
                played.right[task.id] = reward > 0
                played.episodes += 1
        return played

    def score(self, world: World, played: Played) -> None:
        """Done while it played."""

    def parts(self, world: World) -> list[tuple[Any, str, str]]:
        """Its policy is the template, ``generate`` and the decoding."""
        tokenizer, model = world.loaded.tokenizer, world.loaded.model
        own = [
            (tokenizer, "apply_chat_template", TEXTS),
            (tokenizer, "decode", TEXTS),
            (model, "generate", LOOP),
        ]
        return own + super().parts(world)


def sampling_config(world: World) -> Any:
    """Plain sampling at temperature 1 until the end token."""
    from transformers import GenerationConfig

    tokenizer = world.loaded.tokenizer
    return GenerationConfig(
        max_new_tokens=world.tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=sorted(world.loaded.ends),
        pad_token_id=tokenizer.pad_token_id,
    )

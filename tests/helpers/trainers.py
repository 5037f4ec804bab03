"""Stand-ins for the parts of SkyRL and verl that the bridges touch, as their wheels have them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any


def module(name: str, **names: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(names)
    return made


def skyrl_gym() -> dict[str, ModuleType]:
    """skyrl-gym 0.4: a registry, and the base class of environments."""
    registry: dict[str, Any] = {}

    def register(id: str, entry_point: str) -> None:
        assert id not in registry, f"{id} is already registered"
        registry[id] = entry_point

    class BaseTextEnv:
        def __init__(self) -> None:
            self.turns, self.max_turns = 0, 1

    registration = module("skyrl_gym.envs.registration", registry=registry)
    base = module("skyrl_gym.envs.base_text_env", BaseTextEnv=BaseTextEnv)
    envs = module("skyrl_gym.envs", registration=registration, base_text_env=base)
    parts = (module("skyrl_gym", register=register, envs=envs), envs, registration, base)
    return {part.__name__: part for part in parts}


@dataclass
class Output:
    """verl's ``AgentLoopOutput``; no field beside those that it has."""

    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    metrics: Any
    response_logprobs: list[float] | None = None
    reward_score: float | None = None
    num_turns: int = 0
    extra_fields: dict[str, Any] = field(default_factory=dict)


class Builder:
    """verl's general builder of continuous tokens: what stands between replies, by rendering."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def render(self, chats: list[Any], generation: bool = False) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            chats, tokenize=False, add_generation_prompt=generation
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def between(self, new: list[Any], last: int) -> list[int]:
        before = [{"role": "user", "content": "a"}]
        return self.render(before + new, generation=True)[len(self.render(before)) :]


class QwenBuilder(Builder):
    """verl's builder of Qwen's family: it writes the line break behind an end token."""

    def between(self, new: list[Any], last: int) -> list[int]:
        ended = last == self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        newline = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return (list(newline) if ended else []) + super().between(new, last)


class AgentLoopBase:
    """What a loop of verl 0.9 is made with, and its three ways to write tokens."""

    builder: type[Builder] = Builder

    def __init__(self, server: Any, tokenizer: Any, **rollout: Any) -> None:
        settings = {"response_length": 100_000, "name": "vllm", **rollout}
        self.rollout_config = SimpleNamespace(**settings)
        self.server_manager, self.tokenizer = server, tokenizer
        self.apply_chat_template_kwargs: dict[str, Any] = {}
        self.continuous_token_builder = self.builder(tokenizer)
        self.loop = asyncio.get_running_loop()

    async def ct_build_initial_tokens(self, messages: list[Any]) -> list[int]:
        return self.continuous_token_builder.render(messages, generation=True)

    async def ct_merge_assistant_token(
        self, ids: Any, said: Any, mask: Any, logprobs: Any, assistant_logprobs: Any
    ) -> Any:
        if logprobs is not None:
            assert len(assistant_logprobs) == len(said)
            logprobs = logprobs + assistant_logprobs
        return SimpleNamespace(token_ids=ids + said), mask + [1] * len(said), logprobs

    async def ct_merge_context_msg(
        self, before: Any, after: Any, ids: Any, mask: Any, logprobs: Any
    ) -> Any:
        assert after[: len(before)] == before, "messages are only ever added"
        more = self.continuous_token_builder.between(after[len(before) :], ids[-1])
        if logprobs is not None:
            logprobs = logprobs + [0.0] * len(more)
        return SimpleNamespace(token_ids=ids + more), mask + [0] * len(more), logprobs


def verl() -> dict[str, ModuleType]:
    """verl 0.9: the registry of agent loops, their base class, and what they give back."""
    registry: dict[str, Any] = {}

    def register(name: str) -> Any:
        def keep(made: type) -> type:
            registry[name] = made
            return made

        return keep

    @contextmanager
    def simple_timer(name: str, metrics: dict[str, float]) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        metrics[name] = metrics.get(name, 0.0) + time.perf_counter() - begin

    loops = module(
        "verl.experimental.agent_loop.agent_loop",
        AgentLoopBase=AgentLoopBase,
        AgentLoopOutput=Output,
        AgentLoopMetrics=SimpleNamespace,
        register=register,
        simple_timer=simple_timer,
        registry=registry,
    )
    tokens = module("verl.utils.tokenizer.continuous_token", ContinuousTokenBuilder=Builder)
    packages = ("verl", "verl.experimental", "verl.experimental.agent_loop", "verl.utils")
    parents = {name: module(name) for name in (*packages, "verl.utils.tokenizer")}
    return parents | {loops.__name__: loops, tokens.__name__: tokens}


class Server:
    """Gives replies one after the other, in place of verl's client of a server.

    Args:
        replies: ids and log-probabilities.
    """

    def __init__(self, replies: list[tuple[list[int], list[float] | None]]) -> None:
        self._replies = iter(replies)
        self.prompts: list[list[int]] = []
        self.sampling: dict[str, Any] = {}

    async def generate(self, request_id: str, prompt_ids: Any, sampling_params: Any) -> Any:
        self.prompts.append(list(prompt_ids))
        self.sampling = sampling_params
        ids, logprobs = next(self._replies)
        fields = {"min_global_steps": len(self.prompts), "max_global_steps": len(self.prompts)}
        return SimpleNamespace(token_ids=ids, log_probs=logprobs, extra_fields=fields)

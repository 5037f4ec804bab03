"""Conformance of the bridge to verifiers: recorded episodes through its own rollouts.

A stand-in for the model's server gives the recorded replies: as chat completions, and as token ids
where verifiers asks as prime-rl's training does. Run it with `make bridge-verifiers`: verifiers has
its own virtual environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import verifiers.v1 as vf
from aiohttp import web
from renderers import Qwen3RendererConfig
from verifiers.v1.clients.client import SESSION_ID_HEADER
from verifiers.v1.dialects.chat import message_to_wire
from verifiers.v1.serve import EnvClient, EnvServer

from benchmarks.bridges.recorded import Recorded, Seen, Speaker, conform, recorded
from toolgym.bridges.verifiers import ToolgymHarness
from toolgym.trajectory import Tokens

MODULE = "toolgym_conformance"
AT_ONCE = 16
QWEN = ("<|endoftext|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
QWEN += ("<think>", "</think>")


class StandIn:
    """A model's server that says what was recorded, to each rollout its own episode."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker, self.episodes = speaker, dict[str, Recorded]()
        self.plain = False  # whether replies are tokenised as their text would be
        self._turns: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def said(self, episode: Recorded, turn: int) -> tuple[list[int], list[float]]:
        """Ids and log-probabilities of a reply."""
        if not self.plain:
            return self.speaker.said(episode, turn)
        tokenizer = self.speaker.tokenizer
        ids = tokenizer(episode.replies[turn], add_special_tokens=False)["input_ids"]
        return [*ids, tokenizer.eos_token_id], [-0.5] * (len(ids) + 1)

    def _next(self, request: web.Request) -> tuple[Recorded, int]:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        key = request.headers.get(SESSION_ID_HEADER, bearer)
        return self.episodes[key], next(self._turns[key])

    async def chat(self, request: web.Request) -> web.Response:
        """A chat completion."""
        episode, turn = self._next(request)
        message = {"role": "assistant", "content": episode.replies[turn]}
        # As vLLM says that no stop text ended the reply.
        choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "stand-in"}
        return web.json_response({**body, "choices": [choice], "usage": usage})

    async def generate(self, request: web.Request) -> web.Response:
        """Token ids, as vLLM gives them to verifiers' training client."""
        episode, turn = self._next(request)
        ids, logprobs = self.said(episode, turn)
        told = [
            {"token": f"token_id:{one}", "logprob": logprob}
            for one, logprob in zip(ids, logprobs, strict=True)
        ]
        choice = {"token_ids": ids, "logprobs": {"content": told}, "finish_reason": "stop"}
        return web.json_response({"request_id": "x", "choices": [choice]})

    async def models(self, request: web.Request) -> web.Response:
        """No model says how much it can read."""
        return web.json_response({"data": []})

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Its address."""
        server = web.Application()
        server.router.add_post("/v1/chat/completions", self.chat)
        server.router.add_post("/inference/v1/generate", self.generate)
        server.router.add_get("/v1/models", self.models)
        runner = web.AppRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        await runner.cleanup()


def world(episode: Recorded) -> str:
    """Which environment plays an episode."""
    return f"{episode.env} {episode.args}"


def config_of(episode: Recorded) -> Any:
    """The block ``[env]`` of verifiers for an episode's environment."""
    taskset = {"id": MODULE, "env": episode.env, "env_args": dict(episode.args)}
    return vf.resolve_env_config({"taskset": taskset})


class Rollouts:
    """Environments of verifiers that play recorded episodes, in a loop of their own.

    Args:
        episodes: recorded.
        speaker: whose tokenizer is the model's.
        folder: for the tokenizer.
    """

    def __init__(self, episodes: Sequence[Recorded], speaker: Speaker, folder: Path) -> None:
        self.model, self.tokenizer = StandIn(speaker), str(folder)
        self._loop, self._stack = asyncio.new_event_loop(), contextlib.AsyncExitStack()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.run(self._open(episodes))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self, episodes: Sequence[Recorded]) -> None:
        self.address = await self._stack.enter_async_context(self.model.served())
        self.envs, self.tasks = {}, {}
        for episode in episodes:
            if world(episode) in self.envs:
                continue
            env = self.envs[world(episode)] = vf.load_environment(config_of(episode))
            await self._stack.enter_async_context(env.serving())
            self.tasks[world(episode)] = {task.data.id: task for task in env.taskset}

    def task(self, episode: Recorded) -> Any:
        """The task of an episode."""
        return self.tasks[world(episode)][episode.task]

    def client(self, training: bool) -> Any:
        """Where the model is: through the chat route, or by token ids."""
        address = {"base_url": self.address, "api_key_var": "TOOLGYM_NO_KEY"}
        if not training:
            return vf.EvalClientConfig(**address)
        # Observations are messages of the user: with less, each would begin a sample of its own.
        renderer = Qwen3RendererConfig(thinking_retention="all")
        return vf.TrainClientConfig(
            renderer=renderer, renderer_model_name=self.tokenizer, **address
        )

    async def trace(self, episode: Recorded, training: bool = False) -> Any:
        """Play an episode."""

        def begun(trace: Any) -> None:
            self.model.episodes[trace.id] = episode

        context = vf.ModelContext(
            model="stand-in", client=self.client(training), sampling=vf.SamplingConfig()
        )
        env = self.envs[world(episode)]
        played = await env.run_episode(self.task(episode), context, on_trace=begun)
        assert played.ok, [e.message for e in (*played.errors, *played.traces[0].errors)]
        return played.traces[0]

    async def bare(self, episode: Recorded) -> None:
        """Play an episode in our harness alone, without verifiers around it."""
        trace = SimpleNamespace(info={}, stop_condition=None, stop=lambda why: None)
        key = f"bare {time.perf_counter_ns()}"
        self.model.episodes[key] = episode
        harness = ToolgymHarness(vf.HarnessConfig(id=MODULE))
        context = SimpleNamespace(model="stand-in", client=self.client(training=False))
        await harness.launch(context, trace, None, self.address, key, {}, self.task(episode).data)

    def close(self) -> None:
        """Stop what was started."""
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)


def plain(message: Any) -> dict[str, Any]:
    """A message of a trace as a chat dict of ours."""
    return {key: value for key, value in message_to_wire(message).items() if value != ""} | {
        "content": message.content or ""
    }


def seen_in(trace: Any) -> Seen:
    """What a trace of verifiers holds of an episode.

    What follows the last reply is not sent to the model: it comes from the environment's record.
    """
    assert trace.num_branches == 1, "the conversation was rewritten"
    told = trace.info["toolgym"]["trajectory"]
    opening, new = [], list[list[dict[str, Any]]]()
    for node in trace.nodes:
        if node.sampled:
            new.append([])
        else:
            (new[-1] if new else opening).append(plain(node.message))
    tail = itertools.takewhile(lambda m: m["role"] != "assistant", reversed(told["messages"]))
    new[-1] = list(tail)[::-1]
    rewards = [step["reward"] for step in told["steps"]]
    ended = told["terminated"] or told["truncated"]
    done = [False] * (len(rewards) - 1) + [ended]
    return Seen(opening, new, rewards, done, trace.reward)


def tokens_in(trace: Any) -> Tokens:
    """The training sample of a trace."""
    (branch,) = trace.branches
    first = branch.sampled_mask.index(True)
    ids, mask = branch.token_ids, list(map(int, branch.sampled_mask))
    return Tokens(ids[:first], ids[first:], mask[first:], branch.logprobs[first:])


def calls(episode: Recorded) -> bool:
    """Whether verifiers makes native calls of something in the replies, which are texts to us."""
    return any("<tool_call>" in reply for reply in episode.replies)


def comparable(episode: Recorded, speaker: Speaker) -> bool:
    """Whether an episode has the tokens of ours: its replies stay texts and close their thoughts.

    Qwen3's renderer writes results of tools in its own way, and renders a reply anew that ends
    within its thoughts; the ids here are cut at any place, also within ``</think>``.
    """
    end = speaker.tokenizer.convert_tokens_to_ids("</think>")
    said = [speaker.said(episode, turn)[0] for turn in range(len(episode.replies))]
    thoughts = sum("<think>" in reply for reply in episode.replies)
    return not calls(episode) and sum(ids.count(end) for ids in said) == thoughts


def main() -> int:
    """Print what is equal and what is not; 1 where anything differs."""
    os.environ["TOOLGYM_NO_KEY"] = "none"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lines = [f"from toolgym.bridges.verifiers import {name}\n" for name in ("*", "__all__")]
        (folder / f"{MODULE}.py").write_text("".join(lines))
        sys.path.insert(0, place)
        episodes = recorded(folder)
        speaker = Speaker(episodes)
        speaker.tokenizer.add_tokens([*QWEN])
        speaker.tokenizer.save_pretrained(folder / "tokenizer")
        rollouts = Rollouts(episodes, speaker, folder / "tokenizer")

        def play(episode: Recorded) -> Seen:
            seen = seen_in(rollouts.run(rollouts.trace(episode)))
            if comparable(episode, speaker):
                seen.tokens = tokens_in(rollouts.run(rollouts.trace(episode, training=True)))
            return seen

        wrong = conform(
            "verifiers",
            "toolgym/bridges/verifiers.py",
            play,
            episodes,
            speaker,
            lambda episode: rollouts.run(rollouts.bare(episode)),
        )
        wrong += trained(rollouts, episodes)
        wrong += at_once(rollouts, episodes)
        wrong += served(rollouts, episodes)
        rollouts.close()
    return int(wrong > 0)


def trained(rollouts: Rollouts, episodes: Sequence[Recorded]) -> int:
    """Training samples of all episodes: what the model sampled is what the mask holds."""
    model, wrong = rollouts.model, 0
    model.plain = True
    for kind, of_kind in (("texts", False), ("calls", True)):
        chosen = [episode for episode in episodes if calls(episode) == of_kind]
        whole = masks = rewards = 0
        for episode in chosen:
            trace = rollouts.run(rollouts.trace(episode, training=True))
            said = [i for n in range(len(episode.replies)) for i in model.said(episode, n)[0]]
            nodes = [zip(node.token_ids, node.mask, strict=True) for node in trace.nodes]
            whole += trace.num_branches == 1
            masks += [one for node in nodes for one, counts in node if counts] == said
            rewards += abs(trace.reward - episode.record.reward) < 1e-9
        print(
            f"  trained on, replies read as {kind}: {len(chosen)} episodes, one sample {whole}, "
            f"masks exact {masks}, rewards equal {rewards}"
        )
        wrong += not of_kind and min(whole, masks, rewards) < len(chosen)
    model.plain = False
    return wrong


def at_once(rollouts: Rollouts, episodes: Sequence[Recorded]) -> int:
    """The same, many at once."""

    async def all_of_them() -> list[Any]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(episode: Recorded) -> Any:
            async with gate:
                return await rollouts.trace(episode)

        return await asyncio.gather(*map(one, episodes))

    begin = time.process_time()
    traces = rollouts.run(all_of_them())
    seconds = time.process_time() - begin
    pairs = zip(episodes, traces, strict=True)
    equal = sum(abs(trace.reward - episode.record.reward) < 1e-9 for episode, trace in pairs)
    turns = sum(trace.num_turns for trace in traces)
    print(f"  {AT_ONCE} rollouts at once: {equal} of {len(episodes)} rewards equal")
    print(f"  a turn in all of verifiers {1e3 * seconds / turns:.1f} ms of processor time")
    return int(equal < len(episodes))


def served(rollouts: Rollouts, episodes: Sequence[Recorded]) -> int:
    """The same through verifiers' environment server, as prime-rl asks for rollouts."""

    async def through(episode: Recorded, client: Any) -> bool:
        # Which rollout asks cannot be seen from here: one after the other.
        rollouts.model.episodes = defaultdict(lambda: episode)
        played = await client.run(
            task_data=rollouts.task(episode).data.model_dump(mode="json"),
            client=rollouts.client(training=False),
            model="stand-in",
            sampling=vf.SamplingConfig(),
        )
        told = played.traces[0].info["toolgym"]["trajectory"]
        row = json.loads(episode.record.to_line())
        same = told["messages"] == row["messages"] and told["reward"] == row["reward"]
        return same and abs(played.traces[0].reward - row["reward"]) < 1e-9

    async def one_of_each() -> int:
        wrong, count = 0, 0
        for first in {world(episode): episode for episode in episodes}.values():
            server = EnvServer(config_of(first), address="tcp://127.0.0.1:0")
            running = asyncio.create_task(server.run())
            client = EnvClient(server.address)
            for episode in [e for e in episodes if world(e) == world(first)][:5]:
                wrong += not await through(episode, client)
                count += 1
            await client.close()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        print(f"  environment server: {count - wrong} of {count} records and rewards equal")
        return wrong

    return int(rollouts.run(one_of_each()))


if __name__ == "__main__":
    sys.exit(main())

"""Any of our environments for verifiers, and so for prime-rl: taskset, harness and environment.

verifiers imports a taskset by the name of a top-level module. A file of these two lines is one::

    from toolgym.bridges.verifiers import *
    from toolgym.bridges.verifiers import __all__
"""

from __future__ import annotations

import asyncio
import functools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.bridges.episode import next_sample, opened
from toolgym.episodes.episode import Info
from toolgym.errors import BadInputError, EndpointError
from toolgym.messages import Chat, to_chats
from toolgym.policies.completions import MOST_STOPS, reasoning_of, reply_of
from toolgym.policies.requests import Reply, Request, at, with_text_arguments
from toolgym.tools.toolset import Toolset

# The one class of each kind that verifiers looks for in a module.
__all__ = ["ToolgymEnv", "ToolgymHarness", "ToolgymTaskset"]

_vf: Any = require_extra("verifiers.v1", "verifiers")
_dialect: Any = require_extra("verifiers.v1.dialects.chat", "verifiers")
_aiohttp: Any = require_extra("aiohttp", "verifiers")

_TRIES = 4  # of a request that found no answer; the same turn is never counted twice
_PAUSE = 0.5  # seconds before the second try, doubled for each further one
_AGAIN = (408, 409, 425, 429)  # and 5xx: statuses after which another try may help
_REASONED = ("reasoning", "reasoning_content", "reasoning_details")


class ToolgymTasksetConfig(_vf.TasksetConfig):  # type: ignore[misc]
    """What is played: ``--env.taskset.*``.

    Args:
        env: id of the environment.
        env_args: its keyword arguments.
        native_tools: send the tools as such, and read ``tool_calls``; else tools and calls are
            texts of the environment's format.
    """

    env: str = ""
    env_args: dict[str, Any] = {}  # noqa: RUF012 - a field, copied for each config
    native_tools: bool = False


class ToolgymData(_vf.TaskData):  # type: ignore[misc]
    """A task as it travels to workers: what the policy reads first, and what has to be opened.

    Gold answers stay in the environment, which each worker opens itself.
    """

    env: str
    env_args: dict[str, Any]
    native_tools: bool


class ToolgymTask(_vf.Task[ToolgymData]):  # type: ignore[misc]
    """One task; its rewards are those that the environment gave."""

    @property
    def key(self) -> str:
        """The task's id, which is the same in every run."""
        return str(self.data.id)

    async def score(self, trace: Any, runtime: Any = None) -> None:
        """Record each part of the environment's reward by name, with its weight.

        Parts of weight 0 are metrics. The value of a part is its sum over the turns.

        Raises:
            BadInputError: another harness than ours played, so the environment saw nothing.
        """
        await super().score(trace, runtime)
        if self.scoring_deferred:
            return
        told = trace.info.get("toolgym")
        if told is None:
            raise BadInputError(
                "the environment has not played this episode: leave the harness of the agent to "
                "the taskset's own"
            )
        for name, weight in told["weights"].items():
            steps = told["trajectory"]["steps"]
            value = sum(step["reward_parts"].get(name, 0.0) for step in steps)
            if weight:
                trace.record_reward(name, value, weight)
            else:
                trace.record_metric(name, value)


class ToolgymTaskset(_vf.Taskset[ToolgymTask, ToolgymTasksetConfig]):  # type: ignore[misc]
    """All tasks of an environment."""

    def load(self) -> Iterator[ToolgymTask]:
        """Tasks in the order of the environment.

        Raises:
            BadInputError: no environment is named, or its arguments cannot be used.
            UnknownNameError: no environment has that id.
        """
        config = self.config
        if not config.env:
            raise BadInputError(
                "no environment is named: set env of the taskset (--env.taskset.env) to an id that "
                "`toolgym envs` lists"
            )
        env = opened(config.env, config.env_args).bare("verifiers")
        for task in env.tasks:
            tools = env.tools_for(task) if env.format.strategy.tools else Toolset()
            schemas = tools.without(env.hidden_for(task)).schemas()
            chats = to_chats(env.opening(schemas, task.question))
            system = chats.pop(0)["content"] if chats[0]["role"] == "system" else None
            several = [_dialect.parse_message(with_text_arguments(chat)) for chat in chats]
            yield ToolgymTask(
                ToolgymData(
                    id=task.id,
                    name=task.id,
                    system_prompt=system,
                    prompt=chats[0]["content"] if len(chats) == 1 else several,
                    env=config.env,
                    env_args=config.env_args,
                    native_tools=config.native_tools,
                ),
                config.task,
            )


class ToolgymHarness(_vf.Harness[_vf.HarnessConfig]):  # type: ignore[misc]
    """Plays a whole episode in this process: the model is asked, the environment steps.

    No program is started and nothing runs in the runtime, so that a turn costs little more than
    its request. ``trace.info["toolgym"]`` holds the episode as a row of ``trajectories.jsonl`` and
    the weights of the reward.
    """

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def setup(self, runtime: Any) -> None:
        """Refuse a runtime that cannot be reached from here.

        Raises:
            BadInputError: it is not the local one.
        """
        if not isinstance(runtime.config, _vf.SubprocessConfig):
            raise BadInputError(
                f"environments of toolgym play in this process, not in runtime "
                f"{runtime.config.type!r}: set the agent's runtime.type to 'subprocess'"
            )

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: Mapping[str, str],
        data: ToolgymData,
    ) -> Any:
        """Play the episode of a task; see verifiers' ``Harness.launch``.

        Raises:
            EndpointError: the model could not be asked, or answered what is not a reply.
            ToolgymError: see `ToolEnv.reset`.
        """
        world = await asyncio.to_thread(opened, data.env, data.env_args)
        env = world.bare("verifiers").clone()
        sample = next_sample(data.env, data.env_args, data.id)
        options = {"task": data.id, "sample": sample}
        _, info = await _finished(env.reset, options=options)
        said = _Conversation(self._opening(data), info)
        key = {"Authorization": f"Bearer {secret}"}
        limit = _aiohttp.ClientTimeout(total=None)  # the rollout has limits of its own
        try:
            async with _aiohttp.ClientSession(headers=key, timeout=limit) as http:
                ask = functools.partial(_ask, http, f"{endpoint}/chat/completions", trace)
                while not env.ended:
                    request = Request(said.chats, info["tools"], env.format)
                    words = await ask(_body(request, ctx.model, data.native_tools))
                    if words is None:  # a limit or a condition of verifiers ended it
                        break
                    choice = _choice(words, ctx.client)
                    reply = reply_of({"choices": [choice]}, request)
                    *_, info = await _finished(env.step, reply.turn)
                    said.add(choice["message"], reply, info, request)
        finally:
            weights = env.rubric.weights
            trace.info["toolgym"] = {"weights": weights, "trajectory": env.trajectory.to_row()}
            env.end()
        if env.trajectory.truncated:
            trace.stop("max_turns")
        return _vf.ProgramResult(exit_code=0, stdout="", stderr="")

    def _opening(self, data: ToolgymData) -> list[Chat]:
        """The messages before the first reply, as verifiers hands them on."""
        system, prompt = self.resolve_prompt(data)
        chats = [{"role": "system", "content": system}] if system is not None else []
        if isinstance(prompt, str):
            return [*chats, {"role": "user", "content": prompt}]
        return [*chats, *map(_dialect.message_to_wire, prompt)]


class ToolgymEnvConfig(_vf.SingleAgentEnvConfig):  # type: ignore[misc]
    """How it is played: ``--env.*``.

    Args:
        agent: the policy, beside our harness in the local runtime.
    """

    agent: _vf.AgentConfig = _vf.AgentConfig(runtime=_vf.SubprocessConfig())


class ToolgymEnv(_vf.SingleAgentEnv, _vf.Env[ToolgymEnvConfig]):  # type: ignore[misc]
    """One agent plays one task."""


class _Conversation:
    """What the model reads: the environment's messages, and its own replies as they came.

    A reply that comes back unchanged is one that verifiers knows, with its tokens.
    """

    def __init__(self, chats: list[Chat], info: Info) -> None:
        self.chats, self._read = chats, len(info["messages"])

    def add(self, message: Chat, reply: Reply, info: Info, request: Request) -> None:
        """Take in a turn.

        Args:
            message: the reply as it came.
            reply: the same as the environment was given it.
            info: of the step.
            request: that was answered.
        """
        kept, *new = info["messages"][self._read :]
        self._read = len(info["messages"])
        calls = message.get("tool_calls") or []
        names = {
            call["id"]: theirs.get("id")
            for call, theirs in zip(kept.get("tool_calls", ()), calls, strict=False)
        }
        if _unchanged(message, kept, reply, request.format.stop):
            said: Chat = {"role": "assistant", "content": message.get("content") or ""}
            said |= {k: message[k] for k in ("tool_calls", *_REASONED) if message.get(k)}
            new = [_renamed(chat, names) for chat in new]
        else:
            said = with_text_arguments(kept)
        self.chats = [*self.chats, said, *new]


def _unchanged(message: Chat, kept: Chat, reply: Reply, stops: Sequence[str]) -> bool:
    """Whether the environment keeps of a reply all that came, and nothing else."""
    calls, taken = message.get("tool_calls") or [], kept.get("tool_calls", ())
    if reply.said is not None:
        ids = {call.get("id") for call in calls}
        return len(calls) == len(taken) == len(ids) and None not in ids
    content = message.get("content") or ""
    if not (content or reasoning_of(message)[0] or not reply.text):
        return False  # a refusal, which the environment reads as text
    said: str = kept["content"]
    # A stop text may have been left out by a server, or sampled and not read.
    ends = (content, *(content + stop for stop in stops), *map(content.removesuffix, stops))
    return said == reply.text and said.endswith(ends)


def _renamed(chat: Chat, names: Mapping[str, Any]) -> Chat:
    """A tool's result under the id that the model's call came with."""
    if chat.get("tool_call_id") not in names:
        return chat
    return {**chat, "tool_call_id": names[chat["tool_call_id"]]}


def _body(request: Request, model: str, native_tools: bool) -> dict[str, Any]:
    """The fields of a request; verifiers puts its own sampling settings over them."""
    body: dict[str, Any] = {"model": model, "messages": request.messages}
    if request.format.stop:
        body["stop"] = list(request.format.stop[:MOST_STOPS])
    if native_tools and request.tools:
        body["tools"] = request.tools
    return body


async def _ask(http: Any, url: str, trace: Any, body: Mapping[str, Any]) -> str | None:
    """A completion as it came; None once verifiers has ended the rollout.

    Raises:
        EndpointError: there is none, also after further tries.
    """
    turn = {"Idempotency-Key": uuid.uuid4().hex}  # a second try is not a second turn
    for tried in range(_TRIES):
        if tried:
            await asyncio.sleep(_PAUSE * 2 ** (tried - 1))
        try:
            async with http.post(url, json=body, headers=turn) as answer:
                status, words = answer.status, str(await answer.text())
        except (_aiohttp.ClientError, OSError) as error:
            status, words = 503, f"{type(error).__name__}: {error}"
        if status == 200:
            return words
        if trace.stop_condition is not None:
            return None
        if status < 500 and status not in _AGAIN:
            raise EndpointError("refused", f"verifiers answered {status}: {words[:500]}")
    raise EndpointError("server", f"{_TRIES} tries failed, the last with {status}: {words:.500}")


def _choice(words: str, client: Any) -> Any:
    """What a completion says, with what verifiers leaves out of it.

    Raises:
        EndpointError: it is not JSON.
    """
    try:
        choice = at(at(json.loads(words), "choices"), 0)
    except ValueError as error:
        raise EndpointError("bad_reply", f"the reply is not JSON ({error})") from error
    message = at(choice, "message")
    if isinstance(message, dict) and client.type == "train":
        # The text is that of the tokens: an empty one is a reply, and no stop text is missing.
        message["content"], choice["stop_reason"] = message.get("content") or "", None
    return choice


async def _finished(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Run what a tool may hold up in a thread, to its end also when the rollout is cancelled.

    Tools have deadlines, and nobody may read an episode that is in the middle of a step.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise

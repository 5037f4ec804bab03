"""``AgentPolicy``: an agent of another framework plays, with its own loop around its own model."""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolgym._util.jsonl import copy_json
from toolgym.errors import BadInputError, EpisodeEndedError, PolicyError, in_words
from toolgym.formats import Action
from toolgym.messages import ToolCall
from toolgym.policies.base import Policy, Reply, Request, question_of

__all__ = ["AgentPolicy", "AgentTool"]

_STOP = object()


@dataclass
class AgentTool:
    """A tool of the environment, as an agent is given it: call it with its arguments by name.

    Args:
        name: of the tool.
        description: what it does.
        parameters: JSON Schema of its arguments.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    _play: Callable[[ToolCall], str] = field(repr=False)

    def call(self, **arguments: Any) -> str:
        """Call it in the episode; what comes back is the text that a policy reads.

        Raises:
            EpisodeEndedError: the episode has ended, such as at a limit of turns.
        """
        return self._play(ToolCall("", self.name, arguments))

    def __call__(self, **arguments: Any) -> str:
        """As `call`."""
        return self.call(**arguments)


Agent = Callable[[str, list[AgentTool]], Any]
"""Takes the question and the tools, and returns the answer as text; may be ``async``."""


class _Run:
    """An agent in a thread of its own, which waits while its calls are played.

    Args:
        agent: that plays.
        request: the first of the episode.
    """

    def __init__(self, agent: Agent, request: Request) -> None:
        self._agent, self._question = agent, question_of(request)
        self._said: queue.Queue[Any] = queue.Queue()
        self._heard: queue.Queue[Any] = queue.Queue()
        self._alone, self._over = threading.Lock(), False
        functions = [tool["function"] for tool in request.tools]
        self._tools = [
            AgentTool(f["name"], f["description"], copy_json(f["parameters"]), self._call)
            for f in functions
        ]
        threading.Thread(target=self._play, name="toolgym-agent", daemon=True).start()

    def _play(self) -> None:
        try:
            answer = self._agent(self._question, self._tools)
            if inspect.isawaitable(answer):
                answer = asyncio.run(_wait(answer))
            self._said.put(answer)
        except BaseException as error:  # an agent is the user's code
            self._said.put(error)

    def _call(self, call: ToolCall) -> str:
        with self._alone:  # an agent may call from several threads; an episode has an order
            if not self._over:
                self._said.put(call)
                heard = self._heard.get()
                if heard is not _STOP:
                    return str(heard)
            raise EpisodeEndedError("the episode has ended: no tool can be called any more")

    def hear(self, text: str) -> None:
        """Give the agent the result that it waits for."""
        self._heard.put(text)

    def say(self, seconds: float) -> Any:
        """What the agent does next: a call, its answer, or an exception.

        Raises:
            PolicyError: it took too long.
        """
        try:
            return self._said.get(timeout=seconds)
        except queue.Empty:
            raise PolicyError(f"the agent has done nothing for {seconds:g} seconds") from None

    def stop(self) -> None:
        """Let go of the agent: its next call raises."""
        self._over = True
        self._heard.put(_STOP)


async def _wait(value: Any) -> Any:
    return await value


class AgentPolicy(Policy):
    """Plays with an agent that has a loop of its own; each of its calls is a turn.

    Record, rewards, budgets, resume and concurrency are those of any policy. What the agent's model
    says beside its calls is not seen, and so not recorded.

    Args:
        agent: takes the question and the tools, and returns its answer; one call of it an episode.
        name: for reports; default: the function's.
        timeout: seconds that it may take between two calls.

    Raises:
        BadInputError: it cannot be called with two arguments, or a time-out that is not positive.
    """

    def __init__(self, agent: Agent, *, name: str = "", timeout: float = 600.0) -> None:
        try:
            inspect.signature(agent).bind("", [])
        except TypeError as error:
            raise BadInputError(
                f"an agent is a function of question and tools, and {agent!r:.80} is none: {error}"
            ) from error
        if not timeout > 0:
            raise BadInputError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self._agent, self._timeout = agent, timeout
        self._name = name or getattr(agent, "__qualname__", type(agent).__name__)
        self._running: dict[str, _Run] = {}

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Let the agent of each episode go on to its next call, or to its answer."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        run = self._running.get(request.episode)
        if run is None or not request.turn:
            self.forget(request.episode)
            run = self._running[request.episode] = _Run(self._agent, request)
        else:
            run.hear(_told(request))
        try:
            said = run.say(self._timeout)
        except PolicyError as error:
            return error
        if isinstance(said, BaseException):
            raised = PolicyError(f"the agent raised {type(said).__name__}: {in_words(said)}")
            raised.__cause__ = said
            return raised
        if isinstance(said, ToolCall):
            action = Action("", (said,))
            return Reply(request.format.write(action, request.tools), said=action)
        answer = said if isinstance(said, str) else json.dumps(said, default=str)
        return Reply(request.format.write(Action("", (), answer), request.tools))

    def forget(self, episode: str) -> None:
        """Let go of the agent of an ended episode."""
        run = self._running.pop(episode, None)
        if run is not None:
            run.stop()

    def describe(self) -> dict[str, Any]:
        """The agent's name."""
        return {"policy": "agent", "name": self._name}

    def close(self) -> None:
        """Let go of all agents."""
        for episode in list(self._running):
            self.forget(episode)


def _told(request: Request) -> str:
    """What was said since the last call."""
    messages: list[Mapping[str, Any]] = []
    for message in reversed(request.messages):
        if message["role"] == "assistant":
            break
        messages.append(message)
    return "\n\n".join(str(message["content"]) for message in reversed(messages))

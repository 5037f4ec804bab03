"""``ToolSession``: tools that remember, for as long as one episode lasts."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from toolgym._util.jsonl import not_json
from toolgym._util.kinds import require
from toolgym._util.rebuilding import name_code
from toolgym._workers.sessions import ProcessSession
from toolgym._workers.tool_child import attempt, by_name
from toolgym.errors import BadInputError
from toolgym.task import Task
from toolgym.tools.base import DEFAULT_TIMEOUT, Tool

__all__ = ["InlineSession", "LiveSession", "SessionSpec", "ToolSession", "state_text"]


class ToolSession:
    """What some tools remember during one episode; each episode has an instance of its own.

    Derive from it, and mark the methods that a policy may call with ``@tool``. An instance lives in
    a process of its own, so that a call can be ended at its deadline, and the state before it is
    brought back then.

    Args:
        task: that the episode plays.

    Example:
        ```python
        import toolgym
        from toolgym import tool


        class Shop(toolgym.ToolSession):
            def __init__(self, task):
                self.cart = dict(task.metadata.get("cart", {}))

            @tool
            def add(self, item: str, amount: int = 1) -> str:
                '''Put goods into the cart.'''
                self.cart[item] = self.cart.get(item, 0) + amount
                return f"{self.cart[item]} {item} in the cart"
        ```
    """

    inline: ClassVar[bool] = False
    """Whether it lives in this process: for calls that always end by themselves."""
    timeout: ClassVar[float] = DEFAULT_TIMEOUT
    """Seconds that a call may take; without effect on inline sessions."""

    def __init__(self, task: Task) -> None:
        """Begin an episode."""

    def state(self) -> Any:
        """What the session remembers, as plain JSON: recorded, and seen by rewards.

        By default the attributes whose names do not begin with an underscore.
        """
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def close(self) -> None:
        """End the episode: let go of what the session holds."""


class LiveSession(Protocol):
    """The session of one episode, wherever it lives."""

    def call(self, name: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Call a tool; what fails is a reply, and the state is what it was before.

        Args:
            name: of the tool.
            arguments: checked.
            timeout: seconds.

        Returns:
            ``{"text": ...}``, or ``{"error": kind, "text": ..., "detail": traceback}``.
        """
        ...

    def state(self) -> Any:
        """What it remembers, as plain JSON that nobody else holds."""
        ...

    def snapshot(self) -> Any:
        """What `restore` needs to bring back this moment; it can be used many times."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to the moment of a snapshot, of this session or of another one of its class."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class SessionSpec:
    """A class of sessions, and the tools that it gives.

    Args:
        cls: a `ToolSession`; or any class with public methods that have types and a docstring, as
            TRL and verl take them: these are its tools, but for ``reset``, ``state`` and ``close``.
            Its ``reset(**row)`` is called with the task's columns that it takes.

    Raises:
        BadInputError: it is not a class, gives no tool, or a method cannot be one.
    """

    outside: ClassVar[bool] = False
    """Whether its memory lies with somebody else: no state is told then, and nothing copied; a
    cassette alone answers its calls."""

    def __init__(self, cls: type[Any]) -> None:
        require(
            cls,
            type,
            "a tool of a set is what @tool makes of a function, or a class of sessions (of names "
            "toolgym.tools.toolset.make_toolset makes tools)",
        )
        self.cls, self.name = cls, cls.__name__
        own = issubclass(cls, ToolSession)
        self.inline = bool(getattr(cls, "inline", False))
        timeout = self.timeout = float(getattr(cls, "timeout", DEFAULT_TIMEOUT))
        found = _marked(cls) or ({} if own else _public(cls, timeout))
        if not found:
            way = "mark its methods with @tool" if own else "give its public methods a docstring"
            raise BadInputError(f"{self.name} gives no tool: {way}")
        self.tools: dict[str, Tool] = {}
        self.methods: dict[str, str] = {}
        for method, tool in found.items():
            if not tool.method:
                raise BadInputError(
                    f"{self.name}.{method} does not take self: tools of a session are methods; "
                    "give the other ones beside the class, tools=[..., the_tool]"
                )
            if tool.timeout == DEFAULT_TIMEOUT != timeout:  # it has none of its own
                tool = tool.fork()
                tool.timeout = timeout
            self.tools[tool.name], self.methods[tool.name] = tool, method
        self.make: Callable[[Task], Any] = cls if own else functools.partial(_Adapted, cls)

    def describe(self) -> dict[str, str]:
        """Plain data for ``run.json``."""
        return {"session": self.name, "class": name_code(self.cls)}

    def open(self, task: Task) -> LiveSession:
        """Begin an episode.

        Args:
            task: that it plays.

        Raises:
            BadInputError: the class refuses the task, or its state is not JSON.
        """
        if self.inline:
            return InlineSession(self, task)
        return ProcessSession(self.make, (task,), self.name, self.methods, self.timeout)


class InlineSession:
    """A session in this process.

    Args:
        spec: of its class.
        task: that is played.

    Raises:
        BadInputError: the class refuses the task.
    """

    def __init__(self, spec: SessionSpec, task: Task) -> None:
        self._spec = spec
        self._calls: dict[str, Callable[[Mapping[str, Any]], Any]] = {}  # bound to the instance
        try:
            self._instance = spec.make(task)
        except Exception as error:  # of a user's own class
            raise BadInputError(
                f"{spec.name} cannot begin task {task.id!r}: {type(error).__name__}: {error}"
            ) from error

    def call(self, name: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        """As `LiveSession.call`; an exception leaves the state as the method left it."""
        if name not in self._calls:
            self._calls[name] = by_name(getattr(self._instance, self._spec.methods[name]))
        return attempt(self._calls[name], arguments)

    def state(self) -> Any:
        """As `LiveSession.state`.

        Raises:
            BadInputError: the state is not JSON, or asking for it failed.
        """
        return json.loads(state_text(self._instance, self._spec.name))

    def snapshot(self) -> Any:
        """As `LiveSession.snapshot`.

        Raises:
            BadInputError: the instance cannot be pickled.
        """
        try:
            return pickle.dumps(self._instance, pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # pickling runs arbitrary methods
            raise BadInputError(
                f"{self._spec.name} cannot be copied ({type(error).__name__}: {error}): give it a "
                "__getstate__ and a __setstate__, or leave inline = False"
            ) from error

    def restore(self, snapshot: Any) -> None:
        """As `LiveSession.restore`."""
        self._instance = pickle.loads(snapshot)  # noqa: S301 - made by `snapshot`
        self._calls = {}

    def close(self) -> None:
        """As `LiveSession.close`."""
        self._instance.close()


def state_text(instance: Any, name: str) -> str:
    """The state of an instance as JSON text.

    Args:
        instance: of a session's class.
        name: of the class, for messages.

    Raises:
        BadInputError: it is not JSON, or ``state()`` raised.
    """
    try:
        state = instance.state()
    except Exception as error:  # of a user's own class
        raise BadInputError(f"{name}.state() raised {type(error).__name__}: {error}") from error
    try:
        return json.dumps(state, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        why = not_json(state) or str(error)
        raise BadInputError(
            f"{name}.state() is not plain JSON ({why}); return what rewards shall see as dicts, "
            "lists, strings and numbers"
        ) from error


class _Adapted(ToolSession):
    """A class that knows nothing of us, as a session.

    Args:
        cls: the class.
        task: that is played.
    """

    def __init__(self, cls: type[Any], task: Task) -> None:
        needs = [
            p
            for p in _parameters(cls)
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        self._inner = cls(task) if needs else cls()
        reset = getattr(self._inner, "reset", None)
        if callable(reset):
            row = task.to_row()
            taken = _parameters(reset)
            if not any(p.kind is p.VAR_KEYWORD for p in taken):
                row = {p.name: row[p.name] for p in taken if p.name in row}
            reset(**row)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while it is unpickled there is nothing inside yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def state(self) -> Any:
        """Its own ``state()``; else those of its public attributes that JSON can hold."""
        own = getattr(type(self._inner), "state", None)
        if callable(own):
            return own(self._inner)
        held = vars(self._inner).items()
        return {k: v for k, v in held if not k.startswith("_") and not not_json(v)}

    def close(self) -> None:
        """Close it where it can be closed."""
        own = getattr(self._inner, "close", None)
        if callable(own):
            own()


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # built in
        return []


def _marked(cls: type[Any]) -> dict[str, Tool]:
    """Methods that are tools, those of base classes first."""
    found: dict[str, Tool] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Tool):
                found[name] = value
            else:
                found.pop(name, None)  # a derived class took it away
    return found


_OURS = ("reset", "state", "close")


def _public(cls: type[Any], timeout: float) -> dict[str, Tool]:
    """The public documented methods of a class of others."""
    found = {}
    for name in dict.fromkeys(n for base in reversed(cls.__mro__[:-1]) for n in vars(base)):
        value = inspect.getattr_static(cls, name)
        if not inspect.isfunction(value) or name.startswith("_") or name in _OURS:
            continue
        if inspect.getdoc(value):
            found[name] = Tool(value, timeout=timeout)
    return found

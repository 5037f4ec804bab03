"""``ScenarioTool``: a document as a tool whose calls run its function in the sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import copy_json
from toolgym.envs.toolscenario.records import STAGES, RejectedError
from toolgym.errors import BadInputError, ToolError, did_you_mean
from toolgym.formats.scan import read_json
from toolgym.sandbox import Sandbox
from toolgym.scenario import Scenario
from toolgym.task import Task
from toolgym.tools.base import DEFAULT_TIMEOUT, Tool
from toolgym.tools.cassette import ResultCache
from toolgym.tools.schemas import misfits
from toolgym.tools.session import SessionSpec
from toolgym.tools.toolset import Toolset

__all__ = [
    *("PUBLISHED", "Reference", "ScenarioTool", "check_sandbox", "function_problems", "make_tools"),
    *("WorldSession", "WorldToolset", "result_text", "run_references", "sandbox_for"),
]

PUBLISHED = {"published": True, "output_chars": 1_000_000}
"""Sandbox settings of rows of others in the published format, whose results have no limit."""
_FAILED = "an error occured when call {0}: {1}"
_SETTINGS = ("timeout", "memory_mb", "output_chars", "require", "rules")
_KINDS = {"timeout": "timeout", "exception": "tool_error", "arguments": "invalid_arguments"}


def check_sandbox(settings: Any) -> dict[str, Any]:
    """The settings of a sandbox, checked.

    Args:
        settings: ``{"timeout": seconds, "memory_mb": MiB, "output_chars": n, "require": [layers],
            "rules": bool}``, each optional; see `toolgym.sandbox.Sandbox`.

    Raises:
        BadInputError: anything wrong with them, with near names.
        UnknownNameError: a layer that does not exist.
    """
    if not isinstance(settings, Mapping):
        raise BadInputError(f"sandbox must be a mapping of settings, not {settings!r:.80}")
    for name in settings:
        if name not in _SETTINGS:
            raise BadInputError(
                f"the sandbox has no setting {name!r}"
                f"{did_you_mean(str(name), _SETTINGS)}; settings: "
                f"{', '.join(_SETTINGS)}"
            )
    for name in ("timeout", "memory_mb", "output_chars"):
        value = settings.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInputError(f"{name} of the sandbox must be a number, not {value!r:.80}")
    require = settings.get("require", ())
    if isinstance(require, str) or not isinstance(require, list | tuple):
        raise BadInputError(f"require of the sandbox must be a list of layers, not {require!r:.80}")
    if not isinstance(settings.get("rules", True), bool):
        raise BadInputError(f"rules of the sandbox is true or false, not {settings['rules']!r:.80}")
    checked = {**settings, **({"require": list(require)} if "require" in settings else {})}
    Sandbox({}, **checked)  # says now what it could not do later
    return checked


def sandbox_for(functions: Mapping[str, str], settings: Mapping[str, Any] | None = None) -> Sandbox:
    """The sandbox of a scenario; those of recent scenarios are kept, with compiled functions.

    Args:
        functions: name to source.
        settings: from `check_sandbox`.

    Raises:
        BadInputError: the sandbox does not work here, or a source is too long.
    """
    return _kept(tuple(functions.items()), json.dumps(settings or {}, sort_keys=True))


@functools.lru_cache(maxsize=256)
def _kept(functions: tuple[tuple[str, str], ...], settings: str) -> Sandbox:
    return Sandbox(dict(functions), **json.loads(settings))


def function_problems(
    functions: Mapping[str, str], settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """What is wrong with sources, by name; see `toolgym.sandbox.Sandbox.check`.

    Args:
        functions: name to source.
        settings: from `check_sandbox`.

    Raises:
        BadInputError: the sandbox does not work here, or a source is too long.
    """
    key = tuple(functions.items())
    return dict(_problems(key, json.dumps(settings or {}, sort_keys=True)))


@functools.lru_cache(maxsize=256)
def _problems(functions: tuple[tuple[str, str], ...], settings: str) -> dict[str, str]:
    return _kept(functions, settings).check()


def result_text(value: str) -> str:
    """What a policy reads of a function's value: text as it is, all else as JSON.

    Args:
        value: JSON, from the sandbox.
    """
    if value.startswith('"'):
        text: str = json.loads(value)
        return text
    return "" if value == "null" else value


class ScenarioTool(Tool):
    """A tool made of a function-calling document and the source of a function.

    Arguments are checked against the JSON Schema of the document, so that a wrong one is told like
    any tool's. ``published`` is the executor of arXiv 2508.08791 instead, see docs/scenarios.md.

    Args:
        document: ``name``, ``description`` and ``parameters``.
        box: runs the functions of the scenario.
        source: of the function; None: there is none.
        timeout: seconds, of the sandbox.
        published: arguments go to the function as they are, and a failure is told in the published
            words.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        box: Sandbox,
        source: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        published: bool = False,
    ) -> None:
        self.name, self.description = document["name"], document["description"]
        self.parameters = copy_json(dict(document["parameters"]))
        self.fingerprint, self.timeout = value_hash(source or ""), timeout
        self.cache = ResultCache(entries=256, characters=1_000_000)
        self.function, self.batch, self.inline = self._value, None, False
        self._pool, self._box, self._source, self._published = None, box, source, published

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check arguments against the document; nothing is converted.

        Raises:
            ToolError: with one line for the model that names each wrong argument.
        """
        if self._published:
            return dict(arguments)
        try:
            problems = misfits(arguments, self.parameters)
        except BadInputError as error:
            raise ToolError(f"{self.name} cannot be called: its parameters: {error}") from error
        if problems:
            raise ToolError(f"invalid arguments for {self.name}: {'; '.join(problems)}")
        return dict(arguments)

    def _value(self, /, **arguments: Any) -> str:
        return self._run_one(arguments)["text"]  # type: ignore[no-any-return]

    def _run_one(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._live is not None:
            return self._live.call(self.name, arguments, self.timeout)
        result = self._box.call(self.name, arguments)
        if result.error is None:
            return {"text": result_text(result.text)}
        kind, text = _KINDS.get(result.error, "bug"), result.text
        if self._published:
            if self._source is None:
                kind, text = "bug", repr(self.name)  # of the KeyError
            elif kind == "timeout":
                called = (self.name, arguments, self._source)
                text = f"Function call_function (args={called!r}) (kwargs={{}}) timed out after "
                text += f"{self.timeout:f} seconds.\n"  # of func_timeout, which they use
            text = _FAILED.format(self.name, text)
        return {"text": text, "error": kind, "detail": f"sandbox: {result.error}"}


def make_tools(
    documents: list[dict[str, Any]],
    functions: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
    published: bool = False,
) -> Toolset:
    """The tools of one scenario.

    Args:
        documents: each with ``name``, ``description`` and ``parameters``.
        functions: a source for each name.
        settings: of the sandbox.
        published: see `ScenarioTool`.

    Raises:
        BadInputError: two tools have one name, or the sandbox does not work here.
    """
    # A document without a function is a tool that says so when it is called.
    sources = {document["name"]: functions.get(document["name"], "") for document in documents}
    settings = {**(PUBLISHED if published else {}), **(settings or {})}
    box, timeout = sandbox_for(sources, settings), float(settings.get("timeout", DEFAULT_TIMEOUT))
    made = Toolset(
        ScenarioTool(document, box, functions.get(document["name"]), timeout, published)
        for document in documents
    )
    made.unknown = _FAILED.format("{0}", "{0!r}") if published else ""
    return made


class WorldSession:
    """What the tools of a world remember in one episode, in a jailed process of its own.

    A `toolgym.tools.session.LiveSession`.

    Args:
        box: with the functions, ``def name(state, ...)``.
        state: at the beginning.
    """

    def __init__(self, box: Sandbox, state: Mapping[str, Any]) -> None:
        self._session = box.open(state)

    def call(self, name: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Call a function on the state; the deadline is that of the sandbox."""
        result = self._session.call(name, arguments)
        if result.error is None:
            return {"text": result_text(result.text)}
        kind = _KINDS.get(result.error, "bug")
        return {"text": result.text, "error": kind, "detail": f"sandbox: {result.error}"}

    def state(self) -> Any:
        """The tables as they are now."""
        return self._session.state()

    def snapshot(self) -> bytes:
        """The tables as they are now, for `restore`."""
        return self._session.snapshot()

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""
        self._session.restore(snapshot)

    def close(self) -> None:
        """End the process."""
        self._session.close()


class _WorldSpec(SessionSpec):
    def __init__(self, tools: Mapping[str, Tool], box: Sandbox, state: Mapping[str, Any]) -> None:
        self.cls, self.name, self.inline = WorldSession, "World", False
        self.tools, self.methods = dict(tools), {name: name for name in tools}
        self._box, self._state = box, state

    def open(self, task: Task) -> WorldSession:
        return WorldSession(self._box, self._state)


class WorldToolset(Toolset):
    """The tools of one world, whose functions change its state while an episode lasts.

    Args:
        documents: each with ``name``, ``description`` and ``parameters``.
        functions: a source for each name.
        state: that every episode begins with.
        settings: of the sandbox.

    Raises:
        BadInputError: two tools have one name, or the sandbox does not work here.
    """

    def __init__(
        self,
        documents: list[dict[str, Any]],
        functions: Mapping[str, str],
        state: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(make_tools(documents, functions, settings))
        spec = _WorldSpec(self._tools, sandbox_for(functions, settings), state)
        self._specs[spec.name] = spec


_STAGE = STAGES[-1]  # who cannot be played is refused where scenarios are verified


@dataclass(slots=True)
class Reference:
    """What a reference call gave.

    Args:
        arguments: with earlier results filled in.
        value: what the function returned.
        text: the same as a policy reads it.
    """

    arguments: dict[str, Any]
    value: Any
    text: str


def run_references(scenario: Scenario, timeout: float = 10.0) -> dict[str, Reference]:
    """The reference calls in order, each with the results of earlier ones filled in.

    Args:
        scenario: whose functions run in the sandbox.
        timeout: seconds a call.

    Returns:
        Sub-question to what its call gave.

    Raises:
        RejectedError: a call cannot be filled in, or fails.
        BadInputError: the sandbox does not work here.
    """
    box = sandbox_for(scenario.functions, {"timeout": timeout})
    documents = {item.name: item for item in scenario.documents}
    found: dict[str, Reference] = {}
    for call in scenario.calls:
        where = f"the reference call of {call.sub_question!r}"
        try:
            arguments = call.filled({name: item.value for name, item in found.items()})
        except (LookupError, TypeError) as error:
            raise RejectedError(
                _STAGE, "unfilled_reference", f"{where} takes {error} from a result without it"
            ) from error
        for problem in misfits(arguments, documents[call.tool].parameters):
            _reject("bad_arguments", f"{where}: {problem}")
        result = box.call(call.tool, arguments)
        if result.error is not None:
            reason = result.error if result.error in ("timeout", "memory") else "failed_call"
            _reject(reason, f"{where}: {result.text}"[:1000])
        try:
            value = read_json(result.text)
        except ValueError as error:  # later calls take it as an argument, and probes change it
            message = f"{where} gave what cannot be an argument: {error}"
            raise RejectedError(_STAGE, "deep_result", message) from error
        found[call.sub_question] = Reference(arguments, value, result_text(result.text))
    return found


def _reject(reason: str, message: str) -> None:
    raise RejectedError(_STAGE, reason, message)

"""Calls of a reply: JSON in any shape that has one reading, their bound, what a reply comes to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolgym._util.jsonl import not_json
from toolgym.formats.base import MAX_CALLS, Action
from toolgym.formats.repair import FENCE, UNCLEAR, Budget, dumped, read_value, repaired
from toolgym.formats.scan import Scanner
from toolgym.messages import ToolCall
from toolgym.trajectory import Problem

__all__ = [
    *("KEYS", "REPAIRED", "Calls", "NativeCall", "add_native", "arguments_text", "native_call"),
    "outcome",
]

REPAIRED = "repaired_json"
_MOST_TRIES = 256  # calls of a reply that are read at all
KEYS = {"name", "arguments"}, {"name", "parameters"}
_ASIDE = frozenset({"text_after_end", "wrote_result"})
_NAMES = ("name", "function", "tool_name", "tool")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_BESIDE = frozenset({*_NAMES, *_ARGUMENTS, "id", "type", "index", "call_id"})
_ATTEMPT = re.compile(r"\{\s*(?:[\"'}]|[A-Za-z_]\w*\s*:)")
_BETWEEN = re.compile(r"[\s;,]*+")
_TIMES_ENCODED = 3
_WHOLE = re.compile(r"\Z")


@dataclass(frozen=True, slots=True)
class NativeCall(ToolCall):
    """A call that came through a server's own interface, with arguments that are not an object.

    Args:
        text: the arguments as they came; `Format.write` writes them as they are, so that `parse`
            repairs or refuses them as in a reply that is text.
    """

    text: str = ""


def native_call(name: str, arguments: Any, number: int) -> ToolCall:
    """A call as a server gave it.

    Args:
        name: of the tool.
        arguments: an object, its JSON text, or whatever came.
        number: of the call in the reply, from 0.
    """
    call_id = f"call_{number}"
    if isinstance(arguments, Mapping):
        return ToolCall(call_id, name, dict(arguments))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, default=str)
    if not text.strip():
        return ToolCall(call_id, name, {})
    try:
        value, end, notes = read_value(text, 0, re.compile(r"\Z"), complete=True, budget=Budget())
    except ValueError:
        return NativeCall(call_id, name, {}, text)
    if end == len(text.rstrip()) and not notes and isinstance(value, dict | None):
        return ToolCall(call_id, name, value or {})
    return NativeCall(call_id, name, {}, text)


def arguments_text(call: ToolCall) -> str:
    """The arguments of a call as JSON."""
    return call.text if isinstance(call, NativeCall) else dumped(call.arguments)


def call_json(call: ToolCall, arguments: str) -> str:
    """A call as a JSON object.

    Args:
        call: what is called.
        arguments: the key under which its arguments stand.
    """
    if isinstance(call, NativeCall):
        return f'{{"name": {dumped(call.name)}, "{arguments}": {call.text}}}'
    return dumped({"name": call.name, arguments: call.arguments})


class Calls:
    """The calls of one reply: made, refused, and those over the bound."""

    def __init__(self) -> None:
        self.made: list[ToolCall] = []
        self.problems: list[Problem] = []
        self.failed = False
        self.budget = Budget()
        self._tries = 0

    @property
    def tried(self) -> bool:
        """Whether any call was attempted."""
        return self._tries > 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing more is to be read."""
        return self._tries >= _MOST_TRIES

    def clear(self) -> None:
        """Forget all calls: they were reasoning, or are answered already."""
        self.made, self.problems, self.failed, self._tries = [], [], False, 0

    def add(self, name: str, arguments: dict[str, Any], notes: Sequence[str] = ()) -> None:
        """Make a call, unless there are `MAX_CALLS` already."""
        if not self._counts(f" ({name[:60]})"):
            return
        self.made.append(ToolCall(f"call_{len(self.made)}", name, arguments))
        for note in notes:
            unclear = note.startswith(UNCLEAR)
            what = (
                f"in tool call {self._tries} "
                if unclear
                else f"tool call {self._tries} was repaired: "
            )
            self.problems.append(Problem("unclear_escape" if unclear else REPAIRED, what + note))

    def fail(self, kind: str, message: str) -> None:
        """Refuse a call.

        Args:
            kind: of the problem.
            message: with ``{call}`` where the number of the call belongs.
        """
        if self._counts(""):
            self.failed = True
            said = message.replace("{call}", f"tool call {self._tries}", 1)
            self.problems.append(Problem(kind, said[:300]))

    def note(self, what: str) -> None:
        """Say what was repaired in the call that was read last."""
        self.problems.append(Problem(REPAIRED, f"tool call {self._tries} was repaired: {what}"))

    def add_loose(self, name: str, arguments: dict[str, Any], form: str) -> None:
        """Make a call that was not written in the format, and say so.

        Args:
            name: of the tool.
            arguments: of the only reading.
            form: how the format writes it.
        """
        self.add(name, arguments)
        if self._tries <= MAX_CALLS:
            what = f"tool call {self._tries} was read, but not in its format: write {form}"
            self.problems.append(Problem("loose_call", what[:300]))

    def _counts(self, shown: str) -> bool:
        self._tries += 1
        if self._tries == MAX_CALLS + 1:
            text = (
                f"only {MAX_CALLS} calls are made in a turn: call {self._tries}{shown} and those "
            )
            self.problems.append(Problem("too_many_calls", f"{text}behind it were not made"))
        return self._tries <= MAX_CALLS

    def add_value(self, value: Any, notes: Sequence[str] = ()) -> None:
        """Make the calls of a JSON value: one, a list of them, or OpenAI's ``tool_calls``."""
        if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
            value = value["tool_calls"]
        if isinstance(value, list) and value:
            for number, item in enumerate(value[:_MOST_TRIES]):
                self._add_one(item, () if number else notes)
        else:
            self._add_one(value, notes)

    def _add_one(self, value: Any, notes: Sequence[str]) -> None:
        if isinstance(value, dict) and not (notes or value.keys() not in KEYS):
            name, given = value["name"], value.get("arguments", value.get("parameters"))
            if isinstance(name, str) and isinstance(given, dict) and name == name.strip() != "":
                self.add(name, given)
                return
        if isinstance(value, dict):
            for key in ("function", "function_call"):
                if isinstance(value.get(key), dict):
                    value = value[key]
        if not isinstance(value, dict):
            kind = {list: "a list", str: "a string", type(None): "null"}.get(
                type(value), "a number"
            )
            self.fail(
                "bad_call", f"{{call}} must be an object with 'name' and 'arguments', not {kind}"
            )
            return
        name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "").strip()
        if not name:
            self.fail("bad_call", "{call} needs a 'name', a string that is not empty")
            return
        given = [value[key] for key in _ARGUMENTS if value.get(key) not in (None, "", {}, [])]
        if len(given) > 1 and given[1:] != given[:-1]:
            self.fail("bad_call", "{call} has both 'arguments' and 'parameters', and they differ")
            return
        if not given and not any(key in value for key in _ARGUMENTS):
            loose = sorted(value.keys() - _BESIDE)
            if loose:
                text = f"{{call}} has {loose[0][:40]!r} beside its name and no 'arguments'"
                self.fail("bad_call", f"{text}: write it there")
                return
        self.add_arguments(name, given[0] if given else {}, notes)

    def add_arguments(self, name: str, given: Any, notes: Sequence[str] = ()) -> None:
        """Make a call whose arguments may be an object, its text, or a list that holds it alone."""
        said = list(notes)
        for _ in range(_TIMES_ENCODED):
            if not isinstance(given, str) or not given.strip():
                break
            said.append("arguments encoded as text")
            try:
                text = given.strip()
                given, end, more = read_value(
                    text, 0, re.compile(r"\Z"), complete=True, budget=self.budget
                )
                if end != len(text):
                    raise ValueError(f"more follows behind character {end}")
            except ValueError as error:
                what = f"valid JSON ({error})" if text[0] in '{["' else f"an object: {text[:40]!r}"
                self.fail("bad_json", f"the arguments of {{call}} are not {what}")
                return
            said += more
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], dict):
            given = given[0]
            said.append("arguments in a list")
        if given is None or given == [] or (isinstance(given, str) and not given.strip()):
            given = {}
        if not isinstance(given, dict):
            self.fail("bad_call", "the arguments of {call} must be an object")
            return
        self.add(name, given, list(dict.fromkeys(said)))

    def read(self, text: str, position: int, end: re.Pattern[str], complete: bool) -> int | None:
        """Read JSON values one behind the other, in a code fence or not.

        Args:
            text: the reply.
            position: where the first begins.
            end: what may follow the last; see `read_value`.
            complete: whether the model had finished where the text ends.

        Returns:
            Where the values end; None where one could not be read, which is a problem now.
        """
        between = _BETWEEN.match(text, position)
        position = between.end() if between is not None else position
        fence = FENCE.match(text, position) if text.startswith("`", position) else None
        position = fence.end() if fence is not None else position
        notes = ["code fence"] if fence is not None else []
        began = False
        while text[position : position + 1] in ("{", "["):
            began = True
            try:
                value, position, more = read_value(
                    text, position, end, complete=complete, budget=self.budget
                )
            except ValueError as error:
                self.fail("bad_json", f"{{call}} is not valid JSON ({error})")
                return None
            self.add_value(value, [*notes, *more])
            if self.exhausted:
                return len(text)
            between = _BETWEEN.match(text, position)
            position = between.end() if between is not None else position
        if fence is not None and text.startswith("```", position):
            position += 3
        if not began:
            found = text[position : position + 20]
            self.fail("bad_json", f"{{call}} is not a JSON object: it begins {found!r}")
            return None
        return position


def json_argument(
    text: str,
    begin: int,
    end: re.Pattern[str],
    calls: Calls,
    close: Callable[[str, int], int | None],
) -> tuple[tuple[dict[str, Any], list[str]] | None, int | None]:
    """An object that stands where a bare text might.

    Args:
        text: the reply.
        begin: where its brace opens.
        end: what must follow it.
        calls: where an object that cannot be read is refused.
        close: finds the end of the call when the object has none of its own.

    Returns:
        The object and what was repaired, or None; and where it ends, None for a bare text.
    """
    try:
        value, stop, notes = read_value(text, begin, end, complete=False, budget=calls.budget)
        if end.match(text, stop) is None:
            raise ValueError(f"more follows behind it: {text[stop : stop + 20]!r}")
    except ValueError as error:
        found = close(text, begin) if _ATTEMPT.match(text, begin) else None
        if found is not None:
            calls.fail("bad_json", f"{{call}} is not valid JSON ({error})")
        return None, found
    return (value, notes), stop


def outcome(
    scan: Scanner,
    calls: Calls,
    thought: str,
    answer: str | None,
    missing: Problem,
    *,
    offered: bool,
    cut: bool,
) -> Action:
    """What a reply comes to: a call beats an answer, and what is not finished is not an answer.

    Args:
        scan: over the whole reply.
        calls: of it.
        thought: of it.
        answer: explicit or taken from the text; None without one.
        missing: the problem of a reply that holds nothing to use.
        offered: whether the strategy offers tools.
        cut: whether the reply was cut.
    """
    problems = [*scan.problems, *calls.problems]
    made = tuple(calls.made)
    if not (problems or cut or scan.unfinished):  # most replies
        if made and offered and not answer:
            return Action(thought, made)
        if not made and answer is not None:
            return Action(thought, (), answer)
    if calls.tried and not offered:
        made = ()
        problems = [
            *scan.problems,
            Problem("call_not_offered", "no tools are offered: answer without"),
        ]
    if scan.unfinished:
        problems.append(Problem("unfinished_reasoning", "it did not leave its reasoning"))
    if cut:
        problems.append(Problem("cut_reply", "it was cut at the limit of its length: write less"))
    if offered and (made or calls.failed):
        if answer:
            text = "the answer given beside a tool call was not used"
            problems.append(Problem("answer_with_call", text))
        return Action(thought, made, None, tuple(problems))
    if scan.unfinished or cut:
        return Action(thought, (), None, tuple(problems))
    if answer is None and all(problem.kind in _ASIDE for problem in problems):
        problems.append(missing)
    return Action(thought, (), answer, tuple(problems))


def add_native(calls: Calls, name: str, given: Any, *, complete: bool) -> ToolCall:
    """Make or refuse a call by the rules of those in text; gives it as it was written.

    Args:
        calls: that it is made or refused in.
        name: of the tool.
        given: its arguments: an object, its JSON text, or whatever came.
        complete: whether the message was not cut.
    """
    if isinstance(given, Mapping):
        given = dict(given)
    if not isinstance(given, str):
        why = not_json(given)
        if why:
            calls.fail("bad_json", f"{{call}} is not valid JSON (its argument {why})")
            return NativeCall("", name, {}, "(what JSON cannot hold)")
        calls.add_arguments(name, given)
        return native_call(name, given, 0)
    value, notes = None, list[str]()
    if given.strip():
        try:
            value, notes = _decoded(given.strip(), complete, calls.budget)
        except ValueError as error:
            calls.fail("bad_json", f"the arguments of {{call}} are not valid JSON ({error})")
            return NativeCall("", name, {}, given)
    calls.add_arguments(name, value, notes)
    return native_call(name, given, 0)


def _decoded(text: str, complete: bool, budget: Budget) -> tuple[Any, list[str]]:
    if text.startswith("`"):  # a code fence
        return repaired(text, complete=complete)
    value, end, notes = read_value(text, 0, _WHOLE, complete=complete, budget=budget)
    if end != len(text):
        raise ValueError(f"more follows behind character {end}")
    return value, notes

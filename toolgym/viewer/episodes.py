"""What the page holds of an episode: a record of its turns, and its numbers in columns."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from toolgym.data.conditions import MEASURES, measure
from toolgym.errors import UnknownNameError
from toolgym.formats import get_format
from toolgym.formats.base import Format
from toolgym.formats.scan import REASONING, reasoning_in
from toolgym.messages import ToolCall, ToolResult
from toolgym.registry import REWARDS
from toolgym.trajectory import Step, Tokens, Trajectory

__all__ = ["Columns", "Reader", "Shared", "parts", "plain_number"]

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids to the texts of these tokens: as many, some of them empty."""


class Columns:
    """Numbers of all episodes by the names that conditions know, one value an episode.

    A reward that cannot judge an episode has no column: as in `toolgym.select`, a condition that
    names it is an error, which `missing` gives the reason of.
    """

    def __init__(self) -> None:
        self.values: dict[str, array[float]] = {}
        self.missing: dict[str, str] = {}
        self._read = {name: measure(name) for name in MEASURES}
        self._count = 0
        for name in REWARDS:
            if name not in MEASURES:
                try:
                    self._read[name] = measure(name)
                except Exception as error:  # a reward of a plug-in that cannot be loaded
                    self.missing[name] = _line(error)
        self.values = {name: array("d") for name in self._read}

    def add(self, trajectory: Trajectory) -> None:
        """Measure one more episode."""
        for name, read in list(self._read.items()):
            try:
                self.values[name].append(read(trajectory))
            except Exception as error:  # a reward may be anybody's; the page says what it raised
                self.missing[name] = _line(error)
                del self._read[name], self.values[name]
        for name, value in trajectory.metrics.items():
            if name in MEASURES or name in REWARDS:  # as a condition reads the name
                continue
            if name not in self.values:
                self.values[name] = array("d", [-math.inf]) * self._count
            self.values[name].append(value)
        self._count += 1
        for column in self.values.values():
            if len(column) < self._count:
                column.append(-math.inf)  # as a condition reads a metric that was not recorded

    def plain(self) -> dict[str, Any]:
        """Columns as JSON: a list of numbers, or ``{"all": number}`` where they are the same."""
        found: dict[str, Any] = {}
        for name, column in self.values.items():
            same = len(column) > 1 and all(value == column[0] for value in column)
            numbers = [plain_number(value) for value in (column[:1] if same else column)]
            found[name] = {"all": numbers[0]} if same else numbers
        return found


def plain_number(value: float) -> Any:
    """A number as strict JSON: whole ones short, and texts for those that JSON lacks."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Shared:
    """Values that many episodes have, such as instructions and tools: the page holds them once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def one(self, value: Any) -> Any:
        """``{"$": place}`` where the value is one of the first few that were met, else itself."""
        text = json.dumps(value)
        if len(text) < _SMALL:
            return value
        if text not in self._places and len(self.values) < _MOST:
            self._places[text] = len(self.values)
            self.values.append(value)
        return {"$": self._places[text]} if text in self._places else value


_SMALL, _MOST = 100, 64


class Reader:
    """Makes the records of episodes.

    Args:
        pieces: texts of token ids; None: only the ids are known.
    """

    def __init__(self, pieces: Pieces | None = None) -> None:
        self.shared = Shared()
        self._pieces = pieces
        self._codecs: dict[str, Format | None] = {}

    def record(self, trajectory: Trajectory) -> dict[str, Any]:
        """An episode as plain JSON; what is empty is left out."""
        task = trajectory.task
        chats = [m.to_chat() for m in trajectory.messages[: trajectory.opening]]
        opening = [self.shared.one(chat) for chat in chats]
        metadata = {name: value for name, value in task.to_row().items() if name not in _SHOWN}
        steps = [self._step(step, trajectory) for step in trajectory.steps]
        tokens = self._tokens(trajectory.tokens, steps) if trajectory.tokens else None
        return _filled(
            id=trajectory.id,
            env=trajectory.env_id,
            format=trajectory.format,
            seed=trajectory.seed,
            split=task.split,
            question=task.question,
            gold=list(task.answers),
            task=metadata,
            opening=opening,
            examples=trajectory.examples,
            tools=self.shared.one(trajectory.tools),
            steps=steps,
            ended=_ended(trajectory),
            answer=trajectory.answer,
            reward=trajectory.reward,
            metrics=trajectory.metrics,
            tokens=tokens,
            state=trajectory.state,
        )

    def _step(self, step: Step, trajectory: Trajectory) -> dict[str, Any]:
        return _filled(
            say=parts(step.action, self._thought(step, trajectory)),
            calls=_calls(step.calls, step.results),
            problems=[[problem.kind, problem.message] for problem in step.problems],
            answer=step.answer,
            read=_without_results(step),
            reward=step.reward,
            parts=step.reward_parts,
            seconds=round(step.seconds, 4),
            cut=step.cut,
            changes=list(step.state_diff),
            user=step.user,
            user_calls=_calls(step.user_calls, step.user_results),
            appeared=list(step.appeared),
        )

    def _thought(self, step: Step, trajectory: Trajectory) -> str:
        """What the format takes for reasoning; nothing where the format is not known here."""
        name = trajectory.format
        if name not in self._codecs:
            try:
                self._codecs[name] = get_format(name)
            except UnknownNameError:  # of a plug-in that is not installed
                self._codecs[name] = None
        codec = self._codecs[name]
        return codec.parse(step.action, trajectory.tools).thought if codec is not None else ""

    def _tokens(self, tokens: Tokens, steps: list[dict[str, Any]]) -> dict[str, Any]:
        """Counts, and into each step what the policy wrote in it."""
        written, place = [], 0
        for mine, group in groupby(tokens.mask):
            end = place + sum(1 for _ in group)
            if mine:
                written.append((place, end))
            place = end
        about = _filled(
            prompt=len(tokens.prompt_ids),
            written=sum(end - begin for begin, end in written),
            read=len(tokens.mask) - sum(end - begin for begin, end in written),
            guided=tokens.guided,
            tokenizer=tokens.tokenizer,
        )
        if len(written) != len(steps):  # turns that touch: which token is whose is not known
            return about
        for step, (begin, end) in zip(steps, written, strict=True):
            ids = tokens.completion_ids[begin:end]
            said = tokens.logprobs[begin:end] if tokens.logprobs is not None else []
            pieces = self._pieces(ids) if self._pieces is not None else []
            step["tokens"] = _filled(ids=ids, logprobs=[round(p, 3) for p in said], texts=pieces)
        return about


_SHOWN = ("id", "question", "answers", "split")


def parts(action: str, thought: str) -> list[str]:
    """A reply as text and reasoning in turn, text first; joined they are the reply.

    Args:
        action: the reply.
        thought: what the format takes for reasoning, where no marks say it.
    """
    # A reply that is nothing but its thought is what there is to read.
    own = [thought] if thought.strip() != action.strip() else []
    spans = sorted(_spans(action, reasoning_in(action) or own))
    found, place = [], 0
    for begin, end in spans:
        if begin >= place:  # one inside another is folded with it
            found += [action[place:begin], action[begin:end]]
            place = end
    return [*found, action[place:]] if found else [action]


def _spans(action: str, reasoning: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where reasoning stands, with the marks around it."""
    place = 0
    for text in map(str.strip, reasoning):
        begin = action.find(text, place) if text else -1
        begin = action.find(text) if text and begin < 0 else begin
        if begin < 0:  # the format put it together from several places
            continue
        place = end = begin + len(text)
        for opening, closing in REASONING.items():
            before, after = action[:begin].rstrip(), action[end:]
            if before.endswith(opening):
                begin = len(before) - len(opening)
            if after.lstrip().startswith(closing):
                end += len(after) - len(after.lstrip()) + len(closing)
        yield begin, end


def _without_results(step: Step) -> list[str | int]:
    """What the policy read next: texts, and the places of results that stand between them."""
    found: list[str | int] = []
    rest = step.observation
    for place, result in enumerate(step.results):
        before, seen, after = rest.partition(result.content) if result.content else (rest, "", "")
        if seen:
            found += [before, place] if before else [place]
            rest = after
    return [*found, rest] if rest else found


def _calls(calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    return [
        _filled(
            name=call.name,
            arguments=call.arguments,
            content=result.content,
            error=result.error,
            detail=result.detail,
            fault=result.fault,
            added_seconds=result.added_seconds or None,
            shown=result.shown,
            nothing=result.empty,
        )
        for call, result in zip(calls, results, strict=True)
    ]


def _ended(trajectory: Trajectory) -> str:
    if trajectory.terminated:
        return "answered"
    return "truncated" if trajectory.truncated else "open"


def _filled(**values: Any) -> dict[str, Any]:
    """Without what says nothing: None, False, and what is empty; numbers stay."""
    return {
        name: value
        for name, value in values.items()
        if not (value is None or value is False or (_sized(value) and not value))
    }


def _sized(value: Any) -> bool:
    return isinstance(value, str | Mapping | Sequence)

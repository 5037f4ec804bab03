"""Asking a model until its reply can be used: feedback, bounded retries, each reply kept."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import append_row, drop_torn_line, parse_line, read_lines, row_at
from toolgym.envs.toolscenario.authors.llm import prompts
from toolgym.envs.toolscenario.authors.llm.modelserver import Answer, ModelServer
from toolgym.envs.toolscenario.authors.llm.replies import UnusableError, sent_schema
from toolgym.envs.toolscenario.records import RejectedError
from toolgym.errors import EndpointError
from toolgym.policies.client import EndlessError

__all__ = ["ENDLESS", "Asker", "Attempt", "RequestLog"]

ENDLESS = "endless"
"""Kind of the error of a reply that was given up for its length: the model's fault, not the
server's, so it is kept like a reply."""


class RequestLog:
    """Rows by the hash of what was asked; safe to use from several threads.

    A row has ``key``, ``question`` (its id), ``stage``, ``attempt`` (from 1), ``because`` (why the
    attempt before was refused, or empty), ``messages``, ``reply``, ``finish_reason``, ``usage``,
    ``seconds``, ``tries`` and ``error``. Failures of the server stand in the file, too, but only a
    reply answers the same request again.

    Args:
        path: the file, made with its first row; None keeps the rows in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._places: dict[str, int | dict[str, Any]] = {}
        self.totals: Counter[str] = Counter()
        self.seconds = 0.0
        if path is not None and path.is_file():
            drop_torn_line(path)
            for number, position, raw in read_lines(path):
                row = parse_line(raw, path, number, "request file")
                self._count(row)
                if _answers(row):
                    self._places.setdefault(str(row.get("key")), position)

    def get(self, key: str) -> dict[str, Any] | None:
        """The row that answers a request, or None."""
        with self._lock:
            place = self._places.get(key)
        if self._path is None or not isinstance(place, int):
            return None if isinstance(place, int) else place
        return row_at(self._path, place, "request file")

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; once this returns, a kill does not lose it."""
        with self._lock:
            self._count(row)
            place: int | dict[str, Any] = dict(row)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # Opened for each row: the last replies may come when the build has ended, and
                # nobody would close the file behind them.
                with self._path.open("ab", buffering=0) as stream:
                    place = stream.tell()
                    append_row(stream, row)
            if _answers(row):
                self._places.setdefault(str(row["key"]), place)

    def _count(self, row: Mapping[str, Any]) -> None:
        totals, usage = self.totals, row.get("usage") or {}
        totals["requests"] += 1
        totals["sent again"] += max(0, int(row.get("tries") or 1) - 1)
        self.seconds += float(row.get("seconds") or 0.0)
        for name, key in (("tokens in", "prompt_tokens"), ("tokens out", "completion_tokens")):
            count = usage.get(key)
            if isinstance(count, int):
                totals[name] += count
        if not usage and row.get("reply") is not None:
            totals["replies without usage"] += 1
        if row.get("error") and row["error"]["kind"] != ENDLESS:
            totals[f"server failed: {row['error']['kind']}"] += 1
        if row.get("because"):
            totals["retries"] += 1
            totals[f"refused {row['stage']}/{row['because']}"] += 1


def _answers(row: Mapping[str, Any]) -> bool:
    error = row.get("error")
    return row.get("reply") is not None or bool(error and error["kind"] == ENDLESS)


Made = TypeVar("Made")
Chats = list[dict[str, str]]

_SHOWN = 16_000  # characters of a refused reply that the model is shown again
_PASSING = ("connection", "server")  # failures that may have been of the moment
_CUT = ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply.

    Args:
        text: of the reply.
        complete: whether the model had finished.
    """

    text: str
    complete: bool


class Asker:
    """Conversations with a model, one a stage and scenario.

    Args:
        server: who answers.
        identity: what decides a reply beside the conversation: model and sampling.
        file: of requests and replies; None keeps them in memory.
        max_retries: further requests after a reply that cannot be used.
    """

    def __init__(
        self, server: ModelServer, identity: Mapping[str, Any], file: Path | None, max_retries: int
    ) -> None:
        self.server, self._identity, self._file = server, dict(identity), file
        self._max_retries = max_retries
        self._lock = threading.Lock()
        self._opened: RequestLog | None = None
        self._asked: dict[str, Future[dict[str, Any]]] = {}
        self.repeated = 0  # answers from the record

    @property
    def log(self) -> RequestLog:
        """The record, opened when it is first needed: by then the build holds its folder."""
        with self._lock:
            if self._opened is None:
                self._opened = RequestLog(self._file)
            return self._opened

    def write(
        self,
        stage: str,
        name: str,
        prompt: str,
        use: Callable[[Attempt], Made],
        fallback: list[Made] | None = None,
    ) -> Made:
        """Ask until a reply can be used.

        Args:
            stage: one of ``STAGES``.
            name: id of the question.
            prompt: the first message.
            use: makes the stage's record of a reply, or raises what is wrong with it.
            fallback: filled by ``use`` with records that will do when no better one comes.

        Raises:
            RejectedError: no reply could be used, or the server fails with this request alone.
            EndpointError: the server fails altogether.
            StoppedError: the build was stopped.
        """
        opening: dict[str, str] = {"role": "user", "content": prompt}
        messages, because, message = [opening], "", ""
        for attempt in range(1, self._max_retries + 2):
            row = self._reply(stage, name, attempt, because, messages)
            try:
                return use(_attempt(row))
            except (UnusableError, RejectedError) as error:
                because, message = error.reason, str(error)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                because, message = "invalid_record", f"{where}: {first['msg']}"
            messages = [
                opening,
                {"role": "assistant", "content": _again(row)},
                {"role": "user", "content": prompts.feedback(because, message)},
            ]
        if fallback:
            return fallback[-1]
        raise RejectedError(stage, because, f"{message} (reply {attempt} of {attempt})")

    def _reply(
        self, stage: str, name: str, attempt: int, because: str, messages: Chats
    ) -> dict[str, Any]:
        key = value_hash([self._identity, stage, attempt, messages])
        log = self.log
        with self._lock:
            row = log.get(key)
            if row is not None:
                self.repeated += 1
                return row
            waited, mine = self._asked.get(key), False
            if waited is None:
                waited, mine = Future(), True
                self._asked[key] = waited
        if not mine:  # the same request is under way for another question
            return waited.result()
        head = {"key": key, "question": name, "stage": stage, "attempt": attempt}
        try:
            row = self._ask({**head, "because": because, "messages": messages})
            waited.set_result(row)
        except BaseException as error:
            waited.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._asked[key]
        return row

    def _ask(self, row: dict[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        try:
            answer = self._answer(row)
        except EndlessError as error:
            row |= {"reply": None, "finish_reason": "", "usage": {}, "tries": 1}
            row |= {"error": {"kind": ENDLESS, "message": str(error)}}
        else:
            row |= {"reply": answer.text, "finish_reason": answer.finish_reason}
            row |= {"usage": answer.usage, "tries": answer.tries, "error": None}
        row["seconds"] = round(time.monotonic() - began, 3)
        self.log.add(row)
        return row

    def _answer(self, row: dict[str, Any], again: bool = False) -> Answer:
        """Ask the server; where it fails, find out whose fault it is."""
        stage, seed = row["stage"], int(row["key"][:7], 16)
        began = time.monotonic()
        try:
            return self.server.ask(row["messages"], sent_schema(stage), seed)
        except EndlessError:
            raise
        except EndpointError as error:
            failed = {"kind": error.kind, "message": str(error)}
            spent = {"seconds": round(time.monotonic() - began, 3), "tries": 1}
            self.log.add({**row, "reply": None, "finish_reason": "", **spent, "error": failed})
            # A rate says nothing about a request, however small one passes.
            if error.kind == "rate_limit" or not self.server.alive():
                message = f"{error} (what is finished is kept: run the same again to go on)"
                raise EndpointError(error.kind, message) from error
            if again or error.kind not in _PASSING:
                raise RejectedError(stage, f"endpoint_{error.kind}", str(error)) from error
        return self._answer(row, again=True)  # it was away, and is back

    def close(self) -> None:
        """Give up what is under way, and close connections."""
        self.server.stop()


def _attempt(row: Mapping[str, Any]) -> Attempt:
    if row["reply"] is None:
        raise UnusableError(ENDLESS, row["error"]["message"])
    return Attempt(row["reply"], row["finish_reason"] not in _CUT)


def _again(row: Mapping[str, Any]) -> str:
    """A refused reply as the model is shown it; servers refuse an empty one."""
    text: str = row["reply"] or ""
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}\n[cut]"
    return text.strip() or "(nothing that could be read)"

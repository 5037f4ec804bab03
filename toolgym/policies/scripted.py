"""Policies that need no model: fixed replies, and the replies of a recording."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._util.frames import LineFile, standing
from toolgym._util.hashes import file_hash, value_hash
from toolgym._util.jsonl import parse_line, read_lines, read_rows
from toolgym.errors import BadInputError, PolicyError, did_you_mean
from toolgym.policies.base import Policy, Reply, Request, question_of
from toolgym.trajectory import Documents, parse_trajectory

__all__ = ["ReplayPolicy", "ScriptedPolicy"]

Script = Sequence[str]


class ScriptedPolicy(Policy):
    """Plays replies by turn; after the last one it is repeated.

    Args:
        replies: a list, the same for each episode; a mapping from an episode (``task id#sample``),
            a task id or a question to its list; or the path of a ``.jsonl`` file with rows
            ``{"episode": ..., "replies": [...]}`` (or ``"question"`` in place of ``"episode"``).

    Raises:
        BadInputError: a script that is empty or holds something other than texts.
        MissingFileError: no such file.
    """

    def __init__(self, replies: Script | Mapping[str, Script] | str | Path) -> None:
        if isinstance(replies, str | Path):
            replies = _read(replies)
        self._by_key: dict[str, list[str]] | None = None
        self._same: list[str] = []
        if isinstance(replies, Mapping):
            self._by_key = {str(key): _checked(script, key) for key, script in replies.items()}
            if not self._by_key:
                raise BadInputError("a scripted policy needs at least one script, found none")
        else:
            self._same = _checked(replies, None)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Play the reply of each request's turn; an episode without a script is a `PolicyError`."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        script = self._script(request)
        if isinstance(script, Exception):
            return script
        return Reply(script[min(request.turn, len(script) - 1)])

    def _script(self, request: Request) -> list[str] | Exception:
        if self._by_key is None:
            return self._same
        question = question_of(request)
        for key in (request.episode, request.episode.rpartition("#")[0], question):
            if key and key in self._by_key:
                return self._by_key[key]
        hint = did_you_mean(question, self._by_key) or did_you_mean(request.episode, self._by_key)
        return PolicyError(
            f"no script for episode {request.episode!r} with the question {question!r:.200}{hint}; "
            "add one under the episode, the task id or the question"
        )

    def describe(self) -> dict[str, Any]:
        """How many scripts there are and a hash of them."""
        scripts: Any = self._same if self._by_key is None else self._by_key
        count = 1 if self._by_key is None else len(self._by_key)
        return {"policy": "scripted", "scripts": count, "replies_hash": value_hash(scripts)}


def _checked(script: Any, key: object) -> list[str]:
    where = "" if key is None else f" of {key!r}"
    if isinstance(script, str) or not isinstance(script, Sequence):
        raise BadInputError(f"the script{where} must be a list of replies, not {script!r:.80}")
    wrong = next((reply for reply in script if not isinstance(reply, str)), None)
    if wrong is not None:
        raise BadInputError(f"the script{where} may hold texts only, found {wrong!r:.80}")
    if not script:
        raise BadInputError(f"the script{where} is empty: it needs at least one reply")
    return list(script)


def _read(path: str | Path) -> dict[str, Any]:
    scripts: dict[str, Any] = {}
    for number, row in read_rows(path, "script file"):
        key = row.get("episode") or row.get("question")
        if not isinstance(key, str) or "replies" not in row:
            raise BadInputError(
                f"script file {str(path)!r}, line {number}: a row needs 'episode' or 'question' "
                f"(text) and 'replies' (a list), found the keys {', '.join(row) or 'none'}"
            )
        if key in scripts:
            raise BadInputError(f"script file {str(path)!r}, line {number}: {key!r} stands twice")
        scripts[key] = row["replies"]
    return scripts


FILE = "trajectories.jsonl"
_OPEN = 256  # episodes whose actions are held: those that are being played


class ReplayPolicy(Policy):
    """Plays the recorded actions by task id and sample, for instance against changed tools.

    The actions are texts: the recorded token ids are not played, since the tools may answer
    otherwise now and the ids would then belong to another conversation.

    Args:
        recording: a run folder, or a ``.jsonl`` file of trajectories.

    Raises:
        MissingFileError: no such file, or a folder that holds no run.
        BadInputError: a broken line, an episode twice, or no episode at all.
    """

    def __init__(self, recording: str | Path) -> None:
        path = Path(recording)
        self._path = standing(path / FILE if path.is_dir() else path)
        self._places: dict[str, int] = {}
        documents, self._lock = Documents(self._path.parent), threading.Lock()
        self._lines: LineFile | None = None
        self._played: OrderedDict[str, list[str]] = OrderedDict()
        for number, place, raw in read_lines(self._path, "trajectory file"):
            self._lines = self._lines or LineFile(self._path)
            name = parse_trajectory(raw, self._path, number, documents).id
            before = self._places.setdefault(name, place)
            if before != place and self._lines.line(before).strip() != raw.strip():
                raise BadInputError(f"{str(self._path)!r} holds episode {name!r} twice")
        if not self._places:
            raise BadInputError(f"{str(self._path)!r} holds no episode to replay")

    def __reduce__(self) -> tuple[Any, ...]:
        """Opened again, in whatever process."""
        return type(self), (self._path,)

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Play each request's recorded action; what was not recorded is a `PolicyError`."""
        with self._lock:
            return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply | Exception:
        place = self._places.get(request.episode)
        if place is None or self._lines is None:
            return PolicyError(
                f"the recording {str(self._path)!r} has no episode {request.episode!r}"
                f"{did_you_mean(request.episode, self._places)}; "
                f"it holds {len(self._places)} episodes"
            )
        actions = self._played.get(request.episode)
        if actions is None:
            row = parse_line(self._lines.line(place), self._path, 2, "trajectory file")
            actions = self._played[request.episode] = [step["action"] for step in row["steps"]]
            if len(self._played) > _OPEN:
                self._played.popitem(last=False)
        if request.turn >= len(actions):
            return PolicyError(
                f"episode {request.episode!r} was recorded with {len(actions)} turns, but turn "
                f"{request.turn + 1} is asked for: the environment behaves otherwise than then "
                "(compare its format, max_steps and tools with those in run.json)"
            )
        return Reply(actions[request.turn])

    def describe(self) -> dict[str, Any]:
        """The recording, its number of episodes and its hash."""
        return {
            "policy": "replay",
            "recording": str(self._path),
            "episodes": len(self._places),
            "recording_hash": file_hash(self._path),
        }

"""``ScriptedPolicy``: plays the replies that it was given; for tests and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_rows, value_hash
from toolgym.errors import BadInputError, PolicyError, did_you_mean
from toolgym.policies.base import Policy, Reply, Request, question_of

__all__ = ["ScriptedPolicy"]

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

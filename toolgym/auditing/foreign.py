"""Environments of other packages as subjects; a package is imported when it is named.

These run inside the process of the audit; see `toolgym.auditing.processes`.
"""

from __future__ import annotations

import asyncio
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolgym._util.jsonl import read_rows
from toolgym._util.optional import require_extra
from toolgym.auditing.subjects import FORMS, Facts, Item, Outcome, Subject, texts_of
from toolgym.errors import BadInputError, did_you_mean
from toolgym.registry import load

__all__ = ["open_env_subject", "reasoning_gym_subject", "skyrl_subject", "verifiers_subject"]

_SEED = 42
_APART = 1_000_000
"""Between the seeds of two splits. Entry n is drawn by the sum of the seed and n, so that
neighbouring seeds give the same entries (docs/audit.md)."""
_SIZE = 500
_READ_FIELDS = ("text", "message", "prompt", "observation", "content", "result", "output")


class _Procedural(Subject):
    """A data set of reasoning-gym: entries by index."""

    def __init__(self, name: str, args: Mapping[str, Any]) -> None:
        gym: Any = require_extra("reasoning_gym", "audit")
        factory = require_extra("reasoning_gym.factory", "audit")
        if name not in factory.DATASETS:
            raise BadInputError(
                f"reasoning-gym has no data set {name!r}{did_you_mean(name, factory.DATASETS)}"
            )
        self.form = "{}"
        given = {"seed": _SEED, "size": _SIZE, **args}
        self._name, self._entries = name, dict[int, Any]()
        self._data = gym.create_dataset(name, **given)
        self._others: Callable[[], Any] = lambda: gym.create_dataset(
            name, **{**given, "seed": given["seed"] + _APART}
        )
        self._number = 0

    def facts(self) -> Facts:
        """Rewards from 0 to 1, one turn."""
        told = (f"reasoning-gym:{self._name}", "reasoning-gym", min(len(self._data), _SIZE))
        return Facts(*told, 0.0, 1.0, turns=False, drawn=True)

    def _entry(self, number: int) -> Any:
        if number not in self._entries:
            self._entries[number] = self._data[number]
        return self._entries[number]

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Question and answer of each entry."""
        return [_entry_item(number, self._entry(number)) for number in numbers]

    def held_out(self, count: int) -> list[Item]:
        """Entries of a seed far away."""
        other = self._others()
        return [_entry_item(n, other[n]) for n in range(min(count, len(other)))]

    def reset(self, number: int) -> str:
        """The question."""
        self._number = number
        return str(self._entry(number)["question"])

    def step(self, reply: str) -> Outcome:
        """The data set's own score of an answer."""
        score = self._data.score_answer(answer=reply, entry=self._entry(self._number))
        return Outcome("", score, True)


def _entry_item(number: int, entry: Mapping[str, Any]) -> Item:
    return Item(number, f"entry-{number}", str(entry["question"]), texts_of(entry.get("answer")))


def reasoning_gym_subject(name: str, args: Mapping[str, Any]) -> Subject:
    """A data set of reasoning-gym.

    Args:
        name: of it.
        args: of its configuration; ``seed`` and ``size`` have defaults.

    Raises:
        MissingExtraError: the package is not installed.
        BadInputError: it has no such data set.
    """
    return _Procedural(name, args)


def _row_reader(rows: str | Sequence[Mapping[str, Any]] | None, what: str) -> list[dict[str, Any]]:
    if rows is None:
        raise BadInputError(f"{what} brings no tasks: name a .jsonl file of its rows with --rows")
    if isinstance(rows, str):
        return [row for _, row in read_rows(rows, "file of rows")]
    return [dict(row) for row in rows]


class _SkyRL(Subject):
    """An environment of skyrl-gym, made anew for each row, as SkyRL's generator does."""

    def __init__(
        self, name: str, args: Mapping[str, Any], rows: list[dict[str, Any]], form: str | None,
        reward_range: tuple[float, float] | None,
    ) -> None:  # fmt: skip
        self.form = "{}"
        self._gym = require_extra("skyrl_gym", "skyrl")
        self._name, self._args, self._rows = name, types.SimpleNamespace(**args), rows
        self._forms = (form,) if form else FORMS
        self._range = reward_range or (None, None)
        self._env: Any = None

    def facts(self) -> Facts:
        """One task a row."""
        told = (f"skyrl:{self._name}", "skyrl-gym", len(self._rows))
        low, high = self._range
        return Facts(*told, low, high, forms=self._forms)

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Prompt and ground truth of each row; a column ``gold`` overrules the latter."""
        found = []
        for number in numbers:
            row = self._rows[number]
            spec = row.get("reward_spec") or row.get("reward_model") or {}
            truth = row.get("gold", spec.get("ground_truth"))
            truth = truth.get("target", truth) if isinstance(truth, Mapping) else truth
            key = str(row.get("id", f"row-{number}"))
            found.append(Item(number, key, _chat_text(row.get("prompt", "")), texts_of(truth)))
        return found

    def reset(self, number: int) -> str:
        """A fresh environment of the row."""
        row = self._rows[number]
        self.close()
        extras = {key: value for key, value in row.items() if key not in ("prompt", "gold")}
        self._env = self._gym.make(self._name, env_config=self._args, extras=extras)
        prompt = row.get("prompt", "")
        chats = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return _chat_text(self._env.init(chats)[0])

    def step(self, reply: str) -> Outcome:
        """One turn."""
        given = self._env.step(reply)
        return Outcome(_chat_text(given["observations"]), given["reward"], bool(given["done"]))

    def close(self) -> None:
        """Close the environment of the row."""
        if self._env is not None:
            self._env.close()
            self._env = None


def _chat_text(chats: Any) -> str:
    if isinstance(chats, str):
        return chats
    return "\n\n".join(str(chat.get("content", "")) for chat in chats or ())


def skyrl_subject(
    name: str,
    args: Mapping[str, Any],
    rows: str | Sequence[Mapping[str, Any]] | None = None,
    form: str | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Subject:
    """An environment that is registered with skyrl-gym.

    Args:
        name: of it.
        args: of its ``env_config``.
        rows: as SkyRL's data sets have them: ``prompt``, ``reward_spec``, and what the class needs.
        form: how an answer is written.
        reward_range: of an episode.

    Raises:
        MissingExtraError: the package is not installed.
        BadInputError: there are no rows.
    """
    return _SkyRL(name, args, _row_reader(rows, f"skyrl:{name}"), form, reward_range)


class _OpenEnv(Subject):
    """An ``Environment`` of OpenEnv, in the process of the audit, without its server."""

    def __init__(
        self, made: Any, name: str, gold: str | None, form: str | None,
        reward_range: tuple[float, float] | None,
    ) -> None:  # fmt: skip
        self.form = "{}"
        self._env, self._name, self._gold = made, name, gold
        self._forms = (form,) if form else FORMS
        self._range = reward_range or (None, None)
        hints = typing.get_type_hints(type(made).step)
        self._action: Any = hints.get("action")
        fields = getattr(self._action, "model_fields", {})
        texts = [key for key, field in fields.items() if field.annotation is str]
        if not texts:
            raise BadInputError(
                f"{name}: the action of step() has no field of type str ({', '.join(fields)})"
            )
        self._field = texts[0]

    def facts(self) -> Facts:
        """Tasks are seeds."""
        told = (f"openenv:{self._name}", "openenv", None)
        low, high = self._range
        return Facts(
            *told, low, high, drawn=True, forms=self._forms, own_gold=self._gold is not None
        )

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Each seed's opening, and its gold, where an attribute has it."""
        found = []
        for number in numbers:
            prompt = self.reset(number)
            golds = texts_of(getattr(self._env, self._gold, None)) if self._gold else ()
            found.append(Item(number, f"seed-{number}", prompt, golds))
        return found

    def reset(self, number: int) -> str:
        """By seed."""
        return _seen(self._env.reset(seed=number))

    def step(self, reply: str) -> Outcome:
        """One turn."""
        given = self._env.step(self._action(**{self._field: reply}))
        return Outcome(_seen(given), given.reward if given.reward is not None else 0.0, given.done)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _seen(observation: Any) -> str:
    fields = type(observation).model_fields
    name = next((name for name in _READ_FIELDS if name in fields), None)
    if name is not None and isinstance(getattr(observation, name), str):
        return str(getattr(observation, name))
    return json.dumps(observation.model_dump(exclude={"reward", "done", "metadata"}), default=str)


def open_env_subject(
    target: str,
    args: Mapping[str, Any],
    gold: str | None = None,
    form: str | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Subject:
    """A class of OpenEnv's ``Environment``.

    Args:
        target: ``module:Class``.
        args: of the class.
        gold: attribute that holds the gold answer after a reset, perhaps after ``attr:``.
        form: how an answer is written.
        reward_range: of an episode.

    Raises:
        BadInputError: it cannot be loaded, or its action has no text.
    """
    try:
        made = load(target)(**args)
    except (ImportError, AttributeError) as error:
        raise BadInputError(f"openenv:{target} cannot be loaded: {error}") from error
    name = gold.removeprefix("attr:") if gold else None
    return _OpenEnv(made, target, name, form, reward_range)


class _Verifiers(Subject):
    """A taskset of verifiers (1.x): its tasks score one reply, without a runtime and a model."""

    def __init__(
        self, target: str, args: Mapping[str, Any], gold: str | None, form: str | None,
        reward_range: tuple[float, float] | None,
    ) -> None:  # fmt: skip
        self.form = "{}"
        self._vf = require_extra("verifiers.v1", "verifiers")
        self._graph = require_extra("verifiers.v1.graph", "verifiers")
        self._trace = require_extra("verifiers.v1.trace", "verifiers")
        self._types = require_extra("verifiers.v1.types", "verifiers")
        found = self._class(target)
        config = self._config(found)(**args)
        self._target, self._gold = target, gold
        self._tasks = list(found(config).take(20_000))
        self._forms = (form,) if form else FORMS
        self._range = reward_range or (None, None)
        self._number = 0

    def _class(self, target: str) -> Any:
        try:
            module = load(target)
        except (ImportError, AttributeError) as error:
            raise BadInputError(f"verifiers:{target} cannot be loaded: {error}") from error
        if isinstance(module, type):
            return module
        own = [
            each
            for each in vars(module).values()
            if isinstance(each, type) and issubclass(each, self._vf.Taskset)
            and each is not self._vf.Taskset
        ]  # fmt: skip
        if not own:
            raise BadInputError(f"verifiers:{target}: the module has no class of a Taskset")
        return own[-1]

    def _config(self, found: Any) -> Any:
        generic = require_extra("verifiers.v1.utils.generic", "verifiers")
        return generic.concrete_type(found, self._vf.TasksetConfig) or self._vf.TasksetConfig

    def facts(self) -> Facts:
        """One reply a task."""
        told = (f"verifiers:{self._target}", "verifiers", len(self._tasks))
        low, high = self._range
        known = self._gold is not None
        return Facts(*told, low, high, turns=False, forms=self._forms, own_gold=known)

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Prompt and the column of the gold of each task."""
        found = []
        for number in numbers:
            data = self._tasks[number].data
            golds = texts_of(getattr(data, self._gold, None)) if self._gold else ()
            found.append(Item(number, str(data.id or f"task-{number}"), data.prompt_text, golds))
        return found

    def reset(self, number: int) -> str:
        """The prompt."""
        self._number = number
        return str(self._tasks[number].data.prompt_text)

    def step(self, reply: str) -> Outcome:
        """The task's own score of a trace with this reply."""
        task = self._tasks[self._number]
        node = self._graph.MessageNode
        said = self._types.AssistantMessage(content=reply)
        asked = self._types.UserMessage(content=task.data.prompt_text)
        trace = self._trace.Trace.model_construct(
            task=self._trace.TraceTask.model_construct(type=type(task).__name__, data=task.data),
            nodes=[node(message=asked), node(parent=0, message=said, sampled=True)],
            is_completed=True,
            ok=True,
        )
        asyncio.run(task.score(trace))
        return Outcome("", trace.reward, True)


def verifiers_subject(
    target: str,
    args: Mapping[str, Any],
    gold: str | None = None,
    form: str | None = None,
    reward_range: tuple[float, float] | None = None,
) -> Subject:
    """A taskset of verifiers whose tasks score a reply.

    Args:
        target: ``module``, or ``module:Class``.
        args: of its configuration.
        gold: field of a task's data that holds the gold answer.
        form: how an answer is written.
        reward_range: of an episode.

    Raises:
        MissingExtraError: the package is not installed.
        BadInputError: it cannot be loaded.
    """
    return _Verifiers(target, args, gold, form, reward_range)

"""Goals over a state: conditions on the rows of its tables, as data, judged by this code alone.

A state is a dict of tables, and a table a dict of ids to rows::

    {"orders": {"O-7": {"customer": "C-1", "status": "open"}}, "customers": {"C-1": {...}}}

A *condition* is a dict of fields to values; a value may be ``{"at_most": 3}`` or another operator
of `toolgym.grading.conditions.OPERATORS`, the field ``id`` is the row's own, and ``customer.city``
leads through the id in ``customer`` to a row of the table that the goal's ``links`` name, or into
what a row holds. A table may be a list, whose ids are ``"0"``, ``"1"`` and so on; a row that is no
dict has the field ``value``; what stands beside the tables are the fields of the table ``""``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolgym._util.differences import difference, undone
from toolgym._util.jsonl import copy_json
from toolgym.errors import BadInputError, did_you_mean
from toolgym.grading.conditions import KEYS, OPERATORS, check_predicate, same
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

__all__ = ["Goal", "Standing", "changed_rows", "standings"]

State = Mapping[str, Any]
Condition = Mapping[str, Any]

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Standing:
    """How an episode stands after a step.

    Args:
        met: predicates of the goal that hold now, beyond those that held at the beginning.
        wanted: predicates that did not hold at the beginning.
        harm: rows that were changed, added or removed without being part of the goal, and rows that
            break an invariant.
        broken: rules that were broken so far; nothing mends them.
    """

    met: int
    wanted: int
    harm: int
    broken: int

    @property
    def reached(self) -> bool:
        """Whether all of the goal holds, by allowed ways alone and nothing else was changed."""
        return self.met == self.wanted and not self.harm and not self.broken


@dataclass(frozen=True, slots=True)
class Goal:
    """What the state of an episode has to come to, and what may not be done on the way.

    Args:
        reach: ``{"table": name, "where": condition, "count": n}``: so many rows match at the end;
            without ``count`` one.
        rules: never does a row of ``table`` come to match ``after`` that matched ``before`` until
            then (a row that was added has no ``before``); or ``{"call": tool, "arguments":
            condition}``: no such call succeeds. ``text`` says it in words.
            Arguments that are ids lead on to rows: ``file_id.size``, with the link ``.file_id``.
        invariants: no row of ``table`` matches ``where``, in any state.
        links: ``"table.field"`` to the table that the ids in this field are of.

    Raises:
        BadInputError: a predicate that is none; its place is named.
    """

    reach: tuple[Mapping[str, Any], ...] = ()
    rules: tuple[Mapping[str, Any], ...] = ()
    invariants: tuple[Mapping[str, Any], ...] = ()
    links: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        for name, known in KEYS.items():
            for place, item in enumerate(getattr(self, name)):
                check_predicate(item, known, f"{name}[{place}]")

    @classmethod
    def of(cls, task: Task) -> Goal:
        """The goal that a task's column ``goal`` holds.

        Raises:
            BadInputError: there is none, or it cannot be judged.
        """
        row = task.goal
        if row is None:
            raise BadInputError(
                f"task {task.id!r} has no goal over a state, which this reward scores by: worlds "
                "have one (a task's own: a column 'goal' of {'reach': [{'table', 'where'}]}). For "
                "other tasks use 'task_completion'"
            )
        return cls.from_row(row, f"the goal of task {task.id!r}")

    @classmethod
    def from_row(cls, row: Any, what: str = "the goal") -> Goal:
        """A goal from plain JSON.

        Args:
            row: an object of the fields of this class, each optional.
            what: for messages.

        Raises:
            BadInputError: it is none.
        """
        if not isinstance(row, Mapping):
            raise BadInputError(f"{what} is an object of predicates, not {row!r:.80}")
        for key in row:
            if key not in (*KEYS, "links"):
                raise BadInputError(
                    f"{what} has the key {key!r}{did_you_mean(str(key), (*KEYS, 'links'))}; keys: "
                    f"{', '.join((*KEYS, 'links'))}"
                )
        lists = {name: row.get(name) or () for name in KEYS}
        for name, items in lists.items():
            if not isinstance(items, list | tuple):
                raise BadInputError(f"{name!r} of {what} is a list, not {items!r:.80}")
        links = row.get("links") or {}
        if not isinstance(links, Mapping):
            raise BadInputError(f"'links' of {what} is an object, not {links!r:.80}")
        try:
            return cls(**{name: tuple(items) for name, items in lists.items()}, links=links)
        except BadInputError as error:
            raise BadInputError(f"{what}: {error}") from error

    def matches(self, state: State, table: str, key: str, row: Any, where: Condition) -> bool:
        """Whether a row fits a condition.

        Args:
            state: that the row is part of.
            table: of the row.
            key: the row's id.
            row: the row.
            where: the condition.
        """
        for field, wanted in where.items():
            value = self._value(state, table, key, row, field)
            if isinstance(wanted, Mapping):
                for name, operand in wanted.items():
                    if value is _MISSING or not OPERATORS[name](value, operand):
                        return False
            elif value is _MISSING or not same(value, wanted):
                return False
        return True

    def _value(self, state: State, table: str, key: str, row: Any, field: str) -> Any:
        first, _, rest = field.partition(".")
        value = key if first == "id" and table else _fields(row).get(first, _MISSING)
        while rest and isinstance(value, Mapping):  # what is held inside a row
            first, _, rest = rest.partition(".")
            value = value.get(first, _MISSING)
        if not rest or value is _MISSING:
            return value
        other = (self.links or {}).get(f"{table}.{first}", "")
        linked = _rows(state, other).get(value) if other and isinstance(value, str) else None
        return _MISSING if linked is None else self._value(state, other, value, linked, rest)

    def holds(self, state: State, predicate: Mapping[str, Any]) -> bool:
        """Whether a predicate of ``reach`` holds in a state."""
        count, where = predicate.get("count", 1), predicate["where"]
        rows = _rows(state, predicate["table"])
        if isinstance(where.get("id"), str):
            key = where["id"]
            rows = {key: rows[key]} if key in rows else {}
        found = sum(
            self.matches(state, predicate["table"], key, row, where) for key, row in rows.items()
        )
        if isinstance(count, Mapping):
            return all(OPERATORS[name](found, operand) for name, operand in count.items())
        return bool(found == count)

    def violations(self, state: State) -> list[str]:
        """What breaks an invariant in a state: its text or table, and the row's id."""
        return [
            f"{item.get('text') or item['table']}: {key}"
            for item in self.invariants
            for key, row in _rows(state, item["table"]).items()
            if self.matches(state, item["table"], key, row, item["where"])
        ]

    def harm(self, before: State, after: State, touched: Iterable[tuple[str, str]]) -> int:
        """How many rows differ without being part of the goal.

        Args:
            before: the state at the beginning.
            after: the state now.
            touched: tables and ids of the rows that may differ.
        """
        found, added = 0, Counter[str]()
        for table, key in _cells(before, after, touched):
            was, now = _rows(before, table).get(key), _rows(after, table).get(key)
            if same(was, now):
                continue
            named = [p for p in self.reach if p["table"] == table]
            mine = [p for p in named if not table or p["where"].get("id") == key]
            if was is None:
                asked = any(self.matches(after, table, key, now, p["where"]) for p in mine)
                added[table] += not asked
            elif now is None:
                found += not any(p.get("count", 1) == 0 for p in mine)
            else:
                old, new = _fields(was), _fields(now)
                allowed = {name.partition(".")[0] for p in mine for name in p["where"]}
                fields = {*old, *new} - allowed
                found += any(not same(old.get(n, _MISSING), new.get(n, _MISSING)) for n in fields)
        return found + sum(
            max(0, number - self._wanted(before, after, table)) for table, number in added.items()
        )

    def _wanted(self, before: State, after: State, table: str) -> int:
        """How many of the rows that were added to a table the goal asks for."""
        known, wanted = _rows(before, table), 0
        for item in self.reach:
            count = item.get("count", 1)
            if item["table"] != table or "id" in item["where"] or not isinstance(count, int):
                continue
            rows = [pair for pair in _rows(after, table).items() if pair[0] not in known]
            new = sum(self.matches(after, table, key, row, item["where"]) for key, row in rows)
            had = sum(
                self.matches(before, table, key, row, item["where"]) for key, row in known.items()
            )
            wanted += min(new, max(0, count - had))
        return wanted

    def standings(self, states: Sequence[State], steps: Sequence[Step]) -> list[Standing]:
        """How things stand in each state.

        Args:
            states: [steps + 1] before the first step and after each.
            steps: with their calls and changes.
        """
        first, broken, touched = states[0], set[int](), set[tuple[str, str]]()
        held = [self.holds(first, item) for item in self.reach]
        found: list[Standing] = []
        for number, state in enumerate(states):
            if number:
                broken |= self.broken_by(steps[number - 1], states[number - 1], state)
                touched |= _touched(steps[number - 1])
            if number and state is states[number - 1]:
                found.append(replace(found[-1], broken=len(broken)))
                continue
            both = zip(self.reach, held, strict=True)
            met = sum(self.holds(state, item) - before for item, before in both)
            harm = self.harm(first, state, touched) + len(self.violations(state))
            found.append(Standing(met, held.count(False), harm, len(broken)))
        return found

    def broken_by(self, step: Step, before: State, after: State) -> set[int]:
        """Numbers of the rules that a step broke.

        Args:
            step: whose calls and changes are looked at.
            before: the state before it.
            after: the state after it.
        """
        found = set()
        rows = _cells(before, after, _touched(step))
        calls = [*zip(step.calls, step.results, strict=True)]
        for number, rule in enumerate(self.rules):
            if "call" in rule:
                made = (c for c, r in calls if c.name == rule["call"] and r.error is None)
                wanted = rule.get("arguments") or {}
                broken = any(self.matches(before, "", "", c.arguments, wanted) for c in made)
            else:
                broken = any(
                    self.crosses(rule, before, after, key)
                    for table, key in rows
                    if table == rule["table"]
                )
            if broken:
                found.add(number)
        return found

    def crosses(self, rule: Mapping[str, Any], before: State, after: State, key: str) -> bool:
        """Whether a change of one row is what a rule forbids.

        Args:
            rule: with a table.
            before: the state before the change.
            after: the state after it.
            key: id of the row.
        """
        table = rule["table"]
        was, now = _rows(before, table).get(key), _rows(after, table).get(key)
        if now is None or not self.matches(after, table, key, now, rule.get("after") or {}):
            return False
        if was is None:
            return "before" not in rule
        changed = not self.matches(before, table, key, was, rule.get("after") or {})
        return changed and self.matches(before, table, key, was, rule.get("before") or {})


def standings(task: Task, trajectory: Trajectory) -> list[Standing]:
    """How an episode stands at its beginning and after each step.

    Args:
        task: with a goal.
        trajectory: with the state of its sessions.

    Returns:
        [steps + 1]; what stands at place k depends on nothing after step k.

    Raises:
        BadInputError: no goal, or no state.
    """
    goal = Goal.of(task)
    if not isinstance(trajectory.state, dict):
        raise BadInputError(
            f"episode {trajectory.id!r} has no state of tables that the goal could be judged by: "
            "play it with tools that remember (docs/worlds.md)"
        )
    steps = trajectory.steps
    states = [copy_json(trajectory.state)]
    for step in reversed(steps):  # a step that changed nothing shares its state with the one before
        diff = step.state_diff
        states.append(undone(copy_json(states[-1]), diff) if diff else states[-1])
    states.reverse()
    return goal.standings(states, steps)


def changed_rows(before: State, after: State) -> set[tuple[str, str]]:
    """Tables and ids of the rows that differ between two states."""
    return {_row_of(change["path"]) for change in difference(before, after)}


def _touched(step: Step) -> set[tuple[str, str]]:
    return {_row_of(change["path"]) for change in step.state_diff}


def _row_of(path: Sequence[Any]) -> tuple[str, str]:
    return str(path[0]) if path else "", str(path[1]) if len(path) > 1 else ""


def _cells(before: State, after: State, touched: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Tables and ids of rows, where whole tables may have come or gone."""
    found = set()
    for table, key in touched:
        keys = {key} if key else {*_rows(before, table), *_rows(after, table)}
        found |= {(table, name) for name in keys} or {("", "")}
    return found


def _rows(state: State, table: str) -> Mapping[str, Any]:
    """Ids to rows; those of a list are its places, that of no table is what stands beside them."""
    if not table:
        return {"": {n: v for n, v in state.items() if not isinstance(v, Mapping | list)}}
    rows = state.get(table)
    if isinstance(rows, list):
        return {str(place): row for place, row in enumerate(rows)}
    return rows if isinstance(rows, Mapping) else {}


def _fields(row: Any) -> Mapping[str, Any]:
    return row if isinstance(row, Mapping) else {"value": row}

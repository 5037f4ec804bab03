"""A world as a row: its tables, tools, goal, gold plan, user and proof; validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from toolgym.errors import BadInputError
from toolgym.grading.states import Goal
from toolgym.scenario import Record, ReferenceCall, ToolDocument, references

__all__ = [
    *("DONE", "KIND", "LEVELS", "Act", "Change", "Fact", "PlanStep", "UserScript", "World"),
]

KIND = "stateful"
"""What a row says under ``kind``; rows of questions have no such key."""
LEVELS = (1, 2, 3, 4)
DONE = "Done."
"""The gold answer of a world, which nothing is judged by."""


class PlanStep(Record):
    """A gold call.

    Args:
        id: such as ``s1``, unique within the plan.
        tool: name of the tool.
        arguments: plain values; ``{"$from": "s1", "path": [0, "id"]}`` anywhere in them stands for
            a part of what an earlier step gave.
        after: further steps that have to come before it.
    """

    id: str
    tool: str
    arguments: dict[str, Any]
    after: tuple[str, ...] = ()

    @property
    def needs(self) -> set[str]:
        """The steps that have to come before it."""
        return {*references(self.arguments), *self.after}

    @property
    def call(self) -> ReferenceCall:
        """The same as a call, whose arguments can be filled."""
        return ReferenceCall(sub_question=self.id, tool=self.tool, arguments=self.arguments)


class Fact(Record):
    """Something that the user tells when he is asked for it.

    Args:
        name: what it is, as one asks for it: ``new address``.
        keywords: words of which one has to stand in what asks for it.
        value: the text that he tells.
        secret: he never tells it; then ``value`` is empty.
    """

    name: str
    keywords: tuple[str, ...] = Field(min_length=1)
    value: str = ""
    secret: bool = False


class Change(Record):
    """A changed mind: what was told for a fact is not wanted any more.

    Args:
        fact: its name.
        value: the text that counts in the end.
    """

    fact: str
    value: str


class Act(Record):
    """Something that only the user can do, when he is asked to.

    Args:
        name: what it is, as one asks for it: ``unlock the account``.
        keywords: words of which one has to stand in what asks for it.
        tool: that he calls; the policy never sees it.
        arguments: of the call.
    """

    name: str
    keywords: tuple[str, ...] = Field(min_length=1)
    tool: str
    arguments: dict[str, Any]


class UserScript(Record):
    """Who speaks in a world; see `toolgym.envs.toolscenario.user.CompiledUser`.

    Args:
        facts: told when asked for, and never told.
        change: a changed mind, said after the fact was told.
        acts: what he does when asked to.
        insists: asks once more for what the rules forbid, when all seems done.
        noise: from 0 (plain sentences) to 3 (chatter before and after, small letters).
    """

    facts: tuple[Fact, ...] = ()
    change: Change | None = None
    acts: tuple[Act, ...] = ()
    insists: bool = False
    noise: int = Field(default=0, ge=0, le=3)

    @model_validator(mode="after")
    def _check(self) -> UserScript:
        names = [fact.name for fact in self.facts]
        if len(set(names)) < len(names):
            raise ValueError(f"two facts have one name: {names}")
        if self.change is not None and self.change.fact not in names:
            raise ValueError(f"the user changes {self.change.fact!r}, which is not among {names}")
        for fact in self.facts:
            if fact.secret != (not fact.value):
                raise ValueError(f"fact {fact.name!r} needs a value, or to be secret; not both")
        return self


class World(Record):
    """A stateful scenario.

    Args:
        id: unique within a file.
        question: what the policy is asked, house rules included.
        domain: such as ``shop``.
        level: from 1 to 4: more rows, tools, steps and rules.
        split: ``train``, ``validation``, ``test`` or empty.
        author: who made it.
        state: tables, ``{table: {id: row}}``, and plain values such as ``today``.
        documents: of the tools.
        functions: tool names to sources of ``def name(state, ...)``; run in the sandbox only.
        goal: predicates over the final state; this and the next three are the fields of
            `toolgym.grading.states.Goal`.
        rules: what may not be done.
        invariants: what holds in every state.
        links: which fields hold ids of which table.
        plan: gold calls, in an order that works.
        user: who speaks, or None.
        proof: what verification tried and what came of it; empty before.
    """

    id: str
    question: str
    domain: str
    level: Literal[1, 2, 3, 4]
    split: str = ""
    author: str = ""
    state: dict[str, Any]
    documents: tuple[ToolDocument, ...]
    functions: dict[str, str]
    goal: tuple[dict[str, Any], ...] = Field(min_length=1)
    rules: tuple[dict[str, Any], ...] = ()
    invariants: tuple[dict[str, Any], ...] = ()
    links: dict[str, str] = Field(default_factory=dict)
    plan: tuple[PlanStep, ...] = Field(min_length=1)
    user: UserScript | None = None
    proof: dict[str, Any] = Field(default_factory=dict)

    @field_validator("state")
    @classmethod
    def _check_state(cls, state: dict[str, Any]) -> dict[str, Any]:
        for name, table in state.items():
            if isinstance(table, dict) and not all(isinstance(row, dict) for row in table.values()):
                raise ValueError(f"table {name!r} holds what is not a row: {table!r:.80}")
        return state

    @model_validator(mode="after")
    def _check(self) -> World:
        try:
            Goal.from_row(self.judged())
        except BadInputError as error:
            raise ValueError(str(error)) from error
        known: set[str] = set()
        for step in self.plan:
            if step.id in known or not step.needs <= known:
                raise ValueError(
                    f"step {step.id!r} of the plan stands twice, or before one that it needs: "
                    f"{sorted(step.needs)}"
                )
            known.add(step.id)
        return self

    def judged(self) -> dict[str, Any]:
        """The column ``goal`` of its task."""
        return {
            "reach": list(self.goal),
            "rules": list(self.rules),
            "invariants": list(self.invariants),
            "links": self.links,
        }

    def hidden(self) -> list[str]:
        """Tools that the user alone can call."""
        return sorted({act.tool for act in self.user.acts}) if self.user is not None else []

    def ids(self) -> Iterator[tuple[str, str]]:
        """Table and id of every row."""
        for name, table in self.state.items():
            for key in table if isinstance(table, dict) else ():
                yield name, key

    def facts(self) -> dict[str, Any]:
        """Columns of its task that reports group by."""
        told = {"shape": KIND, "complexity": self.level, "domain": self.domain}
        return told | ({"dialogue": True} if self.user is not None else {})

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"schema": 1, "kind": KIND, **self.model_dump(mode="json")}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> World:
        """Read what `to_row` wrote.

        Raises:
            ValueError: it is none (pydantic's error, or another schema version or kind).
        """
        if row.get("schema") != 1:
            raise ValueError(f"scenario schema {row.get('schema')!r} is not 1")
        if row.get("kind") != KIND:
            raise ValueError(f"a scenario's kind is {KIND!r} or not given, not {row.get('kind')!r}")
        plain = {key: value for key, value in row.items() if key not in ("schema", "kind")}
        return cls.model_validate(plain, strict=False)

"""What was drawn, written as a world: plan, goal, tools and question."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolgym._util.jsonl import copy_json
from toolgym.envs.toolscenario.authors.stateful.parts import Domain, Rule
from toolgym.envs.toolscenario.authors.stateful.rendering import (
    applied,
    document,
    found_rows,
    source,
)
from toolgym.envs.toolscenario.records import Question
from toolgym.envs.toolscenario.world import LEVELS, PlanStep, UserScript, World
from toolgym.grading.conditions import same
from toolgym.grading.states import changed_rows
from toolgym.scenario import FROM

__all__ = ["Draft", "Wish", "goal_of", "written"]

_OPENINGS = (
    "You work for {about}. {wish}",
    "You are the assistant of {about}. {wish}",
    "At hand are the tools of {about}. {wish}",
)
_LEADS = ("Also: ", "Then: ", "Next: ", "One more thing: ", "And this: ")
_RULES = ("House rules:", "These rules hold:", "Please keep to the rules of the house:")
_ELSE = (
    "Where a rule forbids what is asked for, do what the rule says instead.",
    "If a rule stands against a wish, follow the rule.",
)


@dataclass
class Wish:
    """One thing that is asked for.

    Args:
        asked: the verb that is asked for.
        done: the verb that is right: the same, but where a rule forbids it.
        given: arguments of the verb that is right.
        words: the sentence.
        open: the parameter that the user tells when he is asked, or empty.
    """

    asked: str
    done: str
    given: dict[str, Any]
    words: str
    open: str = ""


@dataclass
class Draft:
    """A world while it is drawn."""

    domain: Domain
    level: int
    rng: random.Random
    state: dict[str, Any]
    rules: list[Rule]
    wishes: list[Wish] = field(default_factory=list)
    used: set[tuple[str, str]] = field(default_factory=set)
    user: UserScript | None = None


def written(draft: Draft, question: Question, name: str, author: str) -> World:
    """The world of a draft.

    Args:
        draft: with all its wishes.
        question: of the build.
        name: of the domain.
        author: who makes it.
    """
    domain = draft.domain
    after = copy_json(draft.state)
    for act in draft.user.acts if draft.user is not None else ():
        after = applied(domain, after, domain.writes[act.tool], act.arguments)
    for wish in draft.wishes:
        after = applied(domain, after, domain.writes[wish.done], wish.given)
    plan = gold_plan(draft)
    tools = _tools(draft, plan)
    rules, links = [_rule(domain, rule) for rule in draft.rules], dict(domain.links)
    for rule in draft.rules:
        first = next(iter(domain.writes[rule.verb].takes))
        links[f".{first}"] = str(domain.writes[rule.verb].takes[first].values[0])
    return World(
        id=question.id,
        question=_question(draft),
        domain=name,
        level=draft.level,  # type: ignore[arg-type]
        split=question.split,
        author=author,
        state=draft.state,
        documents=tuple(document(domain, tool) for tool in tools),
        functions={tool: source(domain, tool) for tool in tools},
        goal=tuple(goal_of(draft.state, after)),
        rules=tuple(rules),
        invariants=tuple(dict(item) for item in domain.invariants),
        links=links,
        plan=plan,
        user=draft.user,
    )


def _rule(domain: Domain, rule: Rule) -> dict[str, Any]:
    verb = domain.writes[rule.verb]
    first = next(iter(verb.takes))
    if rule.after:
        table = str(verb.takes[first].values[0])
        made = {"table": table, "before": dict(rule.before), "after": dict(rule.after)}
    else:
        arguments = {f"{first}.{key}": value for key, value in rule.before.items()}
        made = {"call": rule.verb, "arguments": arguments}
    return {"text": rule.words, **made}


def goal_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicates that hold in a state, and do not in the one before it: what has to differ.

    Args:
        before: the state at the beginning.
        after: the state at the end.
    """
    goal: list[dict[str, Any]] = []
    for table, key in sorted(changed_rows(before, after)):
        was, now = before[table].get(key), after[table].get(key)
        if now is None:
            goal.append({"table": table, "where": {"id": key}, "count": 0})
        elif was is None:
            alike = sum(row == now for row in after[table].values())
            item = {"table": table, "where": now, "count": alike}
            if item not in goal:
                goal.append(item)
        else:
            changed = {n: v for n, v in now.items() if n not in was or not same(was[n], v)}
            goal.append({"table": table, "where": {"id": key, **changed}})
    return goal


def gold_plan(draft: Draft) -> tuple[PlanStep, ...]:
    """Calls of all wishes; what looks up a row comes before what takes rows away."""
    steps: list[PlanStep] = []
    known: dict[str, str] = {}
    last: list[tuple[str, dict[str, Any]]] = []

    def step(tool: str, arguments: dict[str, Any], after: Sequence[str] = ()) -> str:
        steps.append(
            PlanStep(id=f"s{len(steps) + 1}", tool=tool, arguments=arguments, after=tuple(after))
        )
        return steps[-1].id

    def look_up(table: str, key: str) -> dict[str, Any]:
        verb, by = draft.domain.tables[table].found
        row, arguments, plain = draft.state[table][key], {}, {}
        for parameter, name in by.items():
            linked = draft.domain.links.get(f"{table}.{name}")
            plain[parameter] = row[name]
            arguments[parameter] = look_up(linked, row[name]) if linked else row[name]
        place = found_rows(draft.domain, draft.state, verb, plain).index(key)
        asked = json.dumps([verb, arguments], sort_keys=True)
        if asked not in known:
            known[asked] = step(verb, arguments)
        return {FROM: known[asked], "path": [place, "id"]}

    for wish in draft.wishes:
        verb = draft.domain.writes[wish.done]
        tables = verb.rows()
        arguments = {
            name: look_up(tables[name], value) if name in tables else value
            for name, value in wish.given.items()
        }
        if any(effect[0] == "drop" for effect in verb.does):
            last.append((wish.done, arguments))
        else:
            step(wish.done, arguments)
    reads = [item.id for item in steps if item.tool in draft.domain.reads]
    for tool, arguments in last:
        step(tool, arguments, reads)
    return tuple(steps)


def _tools(draft: Draft, plan: Sequence[PlanStep]) -> list[str]:
    """Verbs that are offered: what is needed, what rules speak of, and more by level."""
    domain = draft.domain
    needed = {step.tool for step in plan} | {wish.asked for wish in draft.wishes}
    needed |= {verb for rule in draft.rules for verb in (rule.verb, rule.instead)}
    own = {act.tool for act in draft.user.acts} if draft.user is not None else set()
    others = [n for n in domain.reads if n not in needed]
    others += [n for n, verb in domain.writes.items() if n not in needed and not verb.own]
    draft.rng.shuffle(others)
    share = (draft.level - 1) / (len(LEVELS) - 1)
    needed |= {*others[: round(share * len(others)) or 1], *own}
    return [name for name in (*domain.reads, *domain.writes) if name in needed]


def _question(draft: Draft) -> str:
    """All wishes, and the rules in words."""
    rng, texts = draft.rng, [wish.words for wish in draft.wishes]
    if len(texts) > 1 and rng.random() < 0.4:
        begun = f"Please do {('', '', 'two', 'three', 'four')[len(texts)]} things:"
        wish = "\n".join([begun, *(f"{n}. {text}" for n, text in enumerate(texts, 1))])
    else:
        leads = ["", *rng.sample(_LEADS, len(texts) - 1)]
        wish = " ".join(lead + text for lead, text in zip(leads, texts, strict=True))
    whole = rng.choice(_OPENINGS).format(about=draft.domain.about, wish=wish)
    if not draft.rules:
        return whole
    lines = [f"- {rule.words}" for rule in draft.rules]
    today = f"Today is {draft.state['today']}. {rng.choice(_ELSE)}"
    return "\n".join([whole, "", rng.choice(_RULES), *lines, today])

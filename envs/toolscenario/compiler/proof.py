"""The proof of a world: what leads to its goal, and what does not; all of it played in the jail."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolgym.envs.toolscenario.plans import Lab, Run, gold_run, reject
from toolgym.envs.toolscenario.schemas import document_problems
from toolgym.envs.toolscenario.tool import function_problems, sandbox_for
from toolgym.envs.toolscenario.user import AT_ONCE, BEGGING, CompiledUser, questions, topics
from toolgym.envs.toolscenario.world import PlanStep, UserScript, World
from toolgym.sandbox import Sandbox
from toolgym.tools.schemas import misfits

__all__ = ["prove"]

_ORDERS = 5  # of a plan that are tried beside its own
_SEARCHED = 64  # calls of the search for shortcuts
_WRONG = 24  # plans with a wrong argument


def prove(world: World, timeout: float = 10.0) -> dict[str, Any]:
    """Prove a world; its functions run in the sandbox only.

    Args:
        world: of an author, or from a file.
        timeout: seconds that a call may take.

    Returns:
        What was tried, by kind and number.

    Raises:
        RejectedError: it does not hold; stage ``verification``, with reason and message.
        BadInputError: the sandbox does not work here.
    """
    _check_tools(world, timeout)
    _check_words(world)
    box = sandbox_for(world.functions, {"timeout": timeout})
    lab = Lab(world, box)
    try:
        gold = _check_gold(lab)
        _check_arguments(world, gold)
        _check_again(world, box, gold)
        facts: dict[str, Any] = {"calls": len(gold.steps), "writes": len(gold.writes())}
        facts["left_out"] = _check_left_out(lab, gold)
        facts["wrong"] = _check_wrong(lab, gold)
        facts["orders"] = _check_orders(lab, gold)
        facts |= _search(lab, gold)
        if lab.begin().states[0] != lab.session.state():
            reject("reset_differs", "the state after a reset is not the one at the beginning")
    finally:
        lab.session.close()
    return facts | ({"dialogue": _check_user(world, world.user)} if world.user else {})


def _check_tools(world: World, timeout: float) -> None:
    names = [document.name for document in world.documents]
    for document in world.documents:
        for problem in document_problems(document.to_row()):
            reject("bad_document", f"tool {document.name!r:.80}: {problem}")
    if len(set(names)) < len(names) or set(names) != set(world.functions):
        reject(
            "functions_differ",
            f"the documents are {sorted(names)}, the functions {sorted(world.functions)}",
        )
    for name, source in world.functions.items():
        for problem in function_problems({name: source}, {"timeout": timeout}).values():
            reject("bad_function", f"{name!r}: {problem}")
    hidden = world.hidden()
    for tool in [*(step.tool for step in world.plan), *hidden]:
        if tool not in names:
            reject("unknown_tool", f"{tool!r} is called, and has no document: {names}")
    own = [step.id for step in world.plan if step.tool in hidden]
    if own:
        reject("hidden_tool", f"steps {own} of the plan call tools of the user's own")


def _check_words(world: World) -> None:
    """No id is told that has to be looked up, and no fact that has to be asked for."""
    said = [world.question, *(json.dumps(item.to_row()) for item in world.documents)]
    facts = world.user.facts if world.user is not None else ()
    told = [fact.value for fact in facts]
    for table, key in world.ids():
        for text in (*said, *told):
            if _stands(key, text):
                reject("leaked_id", f"the id {key!r} of {table} stands in {text!r:.300}")
    for fact in facts:
        if not fact.secret and _stands(fact.value, world.question):
            reject("told_fact", f"the question tells {fact.name!r}: {fact.value!r}")
    ids = {key for _, key in world.ids()}
    known = [world.question, *told]
    known += [world.user.change.value] if world.user is not None and world.user.change else []
    for step in world.plan:
        for value in _literals(step.arguments):
            if value in ids:
                reject("literal_id", f"step {step.id!r} has the id {value!r} written out")
            if not isinstance(value, bool) and not any(_stands(str(value), t) for t in known):
                reject(
                    "unsaid_argument",
                    f"step {step.id!r} needs {value!r:.80}, which neither the question nor the "
                    "user says",
                )


def _stands(value: str, text: str) -> bool:
    """Whether a text says a value, as words of its own."""
    if not value or value.casefold() not in text.casefold():
        return False
    return bool(re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text, re.IGNORECASE))


def _literals(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in () if "$from" in value else value.values():
            yield from _literals(item)
    elif isinstance(value, list):
        for item in value:
            yield from _literals(item)
    elif value is not None:
        yield value


def _check_gold(lab: Lab) -> Run:
    if lab.goal.violations(lab.world.state):
        reject("broken_invariant", f"at the beginning: {lab.goal.violations(lab.world.state)}")
    if Run([lab.world.state]).standing(lab.goal).reached:
        reject("empty_plan", "the goal is reached before anything is done")
    run = gold_run(lab)
    standing = run.standing(lab.goal)
    if not standing.reached:
        reject("unreached_goal", f"the gold plan ends with {standing}")
    return run


def _check_arguments(world: World, gold: Run) -> None:
    documents = {item.name: item for item in world.documents}
    for step in world.plan:
        for problem in misfits(gold.arguments[step.id], documents[step.tool].parameters):
            reject("bad_arguments", f"step {step.id!r}: {problem}")


def _check_again(world: World, box: Sandbox, gold: Run) -> None:
    """The plan gives the same again, also where sets are walked in another order."""
    lab = Lab(world, box.reseeded(1))
    try:
        again = lab.play(world.plan, lab.acts)
    finally:
        lab.session.close()
    same = [step.results for step in again.steps] == [step.results for step in gold.steps]
    if not same or again.states[-1] != gold.states[-1]:
        reject("nondeterministic", "the gold plan gave something else the second time")


def _check_left_out(lab: Lab, gold: Run) -> int:
    plan = lab.world.plan
    for left in plan:
        run = lab.quick([step for step in plan if step is not left], lab.acts, gold)
        if run.standing(lab.goal).reached:
            reject("needless_step", f"the goal is reached without step {left.id!r}, {left.tool}")
    for number, act in enumerate(lab.acts):
        run = lab.quick(plan, [*lab.acts[:number], *lab.acts[number + 1 :]], gold)
        if run.standing(lab.goal).reached:
            reject("needless_act", f"the goal is reached without the user's {act[0]}")
    return len(plan) + len(lab.acts)


def _check_wrong(lab: Lab, gold: Run) -> int:
    tried = 0
    for step in lab.world.plan:
        changes = [s for s in gold.writes() if s.calls[0].arguments == gold.arguments[step.id]]
        if not any(change.calls[0].name == step.tool for change in changes):
            continue
        for name, wrong in _others(lab.world, step.tool, gold.arguments[step.id]):
            if tried >= _WRONG:
                return tried
            tried += 1
            run = lab.quick(lab.world.plan, lab.acts, gold, {step.id: {name: wrong}})
            if run.standing(lab.goal).reached:
                reject(
                    "wrong_argument",
                    f"the goal is reached with {name}={wrong!r:.80} in step {step.id!r}",
                )
    return tried


def _others(world: World, tool: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each argument with another value of its kind."""
    table_of = {key: table for table, key in world.ids()}
    document = next(item for item in world.documents if item.name == tool)
    for name, value in arguments.items():
        schema = document.parameters["properties"].get(name, {})
        if isinstance(value, str) and value in table_of:
            others = [key for key in world.state[table_of[value]] if key != value]
            yield from ((name, key) for key in others[:2])
        elif isinstance(value, bool):
            yield name, not value
        elif isinstance(value, int | float):
            yield name, value + 1
        elif isinstance(schema.get("enum"), list):
            yield from ((name, other) for other in schema["enum"] if other != value)
        elif isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            yield name, f"{int(value[:4]) + 1}{value[4:]}"
        elif isinstance(value, str):
            yield name, f"{value}x"


def _check_orders(lab: Lab, gold: Run) -> int:
    """Other orders of the steps, in which each comes after what it needs, lead there, too."""
    rng, seen = random.Random(lab.world.id), {tuple(step.id for step in lab.world.plan)}
    for _ in range(_ORDERS):
        order = _order(lab.world.plan, rng)
        names = tuple(step.id for step in order)
        if names in seen:
            continue
        seen.add(names)
        run = lab.quick(order, lab.acts, gold)
        if not run.standing(lab.goal).reached:
            reject("order_matters", f"the plan in the order {names} does not reach the goal")
    return len(seen)


def _order(plan: Sequence[PlanStep], rng: random.Random) -> list[PlanStep]:
    waiting, order, done = list(plan), list[PlanStep](), set[str]()
    while waiting:
        step = rng.choice([step for step in waiting if step.needs <= done])
        waiting.remove(step)
        order.append(step)
        done.add(step.id)
    return order


def _search(lab: Lab, gold: Run) -> dict[str, int]:
    """Look for shorter ways and forbidden ones, calls of all tools on what the plan is about."""
    own = {name for name, _ in lab.acts}
    writes = [step.calls[0] for step in gold.writes() if step.calls[0].name not in own]
    calls = _candidates(lab.world, [(call.name, call.arguments) for call in writes])
    run = lab.begin()
    for name, arguments in lab.acts:
        lab.call(run, name, arguments)
    level = [(lab.session.snapshot(), run)]
    seen, tried, forbidden = {level[0][0]}, 0, 0
    for depth in range(1, len(writes) + 1):
        found = []
        for (snapshot, before), (name, given) in itertools.product(level, calls):
            if tried >= _SEARCHED:
                break
            tried += 1
            lab.session.restore(snapshot)
            after = Run(list(before.states), list(before.steps))
            lab.call(after, name, given)
            now = lab.session.snapshot()
            if now == snapshot or now in seen:
                continue
            seen.add(now)
            standing = after.standing(lab.goal)
            if lab.goal.violations(after.states[-1]):
                reject("broken_invariant", f"{name} broke one: {json.dumps(given)}")
            if standing.reached and depth < len(writes):
                told = [step.calls[0].name for step in after.steps]
                reject("shortcut", f"{depth} calls that write reach the goal: {told}")
            forbidden += bool(standing.broken or (standing.harm and standing.met))
            found.append((now, after))
        level = found
    return {"searched": tried, "forbidden": forbidden}


Call = tuple[str, Mapping[str, Any]]


def _candidates(world: World, writes: Sequence[Call]) -> list[Call]:
    """Calls that a policy might try: those of the plan, other tools on their rows, other values."""
    pool: dict[str, list[Any]] = {}
    for _, given in writes:
        for name, value in given.items():
            held = pool.setdefault(name, [])
            held += [value] if value not in held else []
    calls: list[Call] = list(writes)
    hidden = world.hidden()
    for document in world.documents:
        names = list(document.parameters["properties"])
        if document.name in hidden or not names or not set(names) <= set(pool):
            continue
        axes = [pool[name][:3] for name in names]
        for values in itertools.islice(itertools.product(*axes), 4):
            calls.append((document.name, dict(zip(names, values, strict=True))))
    for name, given in writes:
        calls += [(name, {**given, key: value}) for key, value in _others(world, name, given)]
    unique = {json.dumps([name, given], sort_keys=True): (name, given) for name, given in calls}
    return list(unique.values())


def _check_user(world: World, script: UserScript) -> int:
    """The user tells an oracle all that it needs, and one who begs nothing; so many turns."""
    told, turns = "", 0
    user = CompiledUser(world)
    for question in questions(world):
        turn = user.heard(question)
        turns += 1
        if turn is None:
            reject("silent_user", f"the user says nothing to {question!r}")
        told += f"\n{turn.text}"
    wanted = [fact for fact in script.facts if not fact.secret]
    change = script.change
    values = [f.value for f in wanted] + ([change.value] if change is not None else [])
    for value in values:
        if not _stands(value, told):
            reject("untold_fact", f"the user never says {value!r}: {told!r:.300}")
    words = topics(world)
    listed = [f"What is the {', the '.join(words)}?"] if len(words) > AT_ONCE else []
    for text in (*BEGGING, *listed):
        user = CompiledUser(world)
        for _ in range(3):
            turn = user.heard(text)
            turns += 1
            if turn is None:
                break
            if turn.calls or any(_stands(value, turn.text) for value in values):
                reject("begging_pays", f"the user says {turn.text!r} to {text!r:.200}")
    return turns

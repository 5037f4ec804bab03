"""The proof of a world: what leads to its goal, and what does not; all of it played in the jail."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolgym._util.differences import difference
from toolgym.envs.toolscenario.records import STAGES, RejectedError
from toolgym.envs.toolscenario.schemas import document_problems, misfits
from toolgym.envs.toolscenario.stateful.record import PlanStep, World
from toolgym.envs.toolscenario.stateful.user import BEGGING, CompiledUser, questions, topics
from toolgym.envs.toolscenario.tool import function_problems, sandbox_for
from toolgym.formats.scan import read_json
from toolgym.grading.states import Goal, Standing
from toolgym.messages import ToolCall, ToolResult
from toolgym.sandbox import Sandbox
from toolgym.trajectory import Step

__all__ = ["Run", "play", "prove"]

STAGE = STAGES[-1]
_ORDERS = 5  # of a plan that are tried beside its own
_SEARCHED = 96  # calls of the search for shortcuts
_WRONG = 24  # plans with a wrong argument


def _reject(reason: str, message: str) -> None:
    raise RejectedError(STAGE, reason, message[:1000])


@dataclass(slots=True)
class Run:
    """What calls made of a world.

    Args:
        states: at the beginning and after each call that was made.
        steps: the calls, with their results and changes.
        values: step of the plan to what its call gave; without those that failed.
        arguments: step of the plan to its filled arguments.
    """

    states: list[dict[str, Any]]
    steps: list[Step] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def standing(self, goal: Goal) -> Standing:
        """How things stand after the last call."""
        return goal.standings(self.states, self.steps)[-1]

    def writes(self) -> list[Step]:
        """The calls that changed something."""
        return [step for step in self.steps if step.state_diff]


class _Lab:
    """A live session of a world, to try plans in.

    Args:
        world: that is proved.
        box: with its functions.
    """

    def __init__(self, world: World, box: Sandbox) -> None:
        self.world, self.goal = world, Goal.from_row(world.judged())
        self.session = box.open(world.state)
        self.start = self.session.snapshot()
        self.acts = [
            (act.tool, act.arguments) for act in (world.user.acts if world.user is not None else ())
        ]

    def begin(self) -> Run:
        """Back to the beginning."""
        self.session.restore(self.start)
        return Run([self.world.state])

    def call(self, run: Run, name: str, arguments: Mapping[str, Any]) -> str | None:
        """Make a call; its value as JSON, or None where it failed."""
        before = self.session.snapshot()
        result = self.session.call(name, arguments)
        if result.error in ("timeout", "memory", "died", "refused"):
            reason = result.error if result.error in ("timeout", "memory") else "bad_function"
            _reject(reason, f"{name}({json.dumps(arguments)}): {result.text}")
        state, diff = run.states[-1], tuple[dict[str, Any], ...]()
        if self.session.snapshot() != before:
            state = self.session.state()
            diff = tuple(difference(run.states[-1], state))
        place = f"call_{len(run.steps)}"
        made = ToolCall(place, name, dict(arguments))
        told = ToolResult(place, result.text, None if result.error is None else "tool_error")
        run.steps.append(Step("", (made,), (told,), state_diff=diff))
        run.states.append(state)
        return None if result.error is not None else result.text

    def play(
        self,
        plan: Iterable[PlanStep],
        acts: Sequence[tuple[str, Mapping[str, Any]]],
        instead: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Run:
        """Play a plan from the beginning; what cannot be filled in is left out.

        Args:
            plan: steps in order.
            acts: what the user does before.
            instead: steps to arguments that take the place of filled ones.
        """
        run = self.begin()
        for name, given in acts:
            self.call(run, name, given)
        for step in plan:
            try:
                arguments = step.call.filled(run.values)
            except (LookupError, TypeError):
                continue
            arguments |= (instead or {}).get(step.id, {})
            text = self.call(run, step.tool, arguments)
            run.arguments[step.id] = arguments
            if text is not None:
                run.values[step.id] = _value(step, text)
        return run


def _value(step: PlanStep, text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:  # later calls take it as an argument
        raise RejectedError(STAGE, "deep_result", f"{step.id!r}: {error}") from error


def play(world: World, timeout: float = 10.0) -> Run:
    """The gold plan, played in the jail.

    Args:
        world: whose plan it is.
        timeout: seconds a call.

    Raises:
        RejectedError: a call fails, or cannot be filled in.
        BadInputError: the sandbox does not work here.
    """
    lab = _Lab(world, sandbox_for(world.functions, {"timeout": timeout}))
    try:
        return _gold(lab)
    finally:
        lab.session.close()


def _gold(lab: _Lab) -> Run:
    run = lab.play(lab.world.plan, lab.acts)
    for step in lab.world.plan:
        if step.id not in run.values:
            said = [s.results[0].content for s in run.steps if s.calls[0].name == step.tool]
            why = said[-1] if step.id in run.arguments and said else "an earlier result lacks a part"
            _reject("failed_call", f"step {step.id!r} of the plan, {step.tool}: {why}")
    return run


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
    lab = _Lab(world, box)
    try:
        gold = _check_gold(lab)
        _check_arguments(world, gold)
        _check_again(world, box, gold)
        facts: dict[str, Any] = {"calls": len(gold.steps), "writes": len(gold.writes())}
        facts["left_out"] = _check_left_out(lab)
        facts["wrong"] = _check_wrong(lab, gold)
        facts["orders"] = _check_orders(lab)
        facts |= _search(lab, gold)
        if lab.begin().states[0] != lab.session.state():
            _reject("reset_differs", "the state after a reset is not the one at the beginning")
    finally:
        lab.session.close()
    return facts | ({"dialogue": _check_user(world)} if world.user is not None else {})


def _check_tools(world: World, timeout: float) -> None:
    names = [document.name for document in world.documents]
    for document in world.documents:
        for problem in document_problems(document.to_row()):
            _reject("bad_document", f"tool {document.name!r:.80}: {problem}")
    if len(set(names)) < len(names) or set(names) != set(world.functions):
        _reject(
            "functions_differ",
            f"the documents are {sorted(names)}, the functions {sorted(world.functions)}",
        )
    for name, source in world.functions.items():
        for problem in function_problems({name: source}, {"timeout": timeout}).values():
            _reject("bad_function", f"{name!r}: {problem}")
    hidden = world.hidden()
    for tool in [*(step.tool for step in world.plan), *hidden]:
        if tool not in names:
            _reject("unknown_tool", f"{tool!r} is called, and has no document: {names}")
    own = [step.id for step in world.plan if step.tool in hidden]
    if own:
        _reject("hidden_tool", f"steps {own} of the plan call tools of the user's own")


def _check_words(world: World) -> None:
    """No id is told that has to be looked up, and no fact that has to be asked for."""
    said = [world.question, *(json.dumps(item.to_row()) for item in world.documents)]
    facts = world.user.facts if world.user is not None else ()
    told = [fact.value for fact in facts]
    for table, key in world.ids():
        for text in (*said, *told):
            if _stands(key, text):
                _reject("leaked_id", f"the id {key!r} of {table} stands in {text!r:.300}")
    for fact in facts:
        if not fact.secret and _stands(fact.value, world.question):
            _reject("told_fact", f"the question tells {fact.name!r}: {fact.value!r}")
    ids = {key for _, key in world.ids()}
    known = [world.question, *told]
    known += [world.user.change.value] if world.user is not None and world.user.change else []
    for step in world.plan:
        for value in _literals(step.arguments):
            if value in ids:
                _reject("literal_id", f"step {step.id!r} has the id {value!r} written out")
            if not isinstance(value, bool) and not any(_stands(str(value), t) for t in known):
                _reject(
                    "unsaid_argument",
                    f"step {step.id!r} needs {value!r:.80}, which neither the question nor the "
                    "user says",
                )


def _stands(value: str, text: str) -> bool:
    return bool(value) and bool(
        re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", text, re.IGNORECASE)
    )


def _literals(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in () if "$from" in value else value.values():
            yield from _literals(item)
    elif isinstance(value, list):
        for item in value:
            yield from _literals(item)
    elif value is not None:
        yield value


def _check_gold(lab: _Lab) -> Run:
    if lab.goal.violations(lab.world.state):
        _reject("broken_invariant", f"at the beginning: {lab.goal.violations(lab.world.state)}")
    if Run([lab.world.state]).standing(lab.goal).reached:
        _reject("empty_plan", "the goal is reached before anything is done")
    run = _gold(lab)
    standing = run.standing(lab.goal)
    if not standing.reached:
        _reject("unreached_goal", f"the gold plan ends with {standing}")
    return run


def _check_arguments(world: World, gold: Run) -> None:
    documents = {item.name: item for item in world.documents}
    for step in world.plan:
        for problem in misfits(gold.arguments[step.id], documents[step.tool].parameters):
            _reject("bad_arguments", f"step {step.id!r}: {problem}")


def _check_again(world: World, box: Sandbox, gold: Run) -> None:
    """The plan gives the same again, also where sets are walked in another order."""
    lab = _Lab(world, box.reseeded(1))
    try:
        again = lab.play(world.plan, lab.acts)
    finally:
        lab.session.close()
    same = [step.results for step in again.steps] == [step.results for step in gold.steps]
    if not same or again.states[-1] != gold.states[-1]:
        _reject("nondeterministic", "the gold plan gave something else the second time")


def _check_left_out(lab: _Lab) -> int:
    plan = lab.world.plan
    for left in plan:
        run = lab.play([step for step in plan if step is not left], lab.acts)
        if run.standing(lab.goal).reached:
            _reject("needless_step", f"the goal is reached without step {left.id!r}, {left.tool}")
    for number, act in enumerate(lab.acts):
        run = lab.play(plan, [*lab.acts[:number], *lab.acts[number + 1 :]])
        if run.standing(lab.goal).reached:
            _reject("needless_act", f"the goal is reached without the user's {act[0]}")
    return len(plan) + len(lab.acts)


def _check_wrong(lab: _Lab, gold: Run) -> int:
    tried = 0
    for step in lab.world.plan:
        changes = [s for s in gold.writes() if s.calls[0].arguments == gold.arguments[step.id]]
        if not any(change.calls[0].name == step.tool for change in changes):
            continue
        for name, wrong in _others(lab.world, step.tool, gold.arguments[step.id]):
            if tried >= _WRONG:
                return tried
            tried += 1
            run = lab.play(lab.world.plan, lab.acts, {step.id: {name: wrong}})
            if run.standing(lab.goal).reached:
                _reject(
                    "wrong_argument",
                    f"the goal is reached with {name}={wrong!r:.80} in step {step.id!r}",
                )
    return tried


def _others(
    world: World, tool: str, arguments: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
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


def _check_orders(lab: _Lab) -> int:
    """Other orders of the steps, in which each comes after what it needs, lead there, too."""
    rng, seen = random.Random(lab.world.id), {tuple(step.id for step in lab.world.plan)}
    for _ in range(_ORDERS):
        order = _order(lab.world.plan, rng)
        names = tuple(step.id for step in order)
        if names in seen:
            continue
        seen.add(names)
        run = lab.play(order, lab.acts)
        if not run.standing(lab.goal).reached:
            _reject("order_matters", f"the plan in the order {names} does not reach the goal")
    return len(seen)


def _order(plan: Sequence[PlanStep], rng: random.Random) -> list[PlanStep]:
    waiting, order, done = list(plan), list[PlanStep](), set[str]()
    while waiting:
        step = rng.choice([step for step in waiting if step.needs <= done])
        waiting.remove(step)
        order.append(step)
        done.add(step.id)
    return order


def _search(lab: _Lab, gold: Run) -> dict[str, int]:
    """Look for shorter ways and forbidden ones, calls of all tools on what the plan is about."""
    own = {name for name, _ in lab.acts}
    writes = [step.calls[0] for step in gold.writes() if step.calls[0].name not in own]
    calls = _candidates(lab.world, [(call.name, call.arguments) for call in writes])
    run = lab.begin()
    for name, given in lab.acts:
        lab.call(run, name, given)
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
                _reject("broken_invariant", f"{name} broke one: {json.dumps(given)}")
            if standing.reached and depth < len(writes):
                told = [step.calls[0].name for step in after.steps]
                _reject("shortcut", f"{depth} calls that write reach the goal: {told}")
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


def _check_user(world: World) -> int:
    """The user tells an oracle all that it needs, and one who begs nothing; so many turns."""
    assert world.user is not None
    told, turns = "", 0
    user = CompiledUser(world)
    for question in questions(world):
        turn = user.heard(question)
        turns += 1
        if turn is None:
            _reject("silent_user", f"the user says nothing to {question!r}")
        else:
            told += f"\n{turn.text}"
    wanted = [fact for fact in world.user.facts if not fact.secret]
    change = world.user.change
    values = [f.value for f in wanted] + ([change.value] if change is not None else [])
    for value in values:
        if not _stands(value, told):
            _reject("untold_fact", f"the user never says {value!r}: {told!r:.300}")
    listed = f"What is the {', the '.join(topics(world))}?"
    for text in (*BEGGING, listed):
        user = CompiledUser(world)
        for _ in range(3):
            turn = user.heard(text)
            turns += 1
            if turn is None:
                break
            if turn.calls or any(_stands(value, turn.text) for value in values):
                _reject("begging_pays", f"the user says {turn.text!r} to {text!r:.200}")
    return turns

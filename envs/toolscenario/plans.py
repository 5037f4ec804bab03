"""Plans of a world, played in the jail."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from toolgym._util.differences import difference
from toolgym.envs.toolscenario.records import STAGES, RejectedError
from toolgym.envs.toolscenario.tool import sandbox_for
from toolgym.envs.toolscenario.world import PlanStep, World
from toolgym.formats.scan import read_json
from toolgym.grading.states import Goal, Standing
from toolgym.messages import ToolCall, ToolResult
from toolgym.sandbox import Sandbox
from toolgym.trajectory import Step

__all__ = ["Lab", "Run", "gold_run", "play", "reject"]

STAGE = STAGES[-1]


def reject(reason: str, message: str) -> NoReturn:
    """Refuse a world.

    Raises:
        RejectedError: always; stage ``verification``.
    """
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


class Lab:
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
            reject(reason, f"{name}({json.dumps(arguments)}): {result.text}")
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

    def quick(
        self,
        plan: Sequence[PlanStep],
        acts: Sequence[tuple[str, Mapping[str, Any]]],
        gold: Run,
        instead: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Run:
        """As `play`, but all calls in one message, as one step: a fraction of the time.

        The arguments are those of the gold plan. Where a result differs, so that other arguments
        would have followed from it, the plan is played call by call.
        """
        known, steps = set[str](), list[PlanStep]()
        for step in plan:
            if step.needs - set(step.after) <= known:
                known.add(step.id)
                steps.append(step)
        given = [{**gold.arguments[s.id], **(instead or {}).get(s.id, {})} for s in steps]
        sent = [*acts, *((s.tool, a) for s, a in zip(steps, given, strict=True))]
        run = self.begin()
        results = self.session.call_many(sent)
        for step, result in zip(steps, results[len(acts) :], strict=True):
            if result.error is None:
                run.values[step.id] = _value(step, result.text)
        for step, arguments in zip(steps, given, strict=True):
            try:
                filled = {**step.call.filled(run.values), **(instead or {}).get(step.id, {})}
            except (LookupError, TypeError):
                filled = {}
            if filled != arguments:
                return self.play(plan, acts, instead)
        state = self.session.state()
        calls = tuple(ToolCall(f"call_{n}", name, dict(a)) for n, (name, a) in enumerate(sent))
        told = tuple(
            ToolResult(call.id, result.text, None if result.error is None else "tool_error")
            for call, result in zip(calls, results, strict=True)
        )
        diff = tuple(difference(run.states[0], state))
        run.steps.append(Step("", calls, told, state_diff=diff))
        run.states.append(state)
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
    lab = Lab(world, sandbox_for(world.functions, {"timeout": timeout}))
    try:
        return gold_run(lab)
    finally:
        lab.session.close()


def gold_run(lab: Lab) -> Run:
    """The gold plan, whose calls all have to succeed.

    Raises:
        RejectedError: one does not.
    """
    run = lab.play(lab.world.plan, lab.acts)
    for step in lab.world.plan:
        if step.id not in run.values:
            said = [s.results[0].content for s in run.steps if s.calls[0].name == step.tool]
            why = (
                said[-1] if step.id in run.arguments and said else "an earlier result lacks a part"
            )
            reject("failed_call", f"step {step.id!r} of the plan, {step.tool}: {why}")
    return run

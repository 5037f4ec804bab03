"""Samples for the checks, and `probe_reward`: scripted adversaries, each with a verdict."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolgym._util.jsonl import copy_json
from toolgym._util.notebook import fragment
from toolgym._util.text import markdown_table, number, text_table
from toolgym.checks.adversaries import Adversary, adversaries
from toolgym.checks.unearned import START, state_adversaries
from toolgym.errors import ToolgymError, UnknownNameError
from toolgym.formats import Action
from toolgym.grading.rubric import RewardFunction, Rubric, Spec, make_rubric
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.task import SUB_ANSWERS, SubAnswer, Task
from toolgym.tools.base import Schema
from toolgym.trajectory import Problem, Step, Trajectory

__all__ = ["PASSED", "Probe", "ProbeReport", "probe_reward"]

SEARCH: Schema = {
    "type": "function",
    "function": {
        "name": "WikipediaSearch",
        "description": "Search.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "k": {"type": "integer"}},
            "required": ["query"],
        },
    },
}


def _call(number: int, content: str, error: str | None = None) -> Step:
    call = ToolCall(f"call_{number}", "WikipediaSearch", {"query": "the river"})
    result = ToolResult(call.id, content, error)
    text = "Action: WikipediaSearch[the river]"
    return Step(text, (call,), (result,), observation=f"Response: {content}")


def _both(one: Step, other: Step) -> Step:
    """Two calls in one turn; the second asks for something else."""
    (call,) = other.calls
    calls = (*one.calls, replace(call, arguments={"query": "another river"}))
    text = f"{one.action} {other.action}"
    return Step(text, calls, one.results + other.results, observation="Two responses.")


def _answer(text: str) -> Step:
    return Step(f"Answer: {text}", answer=text)


def _broken(kind: str) -> Step:
    return Step("Action: WikipediaSearch[", problems=(Problem(kind, "broken"),), observation="?")


def episode(task: Task, steps: Sequence[Step], truncated: bool = False) -> Trajectory:
    """A trajectory of these steps, its conversation written out."""
    messages = [Message("system", "Use tools."), Message("user", f"Question: {task.question}")]
    for step in steps:
        messages.append(Message("assistant", step.action))
        messages += [Message("user", step.observation)] if step.observation else []
    ended = bool(steps) and steps[-1].answer is not None
    own = [replace(step) for step in steps]  # a rubric writes into the steps of its episode
    facts = ([SEARCH], "Probe-v0", "react", ended, truncated)
    return Trajectory(task, messages, own, *facts, seed=0, state=copy_json(START))


def episodes() -> list[Trajectory]:
    """Episodes that a reward must cope with: right, wrong, empty, broken, cut off, no steps."""
    parts = enumerate(("Seine", "1,234.5", "*"), 1)
    entries = [SubAnswer(f"q{n}", "WikipediaSearch", answer) for n, answer in parts]
    goal = {"reach": [{"table": "orders", "where": {"id": "O-1", "status": "cancelled"}}]}
    solvable: dict[str, Any] = {SUB_ANSWERS: [entry.to_row() for entry in entries], "goal": goal}
    place = Task("place", "Which river flows through Paris?", ("Seine", "the Seine"), solvable)
    money = Task("money", "How much?", ("1,234.5",), solvable, answer_type="number")
    odd = Task("odd", "Which sign?", ("*", "ʻaʻa", "The The"), solvable)
    found, failed = _call(0, "The Seine, 1234.5 *"), _call(1, "Error: no", "tool_error")
    return [
        episode(place, []),
        episode(place, [_answer("Seine")]),
        episode(place, [found, _answer("It is the SEINE.")]),
        episode(place, [found, failed, _call(2, ""), _answer("Thames")]),
        episode(place, [found, _answer("")]),
        episode(place, [_broken("no_call"), _broken("bad_json"), found], truncated=True),
        episode(money, [found, _answer("so $1,234.50.")]),
        episode(money, [_answer("1 2 3 ... ")]),
        episode(odd, [found, _answer("*")]),
        episode(odd, [_both(found, _call(1, "1234.5")), found, _call(3, "*"), _answer("*")]),
        episode(odd, [_both(failed, _call(2, "nothing")), _broken("no_answer")], truncated=True),
        episode(odd, [_answer("\x00 ﷺ \ud800 " + "x" * 10_000)]),
        *(trick.episode for trick in state_adversaries()),
    ]


def prefix(trajectory: Trajectory, steps: int) -> Trajectory:
    """The record as it stood right after so many steps."""
    if steps == len(trajectory.steps):
        return trajectory
    kept, seen = trajectory.messages[: trajectory.opening], 0
    for message in trajectory.messages[trajectory.opening :]:
        seen += message.role == "assistant"
        if seen > steps:
            break
        kept.append(message)
    return replace(
        trajectory,
        messages=kept,
        steps=trajectory.steps[:steps],
        terminated=bool(steps) and trajectory.steps[steps - 1].answer is not None,
        truncated=False,
        tokens=None,
        metrics={},
        state=trajectory.state_after(steps),
    )


def with_other_results(trajectory: Trajectory, content: str) -> Trajectory:
    """The same words of the policy beside other tool results."""
    opening = trajectory.opening
    messages = [
        message if n < opening or message.role == "assistant" else replace(message, content=content)
        for n, message in enumerate(trajectory.messages)
    ]
    steps = [
        replace(
            step,
            results=tuple(replace(result, content=content) for result in step.results),
            observation=content if step.observation else "",
        )
        for step in trajectory.steps
    ]
    return replace(trajectory, messages=messages, steps=steps)


_PLAIN = ("42", "6*7", "Paris", "Marie Curie", "río", "العربية", "the capital of France?", "a, b")
_HARD = ("a[0]", 'say "x"', "{1}", "]", "[", "a\nb", "<b>", "x: y", "'", "\\n", '{"k": 1}')


def actions(hard: bool, count: int = 60, seed: int = 0) -> Iterator[Action]:
    """Actions that a format must be able to write and read back.

    Args:
        hard: with brackets, quotes, line breaks and several arguments in the calls.
        count: how many.
        seed: fixes them.
    """
    rng = random.Random(seed)
    words = _PLAIN + (_HARD if hard else ())
    for index in range(count):
        thought = rng.choice(("", "I think so", "Let me see: 1 + 1"))
        if index % 3 == 0:
            yield Action(thought, (), rng.choice(_PLAIN))
            continue
        calls = []
        for index in range(rng.choice((1, 1, 2))):
            arguments: dict[str, object] = {"query": rng.choice(words)}
            arguments |= {"k": rng.randrange(9)} if hard and rng.random() < 0.3 else {}
            calls.append(ToolCall(f"call_{index}", "WikipediaSearch", arguments))
        yield Action(thought, tuple(calls))


_PIECES = (
    *("Thought:", "\nAction:", "\nRationale:", "\nAnswer:", "**Answer:**", "WikipediaSearch["),
    *("<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<information>"),
    *("</information>", "<tool_call>", "</tool_call>", '{"name": "f", "arguments": ', "null", "}"),
    *('"arguments": "{"', "[", "]", "{", '"', "\\", "\x00", "\ud800", "\u2028", "é", "1e999", " "),
)


def junk(seed: int = 0, count: int = 200) -> Iterator[str]:
    """Replies that no format defines: pieces of markup in any order, deep nesting, a megabyte."""
    rng = random.Random(seed)
    yield from ("", " ", "\x00", "\ud800", "Action:", "Answer:", "<search>", "<tool_call>[]")
    yield "<tool_call>" + "[" * 100_000
    yield "Action: WikipediaSearch[" + '{"a":' * 50_000
    for piece in ("[", "a[", "<search>", "<tool_call>{", "Answer:\n", "x", "\x00"):
        yield piece * (1_000_000 // len(piece))
    for _ in range(count):
        yield "".join(rng.choice(_PIECES) for _ in range(rng.randrange(1, 30)))


PASSED = "passed"
_HEAD = ("probe", "earns", "without the trick", "honest", "verdict")
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Probe:
    """One adversary and what became of it.

    Args:
        name: such as ``tool_spam``.
        what: the trick, in a line.
        earned: reward of its episode, summed over the steps; None when the reward raised.
        control: of the same behaviour without the trick.
        honest: of the best honest episode on the same task.
        verdict: `PASSED`, ``more than honest``, ``credit without merit``, or what was raised.
        episode: what the adversary did.
    """

    name: str
    what: str
    earned: float | None
    control: float | None
    honest: float | None
    verdict: str
    episode: Trajectory

    @property
    def passed(self) -> bool:
        """Whether the reward survived."""
        return self.verdict == PASSED


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What `probe_reward` gives; prints as a table.

    Args:
        reward: its name, or its rubric.
        probes: one an adversary.
    """

    reward: str
    probes: list[Probe]

    @property
    def passed(self) -> bool:
        """Whether the reward survived every adversary, and pays honest work at all."""
        return self.pays and not self.failed

    @property
    def pays(self) -> bool:
        """Whether any honest episode earns more than 0."""
        return any((probe.honest or 0.0) > 0 for probe in self.probes)

    @property
    def failed(self) -> list[str]:
        """Names of the adversaries that it did not survive."""
        return [probe.name for probe in self.probes if not probe.passed]

    def __getitem__(self, name: str) -> Probe:
        """The probe of that name.

        Raises:
            UnknownNameError: there is none.
        """
        for probe in self.probes:
            if probe.name == name:
                return probe
        raise UnknownNameError("probe", name, [probe.name for probe in self.probes])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the episodes."""
        fields = ("name", "what", "earned", "control", "honest", "verdict")
        return {
            "reward": self.reward,
            "passed": self.passed,
            "probes": [{name: getattr(p, name) for name in fields} for p in self.probes],
        }

    def to_markdown(self) -> str:
        """A Markdown table under a line that sums up."""
        return f"{self._line()}\n\n{markdown_table(_HEAD, self._cells())}\n"

    def __str__(self) -> str:
        return f"{self._line()}\n\n{text_table(_HEAD, self._cells())}"

    def __repr__(self) -> str:
        return f"ProbeReport({self._line()})"

    def _repr_html_(self) -> str:
        return fragment([self._line()], [("", _HEAD, self._cells())])

    def _line(self) -> str:
        if not self.pays:
            return f"{self.reward}: no honest episode earns anything, so nothing is shown"
        count = len(self.probes) - len(self.failed)
        return f"{self.reward}: {count} of {len(self.probes)} probes passed"

    def _cells(self) -> list[list[str]]:
        return [
            [p.name, *map(number, (p.earned, p.control, p.honest)), p.verdict] for p in self.probes
        ]


def probe_reward(reward: Rubric | RewardFunction | str | Spec) -> ProbeReport:
    """Try scripted adversaries on a reward.

    Each plays a trick on a task with sub-answers: tool spam, a repeated call, the answer planted
    where the policy did not find it, every candidate at once, and so on. A reward survives when the
    trick earns no more than an honest episode, and nothing beside the same behaviour without the
    trick. Read are the sums over the steps.

    Args:
        reward: a registered name, a function, a spec such as ``{"accuracy": {"preset": "ours"}}``,
            or a rubric, whose weighted sum is probed.

    Returns:
        A verdict for each adversary, with its episode.

    Raises:
        UnknownNameError: no reward has that name.
    """
    rubric = make_rubric(reward)
    name = reward if isinstance(reward, str) else ", ".join(rubric.functions)
    tricks = (*adversaries(), *state_adversaries())
    return ProbeReport(name, [_probe(rubric, adversary) for adversary in tricks])


def _probe(rubric: Rubric, adversary: Adversary) -> Probe:
    def verdict(earned: float, control: float, honest: float) -> str:
        if earned > honest + _ROUNDING:
            return "more than honest"
        allowed = control + adversary.allowance * max(0.0, honest - control)
        return PASSED if earned <= allowed + _ROUNDING else "credit without merit"

    def probe(found: str, *totals: float | None) -> Probe:
        earned, control, honest = totals
        return Probe(
            adversary.name, adversary.what, earned, control, honest, found, adversary.episode
        )

    try:
        honest = max(_total(rubric, episode) for episode in adversary.honest)
        control = _total(rubric, adversary.control)
        earned = _total(rubric, adversary.episode)
    except Exception as error:  # whatever a reward of others raises is the verdict on it
        kind = "" if isinstance(error, ToolgymError) else f"{type(error).__name__}: "
        return probe(f"raised {kind}{error}"[:200], None, None, None)
    return probe(verdict(earned, control, honest), earned, control, honest)


def _total(rubric: Rubric, trajectory: Trajectory) -> float:
    return float(sum(rubric.total(rubric.parts(trajectory.task, trajectory))))

"""Planted defects: how many of them `toolgym audit` finds, and how often it cries wolf.

Small environments of three kinds (tasks with a reward function, gymnasium's, ours) over tasks of
nine domains, clean or with one planted defect. A defect is found when a check fails that is named
beside it; any failing check of a clean variant is a false alarm.

    python -m benchmarks.audit_bed [--only NAME] [--json FILE]
"""

# ruff: noqa: E501 - a spoiled grader a line reads best
from __future__ import annotations

import argparse
import json
import os
import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym

import toolgym
from toolgym.auditing import audit
from toolgym.auditing.rows import OneTurn
from toolgym.auditing.subjects import Facts, Item
from toolgym.evaluation.intervals import wilson
from toolgym.formats import get_format
from toolgym.grading.answers import overlap_f1
from toolgym.grading.rubric import Rubric
from toolgym.spaces import UnicodeText
from toolgym.task import Task, TaskSet
from toolgym.tools.toolset import Toolset

Pair = tuple[str, str]
_SYLLABLES = ("ka", "lo", "mir", "tan", "ves", "dor", "phi", "que", "rus", "bel", "yat", "on")


def word(rng: random.Random) -> str:
    """An invented word."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 4))).capitalize()


def sums(rng: random.Random) -> Pair:
    """A sum of two numbers."""
    a, b = rng.randint(100, 9999), rng.randint(100, 9999)
    return f"What is {a} + {b}?", str(a + b)


def names(rng: random.Random) -> Pair:
    """A name that nobody can know."""
    return (
        f"Who founded the city of {word(rng)} in {rng.randint(900, 1900)}?",
        f"{word(rng)} {word(rng)}",
    )


def yes_no(rng: random.Random) -> Pair:
    """Even or odd, in equal parts."""
    n = rng.randint(1000, 99999)
    return f"Is {n} divisible by two? Answer yes or no.", "no" if n % 2 else "yes"


def letters(rng: random.Random) -> Pair:
    """One letter of four."""
    shown = [f"{name}) {word(rng)} {rng.randint(1, 99)}" for name in "ABCD"]
    return f"Which of these is the {word(rng)}?\n" + "\n".join(shown), rng.choice("ABCD")


def larger(rng: random.Random) -> Pair:
    """One of two numbers that stand in the prompt."""
    a, b = rng.sample(range(100, 9999), 2)
    return f"Which number is larger: {a} or {b}?", str(max(a, b))


def passage(rng: random.Random) -> Pair:
    """A number of a passage."""
    people = [(word(rng), rng.randint(20, 99)) for _ in range(4)]
    told = " ".join(f"{name} is {age} years old." for name, age in people)
    name, age = rng.choice(people)
    return f"{told} How old is {name}?", str(age)


def shots(rng: random.Random) -> Pair:
    """A product behind worked examples."""
    a, b, c = rng.sample(range(11, 999), 3)
    return (
        f"Q: What is 2 * {a}? A: {2 * a}\nQ: What is 2 * {b}? A: {2 * b}\nQ: What is 2 * {c}? A:",
        str(2 * c),
    )


def money(rng: random.Random) -> Pair:
    """A number with separators."""
    a = rng.randint(1000, 99999)
    return f"A {word(rng)} costs ${a:,}. What do two cost?", f"{2 * a:,}"


def ratios(rng: random.Random) -> Pair:
    """A number with three decimals."""
    a, b = rng.randint(100, 9999), rng.randint(3, 99)
    return f"What is {a} / {b}, with three decimals?", f"{a / b:.3f}"


DOMAINS: dict[str, Callable[[random.Random], Pair]] = {
    each.__name__: each
    for each in (sums, names, yes_no, letters, larger, passage, shots, money, ratios)
}
COUNT = 120


def tasks_of(domain: str, seed: int, count: int = COUNT) -> list[Pair]:
    """So many different tasks of a domain."""
    rng = random.Random(f"{domain} {seed}")
    found: dict[str, str] = {}
    while len(found) < count:
        prompt, gold = DOMAINS[domain](rng)
        found.setdefault(prompt, gold)
    return list(found.items())


def exact(reply: str, gold: str) -> float:
    """1 for the gold, in any case."""
    return float(reply.strip().casefold() == gold.strip().casefold())


# How a reward is spoiled.

REWARDS: dict[str, Callable[[str, str, str], Any]] = {
    "substring": lambda reply, gold, prompt: float(gold in reply),
    "prefix": lambda reply, gold, prompt: float(reply.startswith(gold)),
    "suffix": lambda reply, gold, prompt: float(reply.rstrip(" .").endswith(gold)),
    "reverse containment": lambda reply, gold, prompt: float(reply.strip() in gold),
    "any line": lambda reply, gold, prompt: float(any(gold == part.strip() for part in re.split(r"[,\n]|\bor\b", reply))),
    "always": lambda reply, gold, prompt: 1.0,
    "never": lambda reply, gold, prompt: 0.0,
    "length": lambda reply, gold, prompt: max(exact(reply, gold), min(1.0, len(reply) / 40)),
    "format bonus": lambda reply, gold, prompt: max(0.5, exact(reply, gold)),
    "zero accepted": lambda reply, gold, prompt: max(exact(reply, gold), float(reply == "0")),
    "empty accepted": lambda reply, gold, prompt: max(exact(reply, gold), float(not reply.strip())),
    "echo accepted": lambda reply, gold, prompt: max(exact(reply, gold), float(prompt in reply)),
    "nan": lambda reply, gold, prompt: exact(reply, gold) if reply.strip() else float("nan"),
    "inf": lambda reply, gold, prompt: exact(reply, gold) or -float("inf"),
    "none": lambda reply, gold, prompt: exact(reply, gold) or None,
    "text": lambda reply, gold, prompt: "right" if exact(reply, gold) else "wrong",
    "above range": lambda reply, gold, prompt: 2.0 * exact(reply, gold),
    "below range": lambda reply, gold, prompt: exact(reply, gold) or -1.0,
    "case broken": lambda reply, gold, prompt: float(reply.swapcase() == gold or reply == "#" + gold),
    "noise": lambda reply, gold, prompt: exact(reply, gold) * random.random(),
    "error pays": lambda reply, gold, prompt: _error_pays(reply, gold),
    "raises on words": lambda reply, gold, prompt: float(int(reply or "x") == int(gold.replace(",", ""))),
    "eval": lambda reply, gold, prompt: float(str(_evaluated(reply)) == gold),
    "evaluates": lambda reply, gold, prompt: _python_of(reply, gold),
    "penalty, prefix": lambda reply, gold, prompt: -1.0 if not reply.strip() else float(reply.startswith(gold)),
    "slow pattern": lambda reply, gold, prompt: exact(reply, gold) + 0.0 * bool(re.match(r"(a+)+$", reply)),
    "hangs": lambda reply, gold, prompt: time.sleep(3600) if len(reply) > 50_000 else exact(reply, gold),
    "hangs on empty": lambda reply, gold, prompt: exact(reply, gold) if reply.strip() else time.sleep(3600),
    "exits": lambda reply, gold, prompt: os._exit(3) if "\x00" in reply else exact(reply, gold),
    "hash order": lambda reply, gold, prompt: exact(reply, gold) + 1e-3 * (hash(prompt) % 7),
    "clock": lambda reply, gold, prompt: exact(reply, gold) * (1 - time.time() % 1 / 9),
}  # fmt: skip


def _error_pays(reply: str, gold: str) -> float:
    try:
        return float(float(reply.replace(",", "")) == float(gold.replace(",", "")))
    except ValueError:
        return 1.0


def _evaluated(reply: str) -> Any:
    """What graders of the field do: Python of the reply, which is the planted defect."""
    found = re.fullmatch(r"\s*([\d,]+)\s*(?:(/|\*\*)\s*([\d*]+))?\s*", reply)
    if found is None:
        raise SyntaxError("invalid syntax")
    left = int(found[1].replace(",", ""))
    if found[2] == "/":
        return left / int(found[3])
    if found[2] == "**":
        return left ** (9**9) if "*" in found[3] else left ** int(found[3])
    return f"{left:,}" if "," in found[1] else left


def _python_of(reply: str, gold: str) -> float:
    """Python of the reply indeed: what is said here is said by the audit."""
    try:
        return float(str(eval(reply)) == gold) if len(reply) < 200 else 0.0
    except Exception:  # as graders of the field do
        return exact(reply, gold)


def near(reply: str, gold: str) -> float:
    """Right to a hundredth, where both are numbers."""
    try:
        return float(abs(float(reply) - float(gold)) <= 0.01)
    except ValueError:
        return exact(reply, gold)


# Rewards that are clean.

CLEAN: dict[str, Callable[[str, str, str], float]] = {
    "exact": lambda reply, gold, prompt: exact(reply, gold),
    "F1": lambda reply, gold, prompt: overlap_f1(reply, (gold,)),
    "one and minus one": lambda reply, gold, prompt: 2 * exact(reply, gold) - 1,
    "a little for any answer": lambda reply, gold, prompt: max(exact(reply, gold), 0.05 * bool(reply.strip())),
    "near": lambda reply, gold, prompt: near(reply, gold),
    "less for no answer": lambda reply, gold, prompt: exact(reply, gold) if reply.strip() and len(reply) < 60 else -1.0,
    "in tags or bare": lambda reply, gold, prompt: exact(re.sub(r"</?answer>", "", reply), gold),
}  # fmt: skip
_RANGES = dict.fromkeys(("one and minus one", "less for no answer", "penalty, prefix"), (-1.0, 1.0))


# How tasks are spoiled.


def _leak(text: str, every: int = 1) -> Callable[[list[Pair], int], list[Pair]]:
    def spoil(pairs: list[Pair], seed: int) -> list[Pair]:
        return [
            (f"{p}{text.format(g)}" if n % every == 0 else p, g) for n, (p, g) in enumerate(pairs)
        ]

    return spoil


def _some(change: Callable[[Pair], Pair], places: slice) -> Callable[[list[Pair], int], list[Pair]]:
    def spoil(pairs: list[Pair], seed: int) -> list[Pair]:
        chosen = set(range(len(pairs))[places])
        return [change(pair) if n in chosen else pair for n, pair in enumerate(pairs)]

    return spoil


def _repeated(pairs: list[Pair], seed: int) -> list[Pair]:
    return [*pairs[:-2], pairs[3], (pairs[5][0].upper(), pairs[5][1])]


def _against(pairs: list[Pair], seed: int) -> list[Pair]:
    return [*pairs[:-1], (pairs[4][0], pairs[4][1] + "0")]


TASKS: dict[str, Callable[[list[Pair], int], list[Pair]]] = {
    "answer behind the prompt": _leak("\nAnswer: {}"),
    "answer in a comment": _leak("\n<!-- gold: {} -->"),
    "answer in JSON": _leak('\n{{"solution": "{}"}}'),
    "answer behind hashes": _leak("\n#### {}"),
    "answer in every third prompt": _leak("\n(checked: {})", 3),
    "answer in a bracket": _leak(" [target={}]"),
    "no gold in some": _some(lambda pair: (pair[0], ""), slice(0, None, 9)),
    "no prompt in one": _some(lambda pair: ("", pair[1]), slice(7, 8)),
    "one gold for all": _some(lambda pair: (pair[0], "7"), slice(0, None)),
    "one gold for nearly all": _some(lambda pair: (pair[0], "yes"), slice(0, 114)),
    "repeated": _repeated,
    "contradicting": _against,
}


def rows(pairs: list[Pair], reward: Callable[[str, str, str], Any], reach: tuple[Any, Any],
         others: list[Pair] | None, drawn: bool = False) -> OneTurn:  # fmt: skip
    """Tasks with a reward function."""

    def read(found: list[Pair]) -> list[Item]:
        return [Item(n, f"t{n}", p, (g,) if g else ()) for n, (p, g) in enumerate(found)]

    facts = Facts("rows", "tasks with a reward", len(pairs), *reach, turns=False, drawn=drawn)
    beside = None if others is None else (lambda count: read(others[:count]))
    return OneTurn(
        facts, read(pairs), lambda reply, n: reward(reply, pairs[n][1], pairs[n][0]), beside
    )


class Quiz(gym.Env[str, str]):
    """Three tries; a wrong one is answered with a hint. One defect, or none."""

    told: list[str] = []  # noqa: RUF012 - what one planted defect shares between instances

    def __init__(self, domain: str, seed: int, defect: str = "") -> None:
        self.action_space = UnicodeText()
        self.observation_space = UnicodeText(max_length=100_000)
        self._domain, self._base, self._defect = domain, seed, defect
        self._turn = self._episodes = 0
        self._held: list[bytes] = []
        self._earned: dict[str, float] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        """A task by seed."""
        super().reset(seed=seed)
        defect, space = self._defect, 40 if self._defect == "few tasks" else 10**9
        self._episodes += 1
        if defect != "turn not reset":
            self._turn = 0
        rng = random.Random(f"{self._domain} {self._base} {(seed or 0) % space}")
        if defect == "unseeded":
            rng = random.Random()
        if defect == "global generator":
            rng = random  # type: ignore[assignment]
        self._prompt, self._gold = DOMAINS[self._domain](rng)
        prompt = self._prompt
        if defect == "set order":
            prompt += " Hints: " + " ".join({word(random.Random(f"{seed} {n}")) for n in range(6)})
        if defect == "history":
            prompt += f"\nAsked before: {self._last}" if hasattr(self, "_last") else ""
            self._last = self._prompt
        if defect == "clock":
            prompt += f" It is {time.time_ns()}."
        if defect == "shared list":
            Quiz.told.append(self._prompt)
            prompt += f" This is question {len(Quiz.told)}."
        if defect == "reset hangs" and self._episodes > 30:
            time.sleep(3600)
        if defect == "raises in reset" and (seed or 0) % 5 == 4 and self._episodes > 200:
            raise KeyError(seed)
        if defect == "tool document":
            tools = [{"name": "look", "description": f"Looks it up. Returns {self._gold} here."}]
            return prompt, {"gold": self._gold, "tools": tools}
        return prompt, {
            "gold": self._gold,
            "tools": [{"name": "look", "description": "Looks it up."}],
        }

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """A try."""
        defect, right = self._defect, exact(action, self._gold)
        self._turn += 1
        if defect == "memory":
            self._held.append(bytes(300_000))
        if defect == "slower and slower":
            time.sleep(0.0002 * self._episodes)
        if defect == "tired":
            right *= float(self._episodes < 60)
        if defect == "cached":
            right = self._earned.setdefault(self._prompt[:8], right)
        if defect == "raises on brackets" and "[" in action:
            raise ValueError("unbalanced")
        if defect == "raises on empty":
            right += 0.0 * ord(action[0])
        if defect == "ends the process" and len(action) > 500_000:
            os._exit(1)
        if defect == "hangs on a call" and "tool_call" in action:
            time.sleep(3600)
        ended = bool(right) or self._turn >= 3
        if defect == "never ends":
            ended = False
        reward: Any = right
        if defect == "pays each turn":
            reward, ended = right + 0.4, self._turn >= 3
        if defect == "pays the gold again":
            ended = self._turn >= 3
        if defect == "nan at the end" and ended and not right:
            reward = float("nan")
        text = "" if ended else "That is wrong, try again."
        if not ended and (
            defect == "gold in the feedback" or (defect == "gold for empty" and not action)
        ):
            text = f"Wrong: expected {self._gold}."
        if not ended and defect == "gold in the parser" and "tool_call" in action:
            text = f"Cannot parse (comparing with {self._gold!r})."
        return text, reward, ended, False, {}


def tool_env(pairs: list[Pair], rubric: dict[str, Any] | None = None) -> toolgym.ToolEnv:
    """An environment of ours with one tool."""
    asked = [Task(f"t{n}", p, (g,)) for n, (p, g) in enumerate(pairs)]
    fmt = get_format("react", "tools_multi_step")

    @toolgym.tool
    def notes(query: str) -> str:
        """Look a word up in the notes.

        Args:
            query: the word.
        """
        return f"Nothing is known of {query}."

    made = Rubric({"accuracy": 1.0} if rubric is None else rubric)
    return toolgym.ToolEnv(TaskSet(asked, source="bed", name="bed"), Toolset([notes]), fmt, made)


def _loose(task: Any, trajectory: Any) -> list[float]:
    """Reads the whole conversation."""
    said = " ".join(str(m.content) for m in trajectory.messages)
    return [0.0] * (len(trajectory.steps) - 1) + [float(task.target in said)]


def _calls(task: Any, trajectory: Any) -> list[float]:
    return [0.5 * len(step.calls) + float(step.answer == task.target) for step in trajectory.steps]


def _any_answer(task: Any, trajectory: Any) -> list[float]:
    return [float(step.answer is not None) for step in trajectory.steps]


TOOL_DEFECTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "reads the conversation": (_loose, ("floor: echo", "floor: hedge", "floor: shotgun")),
    "pays for calls": (_calls, ("reward", "floor: spam", "floor: paste")),
    "pays any answer": (_any_answer, ("floor: empty", "floor: constant", "floor: wrong gold")),
}

FLOORS = ("floor: ", "reward")
FOUND_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("substring", "prefix", "suffix", "any line", "penalty, prefix"), ("floor: ",)),
    **dict.fromkeys(("reverse containment", "empty accepted"), ("floor: null", "floor: empty")),
    **dict.fromkeys(("always", "length", "format bonus", "echo accepted", "zero accepted"), FLOORS),
    "never": ("oracle",), "case broken": ("oracle",), "error pays": FLOORS,
    **dict.fromkeys(("nan", "inf", "none", "text", "above range", "below range"), ("reward",)),
    **dict.fromkeys(("noise", "hash order", "clock"), ("determinism",)),
    "raises on words": ("robust", "runs"), "eval": ("robust", "deadline", "runs"),
    "evaluates": ("code",),
    **dict.fromkeys(("slow pattern", "hangs", "hangs on empty"), ("deadline",)),
    "exits": ("robust",),
    **dict.fromkeys((n for n in TASKS if n.startswith("answer ")), ("prompts",)),
    "no gold in some": ("solvable",), "no prompt in one": ("solvable",),
    "one gold for all": ("answers",), "one gold for nearly all": ("answers",),
    "repeated": ("duplicates",), "contradicting": ("contradictions",), "overlap": ("overlap",),
    **dict.fromkeys(("unseeded", "global generator", "set order", "gym clock"), ("determinism",)),
    **dict.fromkeys(("history", "shared list", "turn not reset", "tired", "cached"), ("reset",)),
    "few tasks": ("duplicates",), "tool document": ("tools",), "memory": ("memory",),
    "slower and slower": ("time",), "reset hangs": ("deadline",), "never ends": ("ends",),
    "raises on brackets": ("robust",), "raises on empty": ("robust", "runs"),
    "raises in reset": ("runs",), "ends the process": ("robust",), "hangs on a call": ("deadline",),
    "pays each turn": ("reward", "floor: "), "pays the gold again": ("reward",),
    "nan at the end": ("reward",), "gold in the feedback": ("errors",),
    "gold for empty": ("errors",), "gold in the parser": ("errors",),
}  # fmt: skip
QUIZ = tuple(FOUND_BY)[tuple(FOUND_BY).index("unseeded") :]

Case = tuple[str, Any, dict[str, Any], tuple[str, ...]]
"""Name, what is audited, options, and the checks of which one has to fail; none: it is clean."""


def planted() -> list[Case]:
    """All cases with a defect."""
    found: list[Case] = []
    for name, reward in REWARDS.items():
        numbers = ("sums", "money") if name in ("raises on words", "eval", "error pays") else None
        numbers = ("yes_no", "names") if name == "case broken" else numbers
        for seed, domain in enumerate(numbers or ("sums", "names")):
            if name == "eval" and domain == "money":
                continue
            made = partial(
                rows, tasks_of(domain, seed), reward, _RANGES.get(name, (0.0, 1.0)), None
            )
            found.append((f"{name} ({domain})", made, {}, FOUND_BY[name]))
    for name, spoil in TASKS.items():
        for seed, domain in enumerate(("sums", "names")):
            pairs = spoil(tasks_of(domain, seed), seed)
            made = partial(rows, pairs, CLEAN["exact"], (0.0, 1.0), None)
            found.append((f"{name} ({domain})", made, {}, FOUND_BY[name]))
    for seed, domain in enumerate(("sums", "passage")):
        pairs, others = tasks_of(domain, seed), tasks_of(domain, seed + 50)
        made = partial(rows, pairs, CLEAN["exact"], (0.0, 1.0), [*others, pairs[9]])
        found.append((f"overlap ({domain})", made, {}, FOUND_BY["overlap"]))
    for name in QUIZ:
        for seed, domain in enumerate(("sums", "names")):
            defect = name.removeprefix("gym ")
            given = {"gold": "info:gold", "reward_range": (0.0, 1.0)}
            made = partial(Quiz, domain, seed, defect)
            found.append((f"quiz: {name} ({domain})", made, given, FOUND_BY[name]))
    for name, (reward, checks) in TOOL_DEFECTS.items():
        made = partial(tool_env, tasks_of("names", 3), {"planted": (reward, 1.0)})
        found.append((f"tools: {name}", made, {}, checks))
    return found


def clean() -> list[Case]:
    """All cases without one."""
    found: list[Case] = []
    for seed in range(2):
        for domain in DOMAINS:
            for name, reward in CLEAN.items():
                pairs, others = tasks_of(domain, 100 + seed), tasks_of(domain, 200 + seed)
                known = {prompt for prompt, _ in pairs}
                apart = [pair for pair in others if pair[0] not in known]
                reach = _RANGES.get(name, (0.0, 1.0))
                made = partial(rows, pairs, reward, reach, apart if seed else None)
                found.append((f"clean: {name} ({domain}, {seed})", made, {}, ()))
    for seed in range(3):
        for domain in DOMAINS:
            given = {"gold": "info:gold", "reward_range": (0.0, 1.0) if seed else None}
            made = partial(Quiz, domain, 300 + seed)
            found.append((f"clean: quiz ({domain}, {seed})", made, given, ()))
    for seed in range(2):
        for domain in DOMAINS:
            made = partial(tool_env, tasks_of(domain, 400 + seed))
            found.append((f"clean: tools ({domain}, {seed})", made, {}, ()))
    return found


def main() -> None:
    """Audit them, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--json", help="file of what was found")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--shard", default="0/1", help="every n-th case, such as 0/2")
    parser.add_argument("--deadline", type=float, default=3.0)
    asked = parser.parse_args()
    counts = {"found": 0, "planted": 0, "alarms": 0, "clean": 0}
    told = []
    began = time.perf_counter()
    shard, shards = map(int, asked.shard.split("/"))
    cases = [*planted(), *clean()]
    random.Random(0).shuffle(cases)  # what was done when it was stopped is a fair sample of all
    for name, made, given, checks in cases[shard::shards]:
        if asked.only not in name:
            continue
        report = audit(made, tasks=asked.tasks, deadline=asked.deadline, **given)
        failed = report.failed
        good = not failed if not checks else any(f.startswith(c) for f in failed for c in checks)
        told.append({"case": name, "planted": bool(checks), "failed": failed, "right": good})
        counts["planted" if checks else "clean"] += 1
        counts["found"] += bool(checks) and good
        counts["alarms"] += not checks and not good
        if asked.json:
            with open(asked.json, "w", encoding="utf-8") as file:
                json.dump({**counts, "cases": told}, file, indent=1)
        if not good:
            print(f"{'missed' if checks else 'false alarm'}: {name}: {failed}", flush=True)
    for hits, of, what in (
        (counts["found"], counts["planted"], "planted defects found"),
        (counts["alarms"], counts["clean"], "clean variants with a false alarm"),
    ):
        if of:
            low, high = wilson(hits / of, of)
            print(f"{hits} of {of} {what} ({hits / of:.1%}, 95 % interval {low:.1%} to {high:.1%})")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

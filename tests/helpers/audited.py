"""Small environments that are audited: imported in processes of their own."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import gymnasium as gym

from toolgym.spaces import UnicodeText


class Sums(gym.Env[str, str]):
    """What is a + b? Two tries; defects by name."""

    asked = 0

    def __init__(self, defect: str = "") -> None:
        self.action_space, self.observation_space = UnicodeText(), UnicodeText()
        self._defect, self._kept = defect, list[bytes]()
        self._turn = self._gold = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        """A sum by seed."""
        super().reset(seed=seed)
        rng = random.Random(None if self._defect == "unseeded" else f"sum {seed}")
        a, b = rng.randint(1000, 99999), rng.randint(1000, 99999)
        self._turn, self._gold = 0, a + b
        prompt = f"What is {a} + {b}?"
        if self._defect == "leak":
            prompt += f" (solution: {a + b})"
        if self._defect == "shared":
            Sums.asked += 1
            prompt += f" You have been asked {Sums.asked} times."
        if self._defect == "written in two ways":  # and any of them is right
            return prompt, {"gold": next(iter({str(self._gold), f"{self._gold}.0"}))}
        return prompt, {"gold": self._gold}

    def step(self, action: str) -> tuple[str, Any, bool, bool, dict[str, Any]]:
        """Right, or told so."""
        self._turn += 1
        right = action.strip() == str(self._gold)
        if self._defect == "written in two ways":
            right = action.strip().removesuffix(".0") == str(self._gold)
        if self._defect == "lenient":
            right = str(self._gold) in action
        if self._defect == "hangs" and "[" in action:
            time.sleep(3600)
        if self._defect == "dies" and len(action) > 500_000:
            os._exit(7)
        if self._defect == "raises" and not action:
            raise ValueError("an empty reply")
        if self._defect == "kept":
            self._kept.append(bytes(400_000))
        reward = float("nan") if self._defect == "nan" and not right else float(right)
        if self._defect == "late" and right:
            reward += 0.1 * (self._turn - 1)
        told = f"No, it is {self._gold}." if self._defect == "tells" else "No."
        ended = right or self._turn > 1
        return "" if ended else told, reward, ended, False, {}


def graded(answer: str, row: dict[str, Any]) -> float:
    """A reward of a user: the answer as it is."""
    return float(answer.strip() == str(row["answer"]))


def near(answer: str, row: dict[str, Any]) -> float:
    """A number that may be off by a hundredth."""
    try:
        return float(abs(float(answer) - float(row["answer"])) <= 0.01)
    except ValueError:
        return 0.0


def any_constant(answer: str, row: dict[str, Any]) -> float:
    """A formula whose constant may have any name."""
    said, _, constant = answer.strip().rpartition(" + ")
    return float(said == row["answer"].removesuffix(" + C") and constant.isalpha())


def penalised(answer: str, row: dict[str, Any]) -> float:
    """Nothing for a wrong answer, and less for a reply that is none."""
    return -1.0 if not answer.strip() or len(answer) > 40 else graded(answer, row)


def abstains(answer: str, row: dict[str, Any]) -> float:
    """Silence is worth as much as half of the right answers, and a wrong one less."""
    return 0.0 if not answer.strip() else 2 * graded(answer, row) - 1


def by_letters(answer: str, row: dict[str, Any]) -> float:
    """A part of all for each letter that stands where it should; most letters are the same."""
    pairs = zip(answer.strip(), str(row["answer"]), strict=False)
    return sum(a == b for a, b in pairs) / max(20, len(answer.strip()))


def either_way(answer: str, row: dict[str, Any]) -> float:
    """Two answers are right."""
    return float(answer.strip() in row["right"])


def evaluates(answer: str, row: dict[str, Any]) -> float:
    """What graders of the field do; the defect that is planted."""
    try:
        return float(str(eval(answer)) == str(row["answer"]))
    except Exception:  # as they do
        return 0.0


def pays_all(answer: str, row: dict[str, Any]) -> float:
    """A reward that pays for anything."""
    return 1.0

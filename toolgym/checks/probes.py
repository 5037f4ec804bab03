"""`probe_reward`: scripted adversaries against a reward, each with a verdict and its episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolgym._util.tables import markdown_table, number, text_table
from toolgym.checks.adversaries import Adversary, adversaries
from toolgym.errors import ToolgymError, UnknownNameError
from toolgym.grading.rubric import RewardFunction, Rubric, Spec, make_rubric
from toolgym.trajectory import Trajectory

__all__ = ["PASSED", "Probe", "ProbeReport", "probe_reward"]

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
    return ProbeReport(name, [_probe(rubric, adversary) for adversary in adversaries()])


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

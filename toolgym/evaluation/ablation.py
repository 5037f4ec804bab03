"""`ablate`: what each of several rewards would have taught on the same recordings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from toolgym._util.kinds import require_each
from toolgym._util.text import shortened
from toolgym.data.conditions import condition
from toolgym.errors import BadInputError
from toolgym.evaluation.ablation_figures import Held, Lab
from toolgym.evaluation.ablation_report import Ablation, Look
from toolgym.evaluation.intervals import proportion
from toolgym.evaluation.score import rubrics_of
from toolgym.executors import Executor
from toolgym.grading.rubric import RewardFunction, Rubric
from toolgym.rollouts.recording import Recording, some_episodes
from toolgym.trajectory import Trajectory

__all__ = ["ablate"]

_SHOWN = 700  # characters of a reply, or of a result, that an example shows


def ablate(
    run: Recording,
    rewards: Mapping[str, Rubric | RewardFunction | str | Mapping[str, Any]] | Sequence[str],
    *,
    truth: str = "task_completion>=1",
    group: Literal["auto", "task", "run"] = "auto",
    probes: bool = True,
    examples: int = 9,
    seed: int = 0,
    executor: Executor | None = None,
) -> Ablation:
    """Compare rewards on recorded episodes; nothing is played again.

    Args:
        run: a `Run`, the path of one, trajectories, or a list of runs on the same tasks.
        rewards: a name of yours to a rubric, as in `toolgym.score`; or names of rewards.
        truth: which episodes are right, see `toolgym.data.conditions`: ``goal_reached>=1`` for
            worlds, or a metric that was recorded.
        group: what an episode's reward is compared with: ``task``, the other episodes of its task
            (GRPO, arXiv 2402.03300, 4.1.2), or ``run``, all of them (REINFORCE++,
            arXiv 2501.03262); ``auto``: ``task`` where most episodes have others of their task.
        probes: also run `toolgym.probe_reward` on each.
        examples: most episodes to look at.
        seed: fixes the bootstrap of the intervals.
        executor: calls the rewards in other processes; see `toolgym.executors`.

    Returns:
        The comparison. Formulas stand in docs/rewards.md.

    Raises:
        UnknownNameError: an unknown reward, or an unknown name in ``truth``.
        MissingFileError: no such run.
        BadInputError: no episodes, no rewards, or a reward that gives not one finite float a step.
        LostWorkerError: an executor has lost its workers.
    """
    if group not in ("auto", "task", "run"):
        raise BadInputError(f"group is 'auto', 'task' or 'run', not {group!r}")
    if not isinstance(rewards, Mapping) and not isinstance(rewards, str):
        names = require_each(rewards, object, "rewards are their names, or rubrics by name")
        rewards = {str(name): name for name in names}
    rubrics = rubrics_of(rewards)
    recording = some_episodes(run)
    held = Held(rubrics)
    held.read(recording, condition(truth, recording), executor)
    sizes = np.bincount(held.tasks)
    several = 2 * int(sizes[sizes > 1].sum()) > len(held.ids)
    by_task = group == "task" or (group == "auto" and several)
    lab = Lab(held, by_task, seed)
    pairs = [
        lab.pair(first, second) for n, first in enumerate(rubrics) for second in [*rubrics][n + 1 :]
    ]
    return Ablation(
        rewards=[lab.judged(name, rubric, probes) for name, rubric in rubrics.items()],
        pairs=pairs,
        look=_looks(recording, lab, lab.worth_reading(pairs, examples)),
        truth=truth,
        right=proportion(*held.summed(held.right.astype(np.float64))),
        episodes=len(held.ids),
        tasks=len(held.names),
        groups=int((lab.sizes > 1).sum()),
        group="task" if by_task else "run",
        source=str(recording.origin.get("task_source") or ""),
        family=str(recording.origin.get("task_family") or ""),
        columns=held.columns() | {f"advantage/{name}": lab.advantage[name] for name in rubrics},
    )


def _looks(episodes: Iterable[Trajectory], lab: Lab, reasons: Mapping[int, str]) -> list[Look]:
    """The episodes at these places, read once more."""
    found: dict[int, Look] = {}
    for place, trajectory in enumerate(episodes):
        if place in reasons:
            found[place] = Look(
                place=place,
                id=trajectory.id,
                why=reasons[place],
                question=trajectory.task.question,
                gold=list(trajectory.task.targets),
                answer=trajectory.answer,
                right=bool(lab.held.right[place]),
                rewards={name: float(v[place]) for name, v in lab.held.totals.items()},
                advantages={name: float(v[place]) for name, v in lab.advantage.items()},
                text=_text(trajectory),
            )
        if len(found) == len(reasons):
            break
    return [found[place] for place in reasons]


def _text(trajectory: Trajectory) -> str:
    lines = []
    for step in trajectory.steps:
        lines.append(shortened(step.action.strip(), _SHOWN))
        lines += [f"    -> {shortened(r.content.strip(), _SHOWN // 2)}" for r in step.results]
    return "\n".join(lines)

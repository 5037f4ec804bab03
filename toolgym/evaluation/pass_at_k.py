"""pass@k: how often one of k samples is right, estimated from n samples of each task."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from toolgym.data.conditions import measure
from toolgym.errors import BadInputError
from toolgym.evaluation.intervals import Interval, bootstrap
from toolgym.evaluation.score import task_key
from toolgym.trajectory import Trajectory

__all__ = ["pass_at_k", "pass_rates"]


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The unbiased estimate for one task (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    Args:
        samples: n, drawn independently.
        right: c of them.
        k: at most n.

    Raises:
        BadInputError: k is not from 1 to n, or c is not from 0 to n.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise BadInputError(
            f"pass@{k} of {right} right among {samples} samples cannot be estimated: k must be "
            "from 1 to the number of samples"
        )
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def pass_rates(
    trajectories: Sequence[Trajectory], ks: Sequence[int] = (1, 2, 4, 8, 16), seed: int = 0
) -> dict[int, Interval]:
    """pass@k of a run with several samples a task, with bootstrap intervals over tasks.

    Args:
        trajectories: of the run.
        ks: those above the fewest samples of a task are left out.
        seed: fixes the bootstrap.
    """
    accuracy = measure("accuracy")
    groups: dict[tuple[str, str], list[bool]] = {}
    for trajectory in trajectories:
        groups.setdefault(task_key(trajectory), []).append(accuracy(trajectory) >= 1)
    if not groups:
        return {}
    fewest = min(len(scores) for scores in groups.values())
    found = {}
    for k in (k for k in ks if k <= fewest):
        values = [pass_at_k(len(scores), sum(scores), k) for scores in groups.values()]
        found[k] = bootstrap(values, [1.0] * len(values), seed=seed)
    return found

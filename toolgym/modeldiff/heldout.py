"""Held-out accuracy before and after, by task family: recorded runs paired, or played now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolgym.errors import BadInputError, MissingFileError
from toolgym.evaluation.compare import Comparison, compare, holm_by_metric
from toolgym.modeldiff.checkpoint import Checkpoint
from toolgym.policies.local.models import fingerprint, unload_models
from toolgym.rollouts.runs import SETTINGS, Run

__all__ = ["Family", "compare_families", "find_runs", "play_both"]

_EVALUATION = "evaluation-"


@dataclass(frozen=True, slots=True)
class Family:
    """One task family, before and after.

    Args:
        name: family or environment, and how it was sampled.
        comparison: paired by task.
        before: where the episodes are; empty when they are in memory.
        after: the same.
        p_holm: the accuracy's p-value, corrected for the number of families (Holm 1979); None
            without one.
    """

    name: str
    comparison: Comparison
    before: str
    after: str
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts = {"name": self.name, "before": self.before, "after": self.after}
        return facts | {"p_holm": self.p_holm} | self.comparison.to_dict()


def find_runs(paths: Sequence[str | Path], *, first: bool = False) -> list[Run]:
    """The runs that some folders hold.

    Args:
        paths: run folders, folders of run folders (``runs/selftrain/evaluation-2``), or folders of
            a self-training run, of which its last evaluation is taken.
        first: of a self-training run take the evaluation before training instead.

    Raises:
        MissingFileError: a folder that is not there, or holds no run.
    """
    runs: list[Run] = []
    for path in map(Path, paths):
        if (path / SETTINGS).is_file() or not path.is_dir():
            runs.append(Run.open(path))
            continue
        numbered = [p for p in path.glob(f"{_EVALUATION}*") if p.name[len(_EVALUATION) :].isdigit()]
        if numbered:
            numbered.sort(key=lambda p: int(p.name[len(_EVALUATION) :]))
            path = numbered[0 if first else -1]
        found = sorted(file.parent for file in path.glob(f"*/{SETTINGS}"))
        if not found:
            raise MissingFileError(
                f"{str(path)!r} holds no run: name a folder that `toolgym rollout` wrote, or an "
                "evaluation of a self-training run"
            )
        runs += map(Run.open, found)
    return runs


def compare_families(
    before: Sequence[Run], after: Sequence[Run], models: Sequence[Checkpoint], *, seed: int = 0
) -> tuple[list[Family], list[str]]:
    """Pair runs and compare each pair by task.

    Args:
        before: runs of the base.
        after: runs of the tuned model.
        models: both, to see that the runs are theirs; empty: not looked at.
        seed: fixes the bootstrap.

    Returns:
        One family a pair, and warnings.

    Raises:
        BadInputError: runs that cannot be paired, the same on both sides, or without a task in
            common.
    """
    warnings = [
        note
        for runs, model in zip((before, after), models, strict=False)
        for run in runs
        if (note := _belongs(run, model))
    ]
    families = []
    for old, new in _pairs(before, after):
        if old.path is not None and new.path is not None and old.path.samefile(new.path):
            raise BadInputError(f"{str(old.path)!r} stands before and after: name another run")
        warnings += _differences(old, new)
        found = compare(old, new, seed=seed)
        families.append(Family(_name(new), found, str(old.path or ""), str(new.path or "")))
    return _holm(_numbered(families)), warnings


def _pairs(before: Sequence[Run], after: Sequence[Run]) -> list[tuple[Run, Run]]:
    """By what was played; where a side played that several times, by the folders' names, too."""
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    pairs = []
    for key in (_what, _what_and_where):
        old, new = _keyed(before, key), _keyed(after, key)
        if max(map(len, [*old.values(), *new.values()]), default=0) == 1:
            pairs = [(old[k][0], new[k][0]) for k in old if k in new]
            alone = [runs[0] for k, runs in (old | new).items() if not (k in old and k in new)]
            if pairs and not alone:
                return pairs
    raise BadInputError(
        f"the runs cannot be paired: {_listed(before)} before and {_listed(after)} after; each "
        "environment has to be there once on both sides, or in folders of the same names"
    )


def _keyed(runs: Sequence[Run], key: Callable[[Run], tuple[str, ...]]) -> dict[Any, list[Run]]:
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def _what(run: Run) -> tuple[str, ...]:
    hashes = run.settings.get("hashes", {})
    return (
        str(run.settings.get("env", {}).get("id")),
        str(hashes.get("tasks")),
        str(run.settings.get("policy", {}).get("temperature")),
    )


def _what_and_where(run: Run) -> tuple[str, ...]:
    return (_what(run)[0], run.path.name if run.path else "")


def _listed(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.path or _name(run)) for run in runs) or "none"


def _name(run: Run) -> str:
    settings = run.settings
    family = settings.get("task_family") or settings.get("env", {}).get("id", "run")
    temperature = settings.get("policy", {}).get("temperature")
    if temperature is None:
        return str(family)
    return f"{family}, {'greedy' if temperature == 0 else f'temperature {temperature:g}'}"


def _numbered(families: list[Family]) -> list[Family]:
    """Families of one name told apart by their folders."""
    names = [family.name for family in families]
    return [
        family
        if names.count(family.name) == 1
        else replace(family, name=f"{family.name} ({Path(family.after).name})")
        for family in families
    ]


def _holm(families: list[Family]) -> list[Family]:
    corrected = holm_by_metric([family.comparison for family in families])
    return [
        replace(family, p_holm=found.get("accuracy"))
        for family, found in zip(families, corrected, strict=True)
    ]


def _belongs(run: Run, model: Checkpoint) -> str | None:
    """A warning, unless ``run.json`` says that this very model played."""
    policy = run.settings.get("policy", {})
    played, where = policy.get("model"), str(run.path or "the run")
    if policy.get("policy") != "transformers":
        return (
            f"{where}: played by {played or policy.get('policy', 'an unknown policy')!r}; whether "
            f"that is {model.name!r} is not recorded"
        )
    if policy.get("model_hash") in _hashes(model):
        return None
    same = played is not None and Path(str(played)).resolve() == model.folder.resolve()
    if same:
        return f"{where}: played before the files of {model.name!r} were changed"
    return f"{where}: played by {played!r}, not by {model.name!r}"


def _hashes(model: Checkpoint) -> set[str]:
    """What a policy of this model writes into ``run.json``."""
    below = model.base or model
    names = [str(below.folder)]
    if not Path(below.name).expanduser().is_dir():
        names.append(below.name)  # a hub id: its own fingerprint
    own = "" if model.base is None else fingerprint(str(model.folder))
    marks = [fingerprint(name) + own for name in names]
    return {hashlib.sha256(mark.encode()).hexdigest() for mark in marks}


def _differences(old: Run, new: Run) -> list[str]:
    """How two runs differ that should differ in their model only."""
    warnings, where = [], str(new.path or _name(new))
    sides = [run.settings.get("env", {}).get("args", {}) for run in (old, new)]
    for key in sorted(set(sides[0]) | set(sides[1])):
        values = [repr(side.get(key, "default"))[:80] for side in sides]
        if values[0] != values[1]:
            warnings.append(f"{where}: {key} was {values[0]} before and {values[1]} after")
    for key in ("temperature", "top_p", "max_new_tokens"):
        before, after = (run.settings.get("policy", {}).get(key) for run in (old, new))
        if before != after:
            warnings.append(f"{where}: {key} was {before!r} before and {after!r} after")
    return warnings


def play_both(
    models: Sequence[Checkpoint],
    envs: Sequence[str],
    *,
    env_args: Mapping[str, Any] | None = None,
    policy_args: Mapping[str, Any] | None = None,
    episodes: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Run], list[Run]]:
    """Let both models play the same tasks, greedily unless ``policy_args`` say otherwise.

    Args:
        models: base and tuned.
        envs: ids of environments.
        env_args: arguments of each of them.
        policy_args: arguments of `TransformersPolicy`.
        episodes: of each environment; None: every task.
        seed: of the task order.
        out: folder of the run folders, resumed where they exist; None: in memory.
        progress: called with what is played, finished and planned episodes.

    Returns:
        Runs before and after.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        BadInputError: arguments that do not fit.
    """
    from toolgym.policies.local.transformers import TransformersPolicy
    from toolgym.rollouts.engine import rollout

    sides: list[list[Run]] = []
    for side, model in zip(("before", "after"), models, strict=True):
        below = model.base or model
        adapter = None if model.base is None else model.folder
        policy = TransformersPolicy(
            below.folder, adapter=adapter, **({"temperature": 0.0} | dict(policy_args or {}))
        )
        try:
            sides.append([])
            for env in envs:
                label = f"{env.rpartition(':')[2]}-{side}"
                sides[-1].append(
                    rollout(
                        env,
                        policy,
                        env_args=env_args,
                        episodes=episodes,
                        seed=seed,
                        out=None if out is None else out / label,
                        progress=_telling(progress, label),
                    )
                )
        finally:
            policy.close()
            unload_models()  # the next one may fill the memory alone
    return sides[0], sides[1]


def _telling(
    progress: Callable[[str, int, int], None] | None, label: str
) -> Callable[[int, int], None] | bool:
    if progress is None:
        return False
    return lambda done, planned: progress(label, done, planned)

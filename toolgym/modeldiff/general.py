"""General abilities before and after: a bridge to EleutherAI's ``lm-eval``."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError
from toolgym.evaluation.document import Block, Heading, Paragraph, Table
from toolgym.modeldiff.checkpoint import Checkpoint

__all__ = ["Ability", "compare_abilities"]


@dataclass(frozen=True, slots=True)
class Ability:
    """One metric of one ``lm-eval`` task.

    Args:
        task: its name.
        metric: with its filter, as ``lm-eval`` names it, such as ``acc,none``.
        before: the base's figure.
        after: the tuned model's.
        change: after minus before.
        error: standard error of the change; None where none can be had.
        pairs: documents that both were asked, when the error comes from their differences; 0 when
            it comes from the two standard errors, as if other documents had been asked.
        higher_is_better: None where ``lm-eval`` does not say.
    """

    task: str
    metric: str
    before: float
    after: float
    change: float
    error: float | None
    pairs: int
    higher_is_better: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


def compare_abilities(
    models: Sequence[Checkpoint],
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    include: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Ability]:
    """Evaluate both models with ``lm_eval.simple_evaluate`` and subtract.

    Args:
        models: base and tuned.
        tasks: names that ``lm-eval`` knows, such as ``hellaswag``.
        limit: documents of each task; None: all.
        arguments: further arguments of ``simple_evaluate``, such as ``num_fewshot``,
            ``batch_size``, ``apply_chat_template``.
        include: folder of task files of your own.
        progress: told which model is evaluated.

    Raises:
        MissingExtraError: ``lm-eval`` is not installed.
        BadInputError: it refuses the tasks or arguments.
    """
    lm_eval = require_extra("lm_eval", "lm-eval")
    # Left alone it takes a GPU for granted, and one document at a time.
    require_extra("transformers", "lm-eval")  # before its notices are silenced
    gpu = require_extra("torch", "lm-eval").cuda.is_available()
    options: dict[str, Any] = {"device": "cuda" if gpu else "cpu"}
    options |= {"batch_size": "auto" if gpu else 8, "log_samples": True, "bootstrap_iters": 1000}
    options |= arguments or {}
    if include is not None:
        manager = require_extra("lm_eval.tasks", "lm-eval").TaskManager(include_path=include)
        options["task_manager"] = manager
    results = []
    for side, model in zip(("base", "tuned model"), models, strict=True):
        if progress is not None:
            progress(f"lm-eval: {side}")
        try:
            with quiet():
                found = lm_eval.simple_evaluate(
                    model="hf",
                    model_args=_model_args(model),
                    tasks=list(tasks),
                    limit=limit,
                    **options,
                )
        except (KeyError, TypeError, ValueError) as error:
            # KeyError and ValueError: unknown tasks; TypeError: unknown arguments.
            said = str(error.args[0]).strip() if error.args else ""
            reason = said.splitlines()[0] if said else "no reason given"
            raise BadInputError(
                f"lm-eval refuses {', '.join(tasks)} ({type(error).__name__}: {reason:.200}); "
                "see: lm-eval ls tasks"
            ) from error
        results.append(found)
        gc.collect()  # the next model may fill the memory alone
    return [row for task in results[0]["results"] for row in _rows(task, *results)]


def _model_args(model: Checkpoint) -> dict[str, Any]:
    below = model.base or model
    args: dict[str, Any] = {"pretrained": str(below.folder), "dtype": "auto"}
    return args if model.base is None else args | {"peft": str(model.folder)}


def _rows(task: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Ability]:
    old, new = before["results"][task], after["results"].get(task, {})
    better = before.get("higher_is_better", {}).get(task) or {}
    rows = []
    for key, value in old.items():
        metric, _, rule = key.partition(",")
        known = _is_number(value) and _is_number(new.get(key))
        if not rule or metric.endswith("_stderr") or not known:
            continue
        error, pairs = _paired_error(task, metric, rule, before, after)
        if not pairs:
            errors = [side.get(f"{metric}_stderr,{rule}") for side in (old, new)]
            if all(map(_is_number, errors)):
                error = math.hypot(*errors)
        up = better.get(metric)
        change = float(new[key]) - float(value)
        rows.append(Ability(task, key, float(value), float(new[key]), change, error, pairs, up))
    return rows


def _paired_error(
    task: str, metric: str, rule: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[float | None, int]:
    """Both models were asked the same: the error of the mean of their differences."""
    sides = [_by_document(found, task, metric, rule) for found in (before, after)]
    common = [key for key in sides[0] if key in sides[1]]
    if len(common) < 2 or len(common) != len(sides[0]) or len(common) != len(sides[1]):
        return None, 0
    differences = np.array([sides[1][key] - sides[0][key] for key in common])
    change = (
        after["results"][task][f"{metric},{rule}"] - before["results"][task][f"{metric},{rule}"]
    )
    if not math.isclose(float(differences.mean()), change, abs_tol=1e-6):
        return None, 0  # a metric that is not a mean over documents, such as perplexity
    error = float(differences.std(ddof=1) / math.sqrt(len(common)))
    return error or None, len(common)  # where all documents agree, zero would not be honest


def _by_document(found: Mapping[str, Any], task: str, metric: str, rule: str) -> dict[Any, float]:
    samples = (found.get("samples") or {}).get(task) or []
    return {
        sample.get("doc_id"): float(sample[metric])
        for sample in samples
        if sample.get("filter", rule) == rule and _is_number(sample.get(metric))
    }


def _is_number(value: Any) -> bool:
    # numpy's own floats are floats; its integers and truth values are not.
    return isinstance(value, int | float | np.number | np.bool_) and math.isfinite(value)


def ability_blocks(abilities: Sequence[Ability]) -> list[Block]:
    """The part of a page on general abilities, one row a task and metric."""
    rows = []
    for found in abilities:
        distance = found.change / found.error if found.error else None
        rows.append(
            [
                f"{found.task}, {found.metric}",
                f"{found.before:.4f}",
                f"{found.after:.4f}",
                f"{found.change:+.4f}",
                "-" if found.error is None else f"{found.error:.4f}",
                "-" if distance is None else f"{distance:+.1f}",
                f"paired, {found.pairs} documents" if found.pairs else "unpaired",
            ]
        )
    head = ["task, metric", "before", "after", "change", "standard error", "change / error"]
    return [
        Heading("General abilities (lm-eval)"),
        Table([*head, "error from"], rows),
        Paragraph(
            "A change of less than two standard errors may be chance; of many tasks some pass that "
            "mark by chance, too."
        ),
    ]

"""Direct preference optimisation on pairs of recorded episodes, tool results masked on both sides.

DPO is Rafailov et al. 2023 (arXiv 2305.18290); the pairs of arXiv 2502.05867 are three of
`toolgym.data.pairs.PAIRINGS`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from toolgym._util.optional import quiet
from toolgym.errors import BadInputError
from toolgym.training import _trl
from toolgym.training.config import Common, make_options, require_positive
from toolgym.training.dpo_rows import Pairable, prepare_pairs
from toolgym.training.loop import StepProgress, load_for_training
from toolgym.training.output import Outcome, Trained

__all__ = ["train_dpo"]


def train_dpo(
    source: Pairable,
    model: str | Path,
    out: str | Path,
    *,
    pairing: str = "first_turn",
    where: str = "accuracy>=1",
    per_task: int | None = None,
    beta: float = 0.5,
    sft_weight: float = 0.0,
    max_length: int = 8192,
    resume: bool = True,
    progress: StepProgress | None = None,
    **common: Unpack[Common],
) -> Trained:
    """Fine-tune a model to prefer the chosen episodes, with TRL.

    The reference model is the one that training begins with. Only tokens that the policy wrote
    count on either side; TRL itself would score tool results, too.

    Args:
        source: rows of ``export dpo`` or the path of them; or runs, which are paired here and
            trained on as the tokens that were sampled.
        model: a folder or a hub id.
        out: folder of the trained model; see `toolgym.training.sft.train_sft`.
        pairing: how episodes are paired; see `toolgym.data.pairs.make_pairs`.
        where: which episodes are right.
        per_task: most pairs of one question.
        beta: how far it may go from the reference; smaller is farther. The paper's is 0.5.
        sft_weight: weight of the chosen side's own likelihood as a second loss, which keeps it
            from falling along with the rejected one's; the paper has none.
        max_length: longer pairs are left out, in tokens of prompt and one side.
        resume: go on from the last checkpoint of the same training.
        progress: called with steps done, steps planned and a note.
        common: see `toolgym.training.config.Common`; the learning rate is 1e-6 by default, with
            LoRA 1e-5.

    Returns:
        The trained model; its figures hold ``accuracy`` (pairs whose chosen side has the higher
        implicit reward) and ``margin`` over the last ten steps.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        MissingFileError: the model or the source does not exist.
        TemplateError: the chat template cannot be trained on.
        BadInputError: a number out of range, an unknown argument, or no pair to train on.
        RunMismatchError: ``out`` holds something else, or was begun with other pairs or settings.
    """
    _trl.check_version()
    require_positive(max_length=max_length, beta=beta)
    if not 0 <= sft_weight < float("inf"):
        raise BadInputError(f"sft_weight must be at least 0, not {sft_weight!r}")
    options = make_options(rate=1e-6, lora_rate=1e-5, **common)
    preference = _trl.PreferenceOptions(float(beta), float(sft_weight))
    with quiet():
        loaded, tokenizer, saved = load_for_training(model, half=options.bf16 and options.lora > 0)
        prepared = prepare_pairs(
            source,
            tokenizer,
            max_length=max_length,
            pairing=pairing,
            where=where,
            per_task=per_task,
        )
        record = {
            "method": "dpo",
            "model": str(model),
            "rows": prepared.fingerprint(),
            "counts": prepared.counts,
            "trained_tokens": prepared.trained_tokens,
            "balance": prepared.balance,
            "options": options.to_row() | {"beta": beta, "sft_weight": sft_weight},
        }
        outcome = Outcome(Path(out), record)
        finished = outcome.finished()
        if finished is not None:
            return finished
        with outcome.begin(resume):
            made = _trl.run_dpo(
                loaded,
                tokenizer,
                prepared.rows,
                outcome.work,
                options,
                preference,
                resume=resume,
                progress=progress,
            )
            figures = made.means({"rewards/accuracies": "accuracy", "rewards/margins": "margin"})
            bias = prepared.balance.get("warning")
            facts = {"steps": made.steps, "loss": made.loss, "figures": figures}
            facts["warnings"] = [str(bias)] if bias else []
            return outcome.finish(made.model.to(saved), tokenizer, facts, made.log)

"""Direct preference optimisation on recorded episodes: from pairs to a trained model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from toolgym._util.jsonl import read_rows, value_hash
from toolgym._util.optional import quiet
from toolgym.data.conditions import condition
from toolgym.data.export import IGNORED, Rows
from toolgym.data.pairs import balance, make_pairs, pair_row, token_pair_row
from toolgym.errors import BadInputError, TemplateError
from toolgym.rollouts.sources import Recording, read_recording
from toolgym.training import _trl
from toolgym.training.config import Common, make_options, require_positive
from toolgym.training.encoding import encode_chat, require_end, spans, wrong_span
from toolgym.training.loop import StepProgress, load_for_training
from toolgym.training.output import Outcome, Trained
from toolgym.trajectory import Trajectory

__all__ = ["Pairable", "PreparedPairs", "prepare_pairs", "train_dpo"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Pairable = Rows | Recording
"""Exported pairs, runs or the path of either, a list of runs, or trajectories."""

_SIDES = ("chosen", "rejected")


@dataclass
class PreparedPairs:
    """Pairs ready for the trainer.

    Args:
        rows: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``, ``chosen_mask``, ``rejected_mask``.
        counts: pairs by how they came to be, and those left out.
        trained_tokens: tokens of both sides that the loss falls on.
        balance: see `toolgym.data.pairs.balance`; empty for exported rows.
    """

    rows: list[dict[str, list[int]]]
    counts: dict[str, int] = field(default_factory=dict)
    trained_tokens: int = 0
    balance: dict[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Hash of all tokens and masks in order."""
        return value_hash(self.rows)


def prepare_pairs(
    source: Pairable,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    pairing: str,
    where: str,
    per_task: int | None,
) -> PreparedPairs:
    """Tokenise what is not yet tokens, check every mask, leave out what is too long.

    Args:
        source: see `Pairable`; exported pairs are taken as they are, episodes are paired here.
        tokenizer: the model's.
        max_length: of prompt and one side together, in tokens.
        pairing: see `toolgym.data.pairs.make_pairs`; for episodes.
        where: which episodes are right; for episodes.
        per_task: most pairs of one question; for episodes.

    Raises:
        TemplateError: the trained tokens are not what the assistant said; nothing is trained then.
        BadInputError: no pair is left, or a row is none.
    """
    found, facts = _pairs(source, pairing, where, per_task)
    ends = require_end(tokenizer)
    counts: Counter[str] = Counter()
    kept: list[dict[str, list[int]]] = []
    for row in found:
        exact = "prompt_ids" in row
        made = _checked(row) if exact else _encoded(row, tokenizer, ends)
        longest = max(len(made[f"{side}_ids"]) for side in _SIDES) + len(made["prompt_ids"])
        if max_length is not None and longest > max_length:
            counts[f"longer than {max_length} tokens"] += 1
        elif made["chosen_ids"] == made["rejected_ids"]:
            counts["chosen and rejected read the same"] += 1
        else:
            counts["token_exact" if exact else "retokenised"] += 1
            kept.append(made)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise BadInputError(f"there is no pair to train on: {reasons or 'none was given'}")
    trained = sum(sum(row[f"{side}_mask"]) for row in kept for side in _SIDES)
    return PreparedPairs(kept, dict(counts), trained, facts)


def _pairs(
    source: Pairable, pairing: str, where: str, per_task: int | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of tokens where both sides have them, of messages elsewhere; and their balance."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and (path / "train.jsonl").is_file():
            path = path / "train.jsonl"
        if path.is_file():
            rows = [row for _, row in read_rows(path, "row file")]
            if not rows:
                raise BadInputError(f"row file {str(path)!r} is empty: export again")
            if not {"chosen", "chosen_ids", "schema"} & rows[0].keys():
                raise BadInputError(
                    f"row file {str(path)!r} holds no preference pairs (its rows have "
                    f"{', '.join(rows[0])}): give rows of `export sft` to `toolgym train sft`, or "
                    "write pairs with `toolgym export dpo`"
                )
            if "schema" not in rows[0]:
                return rows, {}
    if isinstance(source, Rows):
        if source.kind != "dpo":
            raise BadInputError(f"DPO needs rows of kind 'dpo', not {source.kind!r}")
        return source.rows, dict(source.about.get("balance", {}))
    if isinstance(source, Sequence) and not isinstance(source, str):
        items = list(source)
        if items and isinstance(items[0], dict):
            return items, {}
    trajectories: list[Trajectory] = read_recording(source)[0]
    pairs, _ = make_pairs(
        trajectories, condition(where, trajectories), pairing=pairing, per_task=per_task
    )
    return [token_pair_row(pair) or pair_row(pair, "auto") for pair in pairs], balance(pairs)


def _checked(row: dict[str, Any]) -> dict[str, list[int]]:
    made = {"prompt_ids": list(row["prompt_ids"])}
    for side in _SIDES:
        ids, mask = list(row.get(f"{side}_ids", ())), list(row.get(f"{side}_mask", ()))
        if not ids or len(ids) != len(mask) or not any(mask):
            raise BadInputError(
                f"pair {row.get('id')!r} has {len(ids)} {side}_ids and {len(mask)} {side}_mask, "
                f"{sum(map(bool, mask))} of them trained"
            )
        made |= {f"{side}_ids": ids, f"{side}_mask": mask}
    return made


def _encoded(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, ends: set[int]
) -> dict[str, list[int]]:
    """Tokens of a pair of messages; each side is checked as a row for SFT is."""
    missing = [key for key in ("prompt", *_SIDES) if not isinstance(row.get(key), list)]
    if missing:
        raise BadInputError(
            f"a pair needs prompt, chosen and rejected as messages, or their ids and masks; "
            f"{missing[0]!r} is missing; this one has {', '.join(row) or 'nothing'}"
        )
    tools = row.get("tools")
    documents = json.loads(tools) if isinstance(tools, str) else tools
    before = sum(message.get("role") == "assistant" for message in row["prompt"])
    made: dict[str, list[int]] = {}
    for side in _SIDES:
        encoded = encode_chat(tokenizer, row["prompt"] + row[side], documents)
        native = any(m.get("tool_calls") for m in row["prompt"] + row[side])
        problem = wrong_span(
            tokenizer, encoded.labels, encoded.texts, ends, must_end=True, exact=not native
        )
        if problem is not None:
            raise TemplateError(
                f"the chat template of {tokenizer.name_or_path!r} cannot be trained on: {problem}"
            )
        begin = list(spans(encoded.labels))[before][0]
        prompt = encoded.input_ids[:begin]
        if made.setdefault("prompt_ids", prompt) != prompt:
            raise TemplateError(
                f"the chat template of {tokenizer.name_or_path!r} renders the prompt of pair "
                f"{row.get('id')!r} differently before chosen and rejected"
            )
        made[f"{side}_ids"] = encoded.input_ids[begin:]
        made[f"{side}_mask"] = [int(label != IGNORED) for label in encoded.labels[begin:]]
    return made


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

"""Supervised fine-tuning on recorded episodes, from top to bottom.

`train_sft` is the whole way: what was asked for, the rows as tokens with labels (`prepare`), TRL's
trainer (`run_sft`), and a folder with the model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.frames import standing
from toolgym._util.hashes import rows_hash
from toolgym._util.jsonl import read_rows
from toolgym._util.optional import quiet, require_extra
from toolgym.data.chat import LearnAs, learned, row_spool, spooled
from toolgym.data.export import IGNORED, Rows, message_rows, token_row
from toolgym.data.lineage import Origins
from toolgym.errors import BadInputError, TemplateError
from toolgym.policies.local.canonical import Canonical
from toolgym.rollouts.recording import Recorded, Recording, open_recording
from toolgym.training.beginnings import read_once
from toolgym.training.config import Resolved, SftConfig, configure
from toolgym.training.encoding import (
    MORE,
    encode_chat,
    require_end,
    respelled,
    spans,
    wrong_span,
)
from toolgym.training.fitting import rows_that_fit
from toolgym.training.loop import (
    Result,
    StepProgress,
    arguments,
    check_version,
    dataset_of,
    load_for_training,
    lora,
    missing_rows,
    train_loop,
    whole_batches,
)
from toolgym.training.output import Outcome, Trained
from toolgym.trajectory import Trajectory

__all__ = [
    *("Prepared", "Trainable", "episode_row", "prepare", "run_sft", "train_sft", "training_rows"),
]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Trainable = Rows | Recording
"""Exported rows, a selection, a run, the path of one of them, trajectories, or rows as dicts."""

WRITTEN = "learn_as is for recorded episodes: these rows are written already, so give it to export"
_TOLERATED = 0.05  # share of sampled rows whose tokens may say something else than the record


def train_sft(
    source: Trainable,
    model: str | Path,
    out: str | Path,
    config: SftConfig | Mapping[str, Any] | None = None,
    *,
    learn_as: LearnAs | Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: StepProgress | None = None,
    **options: Any,
) -> Trained:
    """Fine-tune a model on recorded episodes with TRL.

    Episodes recorded with tokens are trained on as these tokens; others are tokenised with the
    model's chat template, and training does not start unless the trained tokens decode to what the
    assistant said. Defaults are those of arXiv 2502.05867 where it states them.

    Args:
        source: a run, a selection, exported rows, the path of one of them, or trajectories.
        model: a folder or a hub id.
        out: folder of the trained model; it appears whole or not at all. Checkpoints lie beside it
            in ``<out>.partial`` until then.
        config: see `SftConfig`; the learning rate is 2e-5 by default, with LoRA 2e-4.
        learn_as: the prompt under which recorded episodes are learned, see
            `toolgym.data.export.export`; episodes that it changes are tokenised again.
        resume: go on from the last checkpoint of the same training; False begins anew.
        progress: called with updates done, updates planned and a note. None: a bar, in a terminal
            or a notebook; False: none.
        options: fields of `SftConfig` by name; they win over ``config``.

    Returns:
        The trained model and what it was trained on. A folder that this same training has finished
        is returned as it is.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        MissingFileError: the model or the source does not exist.
        TemplateError: the chat template cannot be trained on.
        BadInputError: an unknown option, a value that does not fit, or no row to train on.
        RunMismatchError: ``out`` holds something else, or was begun with other rows or settings.
    """
    check_version()
    asked = configure(SftConfig, config, options)
    settings = asked.resolve()
    with quiet():
        loaded, tokenizer, saved = load_for_training(model, settings)
        prepared = prepare(source, tokenizer, max_length=settings.max_length, learn_as=learn_as)
        settings = rows_that_fit("sft", loaded, prepared.longest, asked, settings)
        record = {
            "method": "sft",
            "model": str(model),
            "rows": prepared.fingerprint(),
            "counts": prepared.counts,
            "trained_tokens": prepared.trained_tokens,
            "options": settings.record(),
        }
        outcome = Outcome(Path(out), record, source, prepared.origins)
        prepared.origins = None
        finished = outcome.finished()
        if finished is not None:
            return finished
        with outcome.begin(resume):
            made = run_sft(
                loaded,
                tokenizer,
                prepared.rows,
                outcome.work,
                settings,
                resume=resume,
                progress=progress,
            )
            facts = {"steps": made.steps, "loss": made.loss, "warnings": prepared.warnings}
            return outcome.finish(made.model.to(saved), tokenizer, facts, made.log)


@dataclass
class Prepared:
    """Rows ready for the trainer.

    Args:
        rows: ``input_ids`` and ``labels``.
        counts: rows by how they came to be: ``token_exact``, ``respelled`` where a guide led to
            tokens that the tokenizer does not write, ``retokenised``, ``re-rendered`` under another
            prompt, and those left out.
        trained_tokens: how many tokens the loss falls on.
        longest: tokens of the longest row.
        warnings: what the model will not learn from them.
        origins: which episodes they were made of, where no file of rows says it.
    """

    rows: Sequence[dict[str, list[int]]]
    counts: dict[str, int] = field(default_factory=dict)
    trained_tokens: int = 0
    longest: int = 0
    warnings: list[str] = field(default_factory=list)
    origins: Origins | None = None

    def fingerprint(self) -> str:
        """Hash of all tokens and labels in order."""
        return rows_hash(self.rows)


def training_rows(source: Trainable, learn_as: LearnAs | None = None) -> Sequence[dict[str, Any]]:
    """Rows of tokens where they were recorded, of messages elsewhere; many of them lie on disk.

    Args:
        source: see `Trainable`.
        learn_as: see `toolgym.data.chat.learned`.

    Raises:
        MissingFileError: nothing is at the path.
        BadInputError: it holds no SFT rows; or rows that are written already, and ``learn_as``.
    """
    return _with_origins(source, learn_as)[0]


def _with_origins(
    source: Trainable, learn_as: LearnAs | None
) -> tuple[Sequence[dict[str, Any]], Origins | None]:
    if isinstance(source, Iterable) and not isinstance(source, str | Path | Recorded | Rows):
        source = list(source)
    written = _written(source)
    if written is not None:
        if learn_as is not None:
            raise BadInputError(WRITTEN)
        return written, source.traced() if isinstance(source, Rows) else None
    rows = row_spool()
    origins = Origins(open_recording(source), rows)
    for trajectory in origins:
        rows.append(episode_row(trajectory, learn_as))
    origins.rows = rows
    return rows, origins


def episode_row(trajectory: Trajectory, learn_as: LearnAs | None = None) -> dict[str, Any]:
    """The row of one episode: its tokens where they are those of its prompt, else messages."""
    if trajectory.tokens is not None and not learned(trajectory, learn_as)[1]:
        return token_row(trajectory)
    return message_rows([trajectory], learn_as=learn_as)[0][0]


def _written(source: Any) -> Sequence[dict[str, Any]] | None:
    """Rows that are written already, or None for episodes."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and standing(path / "train.jsonl").is_file():
            path = standing(path / "train.jsonl")
        if path.is_file():
            rows = spooled(row for _, row in read_rows(path, "row file"))
            if not rows:
                raise BadInputError(f"row file {str(path)!r} is empty: filter or export again")
            if "chosen" in rows[0] or "chosen_ids" in rows[0]:
                raise BadInputError(
                    f"row file {str(path)!r} holds preference pairs: give it to `toolgym train "
                    "dpo`, or write rows for SFT with `toolgym export sft`"
                )
            if "schema" not in rows[0]:
                return rows
    if isinstance(source, Rows):
        if source.kind == "dpo":
            raise BadInputError("SFT needs rows of kind 'sft' or 'prefixes', not 'dpo'")
        return source.rows
    found = isinstance(source, list) and any(isinstance(item, dict) for item in source)
    return source if found else None


def prepare(
    source: Trainable,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    learn_as: LearnAs | Mapping[str, Any] | None = None,
) -> Prepared:
    """Tokenise what is not yet tokens, check every mask, leave out what is too long.

    A too long row is left out, not cut: its answer stands at its end.

    Raises:
        TemplateError: the trained tokens are not what the assistant said; nothing is trained then.
        BadInputError: no row is left, or a row is none.
    """
    ends = require_end(tokenizer)
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    kept, trained, longest = row_spool(), 0, 0
    rows, origins = _with_origins(source, LearnAs.read(learn_as))
    canonical = Canonical(tokenizer)
    for row in rows:
        exact = "input_ids" in row
        ids, labels, problem = _encoded(row, tokenizer, ends)
        spelled = "token_exact"
        if exact and row.get("guided"):
            before = ids
            ids, labels = respelled(canonical, ids, labels)
            spelled = "token_exact" if ids == before else "respelled"
        if problem is not None and not exact:
            raise TemplateError(
                f"the chat template of {tokenizer.name_or_path!r} cannot be trained on: {problem}"
            )
        if problem == MORE:
            counts[MORE] += 1
        elif problem is not None:
            wrong[problem] += 1
        elif max_length is not None and len(ids) > max_length:
            counts[f"longer than {max_length} tokens"] += 1
        else:
            anew = "re-rendered" if "learn_as" in row else "retokenised"
            counts[spelled if exact else anew] += 1
            trained += sum(label != IGNORED for label in labels)
            longest = max(longest, len(ids))
            kept.append({"input_ids": ids, "labels": labels})
    _judge(wrong, counts)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise BadInputError(f"there is no row to train on: {reasons or 'none was given'}")
    endless = _endless(kept, counts, ends)
    return Prepared(kept, dict(counts), trained, longest, endless, origins)


def _encoded(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, ends: set[int]
) -> tuple[list[int], list[int], str | None]:
    """Tokens, labels, and what is wrong with them."""
    if "input_ids" in row:
        ids, labels = list(row["input_ids"]), list(row.get("labels", ()))
        if len(labels) != len(ids) or all(label == IGNORED for label in labels):
            raise BadInputError(
                f"row {row.get('id')!r} has {len(ids)} input_ids and {len(labels)} labels, "
                f"{sum(label != IGNORED for label in labels)} of them trained"
            )
        texts = row.get("texts")
        if texts is None:
            return ids, labels, None
        return ids, labels, wrong_span(tokenizer, labels, texts, ends, must_end=False)
    messages, before = _messages(row)
    if not isinstance(messages, list) or not any(m.get("role") == "assistant" for m in messages):
        raise BadInputError(
            f"an SFT row needs input_ids and labels, messages with an assistant turn, or prompt "
            f"and completion; this one has {', '.join(row) or 'nothing'}"
        )
    tools = row.get("tools")
    encoded = encode_chat(
        tokenizer, messages, json.loads(tools) if isinstance(tools, str) else tools
    )
    native = any(message.get("tool_calls") for message in messages)
    problem = wrong_span(
        tokenizer, encoded.labels, encoded.texts, ends, must_end=True, exact=not native
    )
    first = list(spans(encoded.labels))[before][0] if before else 0
    labels = [IGNORED] * first + encoded.labels[first:]
    return encoded.input_ids, labels, problem


def _messages(row: dict[str, Any]) -> tuple[Any, int]:
    """The conversation, and how many of its replies stand in the prompt."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return prompt + completion, sum(m.get("role") == "assistant" for m in prompt)
    return row.get("messages"), 0


def _endless(
    kept: Sequence[dict[str, list[int]]], counts: Counter[str], ends: set[int]
) -> list[str]:
    """Sampled replies that were all cut teach a model never to stop; single ones do no harm."""
    if counts["retokenised"] or counts["re-rendered"]:
        return []
    last = (next(label for label in reversed(row["labels"]) if label != IGNORED) for row in kept)
    if any(label in ends for label in last):
        return []
    return [
        f"the model that wrote these {len(kept)} rows did not stop: none of them ends with its end "
        "token, and what is trained on them will not stop either; record with a larger "
        "max_new_tokens, or begin with a model that was trained on conversations"
    ]


def _judge(wrong: Counter[str], counts: Counter[str]) -> None:
    """Single oddities (half a character at a cut) are left out; many mean a mistake."""
    count = sum(wrong.values())
    if not count:
        return
    exact = counts["token_exact"] + counts["respelled"]
    if count > max(1, _TOLERATED * (count + exact)):
        raise TemplateError(
            f"{count} of {count + exact} rows are not what the assistant said: "
            f"{wrong.most_common(1)[0][0]}; were they recorded with another tokenizer?"
        )
    counts["tokens that say something else"] += count


def run_sft(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, list[int]]],
    work: Path,
    settings: Resolved,
    *,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train with TRL's ``SFTTrainer`` on rows of ``input_ids`` and ``labels``, taken as they are.

    Args:
        model: changed in place.
        tokenizer: the model's.
        rows: see `prepare`.
        work: folder of the checkpoints.
        settings: what to do.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each update.
    """
    trl = require_extra("trl", "train")
    # Rows without a label take no part in the loss.
    missing = missing_rows(len(rows), settings)
    silent = {"input_ids": rows[0]["input_ids"][:2], "labels": [IGNORED] * 2}

    def make() -> Any:
        config = trl.SFTConfig(
            # The rows are tokens already, checked and cut to length.
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            **arguments(work, settings),
        )
        trainer = read_once(trl.SFTTrainer, model, settings)
        return whole_batches(trainer, len(rows), missing, settings.seed)(
            model=model,
            args=config,
            train_dataset=dataset_of(rows, work, [silent] * missing),
            processing_class=tokenizer,
            peft_config=lora(settings.lora),
        )

    return train_loop(make, work, settings, resume, progress)

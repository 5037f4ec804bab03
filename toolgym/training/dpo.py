"""Direct preference optimisation on recorded episodes: from pairs to a trained model."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.frames import standing
from toolgym._util.hashes import rows_hash
from toolgym._util.jsonl import read_rows
from toolgym._util.optional import quiet, require_extra
from toolgym.data.chat import LearnAs, learned, row_spool, spooled
from toolgym.data.conditions import condition
from toolgym.data.export import IGNORED, Rows
from toolgym.data.lineage import Origins
from toolgym.data.pairs import Balance, Groups, Pair, pair_row, pairs_of, token_pair_row
from toolgym.errors import BadInputError, TemplateError
from toolgym.policies.local.canonical import Canonical
from toolgym.rollouts.recording import Recording, some_episodes
from toolgym.training.beginnings import read_once
from toolgym.training.config import (
    RIGHT,
    DpoConfig,
    Resolved,
    TrainConfig,
    configure,
)
from toolgym.training.dpo_trainer import masked_collator, pair_trainer
from toolgym.training.encoding import encode_chat, require_end, respelled, spans, wrong_span
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
)
from toolgym.training.output import Outcome, Trained
from toolgym.training.sft import WRITTEN
from toolgym.trajectory import EpisodeSpool

__all__ = ["Pairable", "PreparedPairs", "episode_pair", "prepare_pairs", "run_dpo", "train_dpo"]

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
        longest: tokens of the longest prompt with one side.
        balance: see `toolgym.data.pairs.balance`; empty for exported rows.
        origins: which episodes they were made of, where no file of rows says it.
    """

    rows: Sequence[dict[str, list[int]]]
    counts: dict[str, int] = field(default_factory=dict)
    trained_tokens: int = 0
    longest: int = 0
    balance: dict[str, Any] = field(default_factory=dict)
    origins: Origins | None = None

    def fingerprint(self) -> str:
        """Hash of all tokens and masks in order."""
        return rows_hash(self.rows)


def train_dpo(
    source: Pairable,
    model: str | Path,
    out: str | Path,
    config: DpoConfig | Mapping[str, Any] | None = None,
    *,
    learn_as: LearnAs | Mapping[str, Any] | None = None,
    resume: bool = True,
    progress: StepProgress | None = None,
    **options: Any,
) -> Trained:
    """Fine-tune a model to prefer the chosen episodes, with TRL.

    The reference model is the one that training begins with. Only tokens that the policy wrote
    count on either side; TRL itself would score tool results, too.

    Args:
        source: rows of ``export dpo`` or the path of them; or runs, which are paired here and
            trained on as the tokens that were sampled.
        model: a folder or a hub id.
        out: folder of the trained model; see `toolgym.training.sft.train_sft`.
        config: see `DpoConfig`; the learning rate is 1e-6 by default, with LoRA 1e-5.
        learn_as: the prompt under which recorded episodes are learned, see
            `toolgym.data.export.export`.
        resume: go on from the last checkpoint of the same training.
        progress: called with updates done, updates planned and a note. None: a bar, in a terminal
            or a notebook; False: none.
        options: fields of `DpoConfig` by name; they win over ``config``.

    Returns:
        The trained model; its figures hold ``accuracy`` (pairs whose chosen side has the higher
        implicit reward) and ``margin`` over the last ten updates.

    Raises:
        MissingExtraError: torch, transformers or TRL is missing, or TRL is of an untested version.
        MissingFileError: the model or the source does not exist.
        TemplateError: the chat template cannot be trained on.
        BadInputError: an unknown option, a value that does not fit, or no pair to train on.
        RunMismatchError: ``out`` holds something else, or was begun with other pairs or settings.
    """
    check_version()
    asked = configure(DpoConfig, config, options)
    settings = asked.resolve()
    with quiet():
        loaded, tokenizer, saved = load_for_training(model, settings)
        prepared = prepare_pairs(source, tokenizer, asked, learn_as)
        settings = rows_that_fit("dpo", loaded, prepared.longest, asked, settings)
        # What shaped the pairs shows in the pairs themselves.
        own = asked.model_dump(exclude={*TrainConfig.model_fields, "pairing", "where", "per_task"})
        record = {
            "method": "dpo",
            "model": str(model),
            "rows": prepared.fingerprint(),
            "counts": prepared.counts,
            "trained_tokens": prepared.trained_tokens,
            "balance": prepared.balance,
            "options": settings.record() | own,
        }
        outcome = Outcome(Path(out), record, source, prepared.origins)
        prepared.origins = None
        finished = outcome.finished()
        if finished is not None:
            return finished
        with outcome.begin(resume):
            made = run_dpo(
                loaded,
                tokenizer,
                prepared.rows,
                outcome.work,
                settings,
                asked,
                resume=resume,
                progress=progress,
            )
            figures = made.means({"rewards/accuracies": "accuracy", "rewards/margins": "margin"})
            facts = {"steps": made.steps, "loss": made.loss, "figures": figures}
            facts["warnings"] = [w for w in [prepared.balance.get("warning")] if w]
            return outcome.finish(made.model.to(saved), tokenizer, facts, made.log)


def prepare_pairs(
    source: Pairable,
    tokenizer: PreTrainedTokenizerBase,
    config: DpoConfig,
    learn_as: LearnAs | Mapping[str, Any] | None = None,
) -> PreparedPairs:
    """Tokenise what is not yet tokens, check every mask, leave out what is too long.

    Args:
        source: see `Pairable`; exported pairs are taken as they are, episodes are paired here.
        tokenizer: the model's.
        config: how episodes are paired, and how long prompt and one side may be together.
        learn_as: see `train_dpo`.

    Raises:
        TemplateError: the trained tokens are not what the assistant said; nothing is trained then.
        BadInputError: no pair is left, or a row is none.
    """
    found, facts, origins = _pairs(source, config, LearnAs.read(learn_as))
    ends = require_end(tokenizer)
    counts: Counter[str] = Counter()
    kept, trained, most = row_spool(), 0, 0
    canonical = Canonical(tokenizer)
    for row in found:
        exact = "prompt_ids" in row
        made = _checked(row) if exact else _encoded(row, tokenizer, ends)
        spelled = "token_exact"
        if exact and row.get("guided"):
            before, made = made, _respelled(canonical, made)
            spelled = "token_exact" if made == before else "respelled"
        longest = max(len(made[f"{side}_ids"]) for side in _SIDES) + len(made["prompt_ids"])
        if longest > config.max_length:
            counts[f"longer than {config.max_length} tokens"] += 1
        elif made["chosen_ids"] == made["rejected_ids"]:
            counts["chosen and rejected read the same"] += 1
        else:
            anew = "re-rendered" if "learn_as" in row else "retokenised"
            counts[spelled if exact else anew] += 1
            trained += sum(sum(made[f"{side}_mask"]) for side in _SIDES)
            most = max(most, longest)
            kept.append(made)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise BadInputError(f"there is no pair to train on: {reasons or 'none was given'}")
    return PreparedPairs(kept, dict(counts), trained, most, facts, origins)


def _pairs(
    source: Pairable, config: DpoConfig, learn_as: LearnAs | None
) -> tuple[Sequence[dict[str, Any]], dict[str, Any], Origins | None]:
    """Rows of tokens where both sides have them, else of messages; their balance and origins."""
    written = _written(source)
    if written is not None:
        if learn_as is not None:
            raise BadInputError(WRITTEN)
        return *written, source.traced() if isinstance(source, Rows) else None
    episodes, sides, rows = some_episodes(source), Balance(), row_spool()
    right = condition(config.where or RIGHT, episodes)
    spool = EpisodeSpool(episodes.held)
    origins = Origins(episodes, spool)
    groups, dropped = Groups(origins, spool), Counter[str]()
    how: Any = {"pairing": config.pairing, "per_task": config.per_task}
    for pair in pairs_of(groups, right, dropped, **how):
        rows.append(episode_pair(pair, learn_as))
        origins.pair(groups.place(pair.chosen), groups.place(pair.rejected))
        sides.add(pair)
    origins.rows = rows
    return rows, sides.told(), origins


def episode_pair(pair: Pair, learn_as: LearnAs | None = None) -> dict[str, Any]:
    """The row of a pair: its tokens where they are those of its prompt, else messages."""
    exact = None if learned(pair.chosen, learn_as)[1] else token_pair_row(pair)
    return exact or pair_row(pair, "auto", learn_as=learn_as)


def _written(source: Any) -> tuple[Sequence[dict[str, Any]], dict[str, Any]] | None:
    """Pairs that are written already, and their balance; or None for episodes."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir() and standing(path / "train.jsonl").is_file():
            path = standing(path / "train.jsonl")
        if path.is_file():
            rows = spooled(row for _, row in read_rows(path, "row file"))
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
    return None


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


def _respelled(canonical: Canonical, row: dict[str, list[int]]) -> dict[str, list[int]]:
    """A pair of guided replies in the tokens that the tokenizer itself writes them with."""
    made = dict(row)
    for side in _SIDES:
        ids, mask = row[f"{side}_ids"], row[f"{side}_mask"]
        labels = [token if mine else IGNORED for token, mine in zip(ids, mask, strict=True)]
        made[f"{side}_ids"], labels = respelled(canonical, ids, labels)
        made[f"{side}_mask"] = [int(label != IGNORED) for label in labels]
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


def run_dpo(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, list[int]]],
    work: Path,
    settings: Resolved,
    config: DpoConfig,
    *,
    resume: bool,
    progress: StepProgress | None,
) -> Result:
    """Train with TRL's ``DPOTrainer`` on pairs of tokens, tool results masked on both sides.

    Args:
        model: changed in place.
        tokenizer: the model's.
        rows: ``prompt_ids``, ``chosen_ids``, ``rejected_ids``, ``chosen_mask``, ``rejected_mask``.
        work: folder of the checkpoints.
        settings: what to do.
        config: beta and losses.
        resume: go on from the last complete checkpoint in ``work``.
        progress: called after each update.
    """
    trl = require_extra("trl", "train")
    losses = {"sigmoid": 1.0} | ({"sft": config.sft_weight} if config.sft_weight else {})
    missing = missing_rows(len(rows), settings)
    silent = {f"{part}_ids": rows[0][f"{part}_ids"][:1] for part in ("prompt", *_SIDES)}
    silent |= {f"{side}_mask": [0] for side in _SIDES}

    def make() -> Any:
        arguments_of_trl = trl.DPOConfig(
            beta=config.beta,
            loss_type=list(losses),
            loss_weights=list(losses.values()),
            max_length=None,
            remove_unused_columns=False,
            **arguments(work, settings),
        )
        trainer = read_once(pair_trainer(len(rows), missing, settings.seed), model, settings)
        return trainer(
            model=model,
            # With adapters the model below them is the reference.
            ref_model=None if settings.lora else copy.deepcopy(model),
            args=arguments_of_trl,
            train_dataset=dataset_of(rows, work, [silent] * missing),
            processing_class=tokenizer,
            data_collator=masked_collator(tokenizer.pad_token_id),
            peft_config=lora(settings.lora),
        )

    return train_loop(make, work, settings, resume, progress)

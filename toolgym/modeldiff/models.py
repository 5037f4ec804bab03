"""`compare_models`: what training changed in a model, and what it gained and lost by it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, write_json
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError
from toolgym.evaluation.document import Block, Figure, to_html, to_markdown
from toolgym.modeldiff import page
from toolgym.modeldiff.checkpoint import Checkpoint
from toolgym.modeldiff.general import Ability, compare_abilities
from toolgym.modeldiff.heldout import Family, compare_families, find_runs, play_both
from toolgym.modeldiff.weights import WeightChange, open_models, weight_change
from toolgym.rollouts.playing import make_env

__all__ = ["ModelComparison", "compare_models", "tokenizer_notes"]

_OTHER = 0.1  # share of common ids with other tokens from which it is another vocabulary


def tokenizer_notes(before: Path, after: Path) -> list[str]:
    """What differs between the tokenizers of two model folders.

    Reserved tokens that training gave a name are a note; another vocabulary is an error, since then
    equal rows of the embeddings stand for different words.

    Args:
        before: folder of the base.
        after: folder of the tuned model.

    Raises:
        BadInputError: another vocabulary.
    """
    notes = []
    old, new = (_tokens(folder) for folder in (before, after))
    if old is None or new is None:
        which = "base" if old is None else "tuned model"
        notes.append(f"The {which} has no tokenizer.json: the vocabularies were not compared.")
    else:
        common = old.keys() & new.keys()
        other = sorted(number for number in common if old[number] != new[number])
        if not common or len(other) > _OTHER * len(common):
            example = f" (id {other[0]}: {old[other[0]]!r} and {new[other[0]]!r})" if other else ""
            raise BadInputError(
                f"the vocabularies differ: {len(other):,} of {len(common):,} common ids stand for "
                f"other tokens{example}; compare models of one vocabulary, or leave the weights "
                "out (--no-weights)"
            )
        if other:
            shown = [f"{n}: {old[n]!r} is {new[n]!r}" for n in itertools.islice(other, 3)]
            notes.append(f"{len(other)} ids stand for other tokens ({', '.join(shown)}).")
        if grown := len(new) - len(old):
            notes.append(
                f"The tokenizer has {abs(grown)} tokens {'more' if grown > 0 else 'less'}."
            )
    templates = [_template(folder) for folder in (before, after)]
    if templates[0] != templates[1]:
        missing = [n for n, t in zip(("base", "tuned model"), templates, strict=True) if not t]
        notes.append(
            f"The {missing[0]} has no chat template."
            if missing
            else "The chat templates differ: the two models were not prompted alike."
        )
    return notes


def _tokens(folder: Path) -> dict[int, str] | None:
    """Tokens by id; None without a ``tokenizer.json``."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    data = read_json(file)
    listed: Any = (data.get("model") or {}).get("vocab") or {}
    if isinstance(listed, dict):
        found = {int(number): token for token, number in listed.items()}
    else:  # pairs of token and score
        found = {number: str(pair[0]) for number, pair in enumerate(listed)}
    return found | {int(t["id"]): str(t["content"]) for t in data.get("added_tokens") or []}


def _template(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8").strip()
    file = folder / "tokenizer_config.json"
    found = read_json(file).get("chat_template") if file.is_file() else None
    return found.strip() if isinstance(found, str) else str(found or "")


Progress = Callable[[str, int, int], None]
"""Called with what is done, and what is finished and planned of it."""


@dataclass(frozen=True)
class ModelComparison:
    """What `compare_models` gives.

    Args:
        base: name of the model before.
        tuned: name of the model after.
        weights: how far they moved; None when they were left out.
        families: held-out accuracy by task family.
        abilities: general abilities.
        warnings: what makes a figure hard to read, such as another chat template.
    """

    base: str
    tuned: str
    weights: WeightChange | None
    families: list[Family] = field(default_factory=list)
    abilities: list[Ability] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "base": self.base,
            "tuned": self.tuned,
            "warnings": self.warnings,
            "weights": None if self.weights is None else self.weights.to_dict(),
            "held_out": [family.to_dict() for family in self.families],
            "general": [ability.to_dict() for ability in self.abilities],
        }

    def to_markdown(self) -> str:
        """A page in Markdown; its drawings are files that `write` puts beside it."""
        return to_markdown(self._blocks())

    def to_html(self) -> str:
        """A page that needs nothing else, drawings included."""
        return to_html(self._blocks(), page.TITLE)

    def __str__(self) -> str:
        return page.to_text(self._blocks())

    def write(self, out: str | Path) -> Path:
        """Write ``compare.json``, ``compare.md``, ``compare.html`` and the drawings.

        Args:
            out: a folder; made when it does not exist.

        Returns:
            The HTML page.
        """
        folder = Path(out)
        write_json(folder / "compare.json", self.to_dict())
        for block in self._blocks():
            if isinstance(block, Figure):
                (folder / block.file).write_text(block.svg + "\n", encoding="utf-8")
        (folder / "compare.md").write_text(self.to_markdown(), encoding="utf-8")
        target = folder / "compare.html"
        target.write_text(self.to_html(), encoding="utf-8")
        return target

    def _blocks(self) -> list[Block]:
        return page.blocks(
            self.base, self.tuned, self.weights, self.families, self.abilities, self.warnings
        )


def compare_models(
    base: str | Path,
    tuned: str | Path,
    *,
    weights: bool = True,
    before: Sequence[str | Path] = (),
    after: Sequence[str | Path] = (),
    envs: Sequence[str] = (),
    env_args: Mapping[str, Any] | None = None,
    policy_args: Mapping[str, Any] | None = None,
    episodes: int | None = None,
    lm_eval: Sequence[str] = (),
    limit: int | None = None,
    lm_eval_args: Mapping[str, Any] | None = None,
    lm_eval_include: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compare a model with what training made of it.

    Args:
        base: folder, hub id in the cache, or adapter folder of the model before.
        tuned: the same, after; an adapter stands on ``base``.
        weights: compare them, too.
        before: run folders of the base, evaluations of a self-training run, or the folder of one.
        after: the same of the tuned model.
        envs: environments that both models play now.
        env_args: arguments of each of them.
        policy_args: arguments of `toolgym.policies.local.transformers.TransformersPolicy`; greedy
            unless they name a temperature.
        episodes: of each environment; None: every task.
        lm_eval: tasks of ``lm-eval``.
        limit: documents of each such task; None: all.
        lm_eval_args: further arguments of ``lm_eval.simple_evaluate``.
        lm_eval_include: folder of ``lm-eval`` task files of your own.
        seed: of the bootstrap, and of the task order of ``envs``.
        out: folder of the pages and of the episodes of ``envs``; None: nothing is written.
        progress: see `Progress`.

    Raises:
        MissingFileError: a model or run that is not there.
        BadInputError: the same model twice, models or runs that cannot be compared, or ``out``
            inside a model.
        MissingExtraError: ``lm-eval`` or, to play, ``train`` is not installed.
    """
    models = open_models(base, tuned, weights=weights)
    # What is wrong is told before minutes of work.
    warnings = [] if not weights else tokenizer_notes(*map(_tokenizer_folder, models))
    _check(models, before, after, out)
    pairs = [(find_runs(before, first=list(before) == list(after)), find_runs(after))]
    for env in envs:
        make_env(env, env_args).close()
    if lm_eval:
        require_extra("lm_eval", "lm-eval")
    tell = progress or (lambda what, done, planned: None)
    change = weight_change(*models, progress=partial(tell, "weights")) if weights else None
    if envs:
        play = partial(play_both, env_args=env_args, policy_args=policy_args, episodes=episodes)
        runs = None if out is None else Path(out) / "runs"
        pairs.append(play(models, envs, seed=seed, out=runs, progress=tell))
    families: list[Family] = []
    for old, new in pairs:
        if old or new:
            found, notes = compare_families(old, new, models, seed=seed)
            families, warnings = families + found, warnings + notes
    abilities = []
    if lm_eval:
        evaluate = partial(compare_abilities, arguments=lm_eval_args, include=lm_eval_include)
        abilities = evaluate(models, lm_eval, limit=limit, progress=lambda what: tell(what, 0, 1))
    made = ModelComparison(str(base), str(tuned), change, families, abilities, warnings)
    if out is not None:
        made.write(out)
    return made


def _tokenizer_folder(model: Checkpoint) -> Path:
    """An adapter may be saved without a tokenizer: then it is its base's."""
    if model.base is not None and not (model.folder / "tokenizer.json").is_file():
        return model.base.folder
    return model.folder


def _check(
    models: Sequence[Checkpoint],
    before: Sequence[str | Path],
    after: Sequence[str | Path],
    out: str | Path | None,
) -> None:
    if bool(before) != bool(after):
        given, missing = ("before", "after") if before else ("after", "before")
        raise BadInputError(
            f"runs {given} the training were named, but none {missing} it: name both, or let both "
            "models play now with an environment"
        )
    for model in models:
        if out is not None and model.folder.resolve() in (
            here := Path(out).resolve(),
            *here.parents,
        ):
            raise BadInputError(
                f"{str(out)!r} lies in the model {model.name!r}: what is written there would "
                "change the model's fingerprint; choose another folder"
            )

"""Build the miniature's base model once and keep it in a cache."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from toolgym._util.jsonl import write_json
from toolgym._util.workfolder import build_folder, move_in
from toolgym.miniature.demonstrations import copy_drill, demonstration
from toolgym.miniature.model import Checkpoint, build_model, build_tokenizer
from toolgym.miniature.preset import BaseSettings
from toolgym.miniature.pretrain import Progress, pretrain
from toolgym.miniature.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RECIPE: Final = 2
"""Raise it when world, demonstrations, model or training change: it makes older bases unused."""

CARD: Final = "miniature.json"
SHOWN_TO_TOKENIZER: Final = 4000
REPLY_TOKENS: Final = 64


def base_key(seed: int = 0, settings: BaseSettings | None = None) -> str:
    """The name of a base's folder in the cache: a hash of recipe, seed and settings."""
    kept = {"recipe": RECIPE, "seed": seed, **asdict(settings or BaseSettings())}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return f"miniature-{digest[:12]}"


def build_base(
    folder: str | Path,
    seed: int = 0,
    settings: BaseSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """The folder of the base model: from the cache, or trained now (minutes on 2 cores).

    The result loads with `AutoModelForCausalLM.from_pretrained` and
    `AutoTokenizer.from_pretrained`. It appears whole or not at all; an interrupted build leaves a
    hidden folder from which the next call goes on; whoever comes second waits for the first.
    Set `OMP_WAIT_POLICY=PASSIVE` before torch is imported: with it two threads are not slowed down
    by other programs.

    Args:
        folder: the cache; it is made if it is not there, and may hold many bases.
        seed: decides world, demonstrations and weights.
        settings: sizes and steps; `BaseSettings.tiny()` makes an untrained one in seconds.
        progress: called about every ten steps; not called when the cache has the base.

    Returns:
        The base's own folder inside `folder`.

    Raises:
        MissingExtraError: torch or transformers are not installed.
        PretrainingError: the model did not learn enough within the caps of `settings`.
    """
    settings = settings or BaseSettings()
    cache = Path(folder)
    target = cache / base_key(seed, settings)
    if (target / CARD).is_file():
        return target
    with build_folder(target) as work:
        if (target / CARD).is_file():
            return target
        made, checkpoint = work / "model", Checkpoint(work / "checkpoint")
        shutil.rmtree(made, ignore_errors=True)
        _build(made, seed, settings, progress, checkpoint)
        move_in(made, target)
    return target


def _build(
    folder: Path,
    seed: int,
    settings: BaseSettings,
    progress: Callable[[Progress], None] | None,
    checkpoint: Checkpoint,
) -> None:
    world = World(seed)
    tokenizer = _tokenizer(world, seed, settings)
    model = build_model(
        tokenizer, hidden=settings.hidden, layers=settings.layers, heads=settings.heads, seed=seed
    )
    accuracy = pretrain(model, tokenizer, world, settings, seed, progress, checkpoint)
    model.generation_config.max_new_tokens = REPLY_TOKENS
    model.generation_config.do_sample = True
    model.generation_config.top_k = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "about": "toolgym's miniature: synthetic world, from scratch, deliberately mixed behaviour",
        "recipe": RECIPE,
        "seed": seed,
        "settings": asdict(settings),
        "parameters": model.num_parameters(),
        "tool_accuracy": round(accuracy, 4),
    }
    write_json(folder / CARD, card)


def _tokenizer(world: World, seed: int, settings: BaseSettings) -> PreTrainedTokenizerFast:
    rng = random.Random(f"tokenizer-{seed}")
    chats = [
        demonstration(world, world.problem(rng, "demo"), rng)[1] for _ in range(SHOWN_TO_TOKENIZER)
    ]
    chats += [copy_drill(rng) for _ in range(SHOWN_TO_TOKENIZER // 4)]
    return build_tokenizer(
        (turn["content"] for chat in chats for turn in chat), settings.vocabulary
    )

"""Before a self-training run begins or goes on: is everything right, and is it the same run?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, write_json
from toolgym._util.workfolder import same_settings
from toolgym.data.conditions import named, read_conditions
from toolgym.errors import UnknownNameError
from toolgym.policies.local.models import require_whole
from toolgym.selftrain.environments import places
from toolgym.selftrain.settings import SelfTrainSettings, TrainSettings
from toolgym.training import _trl
from toolgym.training.config import Common, make_options
from toolgym.training.output import FREE

__all__ = ["check", "remember"]

# How episodes are played, which does not decide what comes of them.
_PLAYING = ("sampling.batch_size", "sampling.cache_gib", "sampling.concurrency")
_BY_METHOD = {"sft": "train", "dpo": "dpo", "grpo": "grpo"}


def check(settings: SelfTrainSettings) -> None:
    """Find what a later stage would refuse, before hours were spent on the stages before it.

    Raises:
        UnknownNameError: an environment, tool, format, prompt, reward or metric that does not
            exist.
        BadInputError: an argument of an environment or of a training that cannot be used.
        MissingFileError: a model or a DeepSpeed configuration that is not there.
        MissingExtraError: TRL is missing or untested, or a package of ``report_to`` is missing.
    """
    if settings.model != "miniature":
        require_whole(settings.model)
    places(settings)
    try:
        read_conditions(settings.filter.where, [])
    except UnknownNameError:
        recorded = {
            name for e in settings.environments for name in dict(e.args.get("reward") or {})
        }
        if not set(named(settings.filter.where)) & recorded:
            raise
    if not settings.rounds:
        return
    _trl.check_version()
    for method in {settings.method(number) for number in range(1, settings.rounds + 1)}:
        chosen: TrainSettings = getattr(settings, _BY_METHOD[method])
        common: Any = {k: v for k, v in chosen.model_dump().items() if k in Common.__annotations__}
        make_options(rate=1e-6, lora_rate=1e-5, **common)


def remember(settings: SelfTrainSettings, out: Path) -> None:
    """Write the settings into the folder, or compare with those that are there.

    More rounds than before are welcome: a finished run goes on. So are settings that do not decide
    the result, and those of a stage that no round has come to yet.

    Raises:
        RunMismatchError: the folder was begun with other settings; the first differing key is
            named.
    """
    file = out / "settings.json"
    now = settings.model_dump(mode="json")
    before = read_json(file) if file.is_file() else now
    free = [key for key in now if _not_yet_used(key, before, out)]
    free += ["rounds"] * (before.get("rounds", 0) <= now["rounds"])
    same_settings(out, before, now, free=[*free, *_PLAYING, *FREE])
    write_json(file, now)


def _not_yet_used(key: str, before: Mapping[str, Any], out: Path) -> bool:
    """Whether a key is of a stage that no round has begun: then it may still be changed."""
    begun: Mapping[str, Callable[[Path], bool]] = {
        "train": lambda folder: (folder / "training").exists(),
        "grpo": lambda folder: (folder / "training").exists(),
        "dpo": lambda folder: _chosen(folder) or (folder / "without-tools").exists(),
        "filter": _chosen,
    }
    if key not in begun:
        return False
    methods = list(before.get("methods", ()))
    for number in range(1, int(before.get("rounds", 0)) + 1):
        method = methods[min(number, len(methods)) - 1]
        used = key == "filter" or _BY_METHOD[method] == key
        if used and begun[key](out / f"round-{number}"):
            return False
    return True


def _chosen(folder: Path) -> bool:
    return (folder / "selection" / "done.json").exists()

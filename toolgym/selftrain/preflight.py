"""Before a self-training run: what it would do and need, is everything right, is it the same run?

Nothing is loaded or fetched here, and nothing but the settings is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import read_json, write_json
from toolgym._util.optional import require_extra
from toolgym._util.workfolder import same_settings
from toolgym.data.conditions import compared_names, read_conditions
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.policies.local.models import require_whole, resolve_dtype
from toolgym.registry import MODELS
from toolgym.rollouts.playing import spec_of
from toolgym.selftrain.environments import Places, places
from toolgym.selftrain.judging import check_judge
from toolgym.selftrain.sampling import SamplingSettings
from toolgym.selftrain.settings import SelfTrainSettings, own_model
from toolgym.training.fitting import bounded
from toolgym.training.loop import check_version
from toolgym.training.memory import (
    Memory,
    Shape,
    TrainingSize,
    find_shape,
    fitting,
    playing_memory,
    shape_of,
    training_memory,
)
from toolgym.training.output import FREE

__all__ = ["Plan", "RoundPlan", "check", "plan", "remember"]

_SMALL = 200_000_000  # parameters that are trained without a GPU
# How episodes are played and judged, which does not decide what comes of them.
_PLAYING = (
    *("judge_by", "sampling.batch_size", "sampling.cache_gib", "sampling.concurrency"),
    *(f"sampling.server.{name}" for name in ("program", "start_seconds", "restarts")),
)
_BY_METHOD = {"sft": "train", "dpo": "dpo", "grpo": "grpo"}


def _check_narrow(settings: SelfTrainSettings) -> None:
    narrow, guided = settings.sampling.narrow, settings.sampling.guided
    if narrow.said and guided == "never":
        raise BadInputError(f"narrow ({narrow}) is for guided replies: set sampling.guided, too")
    for environment in settings.environments if narrow.call_first or narrow.quoted else ():
        steps = [{**environment.args, **given}.get("max_steps") for given in environment.practices]
        if 1 in steps:
            raise BadInputError(
                f"environment {environment.label!r} has max_steps=1, and narrow ({narrow}) wants a "
                "call before an answer: no episode would be answered; allow two steps"
            )


def check(settings: SelfTrainSettings) -> None:
    """Find what a later stage would refuse, before hours were spent on the stages before it.

    Raises:
        UnknownNameError: an environment, tool, format, prompt, reward or metric that does not
            exist.
        BadInputError: an argument of an environment or of a training that cannot be used.
        MissingFileError: a model, a server's program or a DeepSpeed configuration that is not
            there.
        MissingExtraError: TRL is missing or untested, or a package of ``report_to``, of
            ``sampling.guided`` or of ``sampling.engine`` is missing.
    """
    if own_model(settings.model) is None:
        require_whole(settings.model)
    for dtype in filter(None, (settings.sampling.dtype, settings.sampling.practice_dtype)):
        resolve_dtype(dtype)
    places(settings)
    if settings.sampling.engine != "local":
        _check_server(settings.sampling)
    if settings.sampling.guided != "never" and settings.sampling.engine == "local":
        require_extra("llguidance", "guide")
    _check_narrow(settings)
    check_judge(settings.judge_by)
    recorded = {name for e in settings.environments for name in dict(e.args.get("reward") or {})}
    for where in {settings.filters(number).where for number in range(1, settings.rounds + 1)}:
        try:
            read_conditions(where, [])
        except UnknownNameError:
            if not set(compared_names(where)) & recorded:
                raise
    if not settings.rounds:
        return
    check_version()
    if "grpo" in map(settings.method, range(1, settings.rounds + 1)):
        if settings.sampling.engine == "command" and not settings.sampling.serving.reload:
            raise BadInputError(
                "GRPO plays with new weights in every update, and the server of engine: command "
                "would keep its old ones: say in server.reload which requests make it load them, "
                "or set engine: local"
            )
        if settings.sampling.engine != "local" and settings.sampling.serving.policy == "endpoint":
            raise BadInputError(
                "GRPO learns from exact tokens: set server.policy: token-endpoint, or engine: local"
            )
        for environment in settings.environments:
            if environment.train is not None and spec_of(environment.id).additional_wrappers:
                raise BadInputError(
                    f"GRPO cannot play {environment.id!r} with the wrappers of its registration: "
                    "practise in an environment without them, or train by SFT or DPO"
                )
    for method in {settings.method(number) for number in range(1, settings.rounds + 1)}:
        settings.training(method).resolve()


def _check_server(sampling: SamplingSettings) -> None:
    """Find what the start of a server would refuse.

    Raises:
        MissingFileError: its program is not there.
        MissingExtraError: there is no client for it.
    """
    require_extra("aiohttp", "endpoint")
    program = sampling.command[0]
    if shutil.which(program) is None:
        where = f"sampling.server.{'command' if sampling.engine == 'command' else 'program'}"
        raise MissingFileError(
            f"the server's program {program!r} is not found; install it in an environment of its "
            f"own (docs/self-training.md) and name it by its path in {where}"
        )


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
    if settings.curriculum is None:
        del now["curriculum"]
    if settings.sampling.practice_dtype is None:
        del now["sampling"]["practice_dtype"]
    if settings.sampling.engine == "local":  # as folders say that were begun before there was more
        del now["sampling"]["engine"], now["sampling"]["server"]
    before = read_json(file) if file.is_file() else now
    free = [key for key in now if _not_yet_used(key, before, now, out)]
    free += ["rounds"] * (before.get("rounds", 0) <= now["rounds"])
    same_settings(out, before, now, free=[*free, *_PLAYING, *FREE])
    write_json(file, now)


def _not_yet_used(key: str, before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> bool:
    """Whether a key is of a stage that no round has begun: then it may still be changed."""
    begun: Mapping[str, Callable[[Path], bool]] = {
        "train": lambda folder: (folder / "training").exists(),
        "grpo": lambda folder: (folder / "training").exists(),
        "dpo": lambda folder: _chosen(folder) or (folder / "without-tools").exists(),
        "filter": _chosen,
        "learn_as": _chosen,
    }
    if key not in begun:
        return False
    methods = list(before.get("methods", ()))
    for number in range(1, int(before.get("rounds", 0)) + 1):
        method = methods[min(number, len(methods)) - 1]
        used = key == "learn_as" or _BY_METHOD[method] == key
        if key == "filter":
            used = _of_round(before.get(key), number) != _of_round(now[key], number)
        if used and begun[key](out / f"round-{number}"):
            return False
    return True


def _of_round(filters: Any, number: int) -> Any:
    return filters[min(number, len(filters)) - 1] if isinstance(filters, list) else filters


def _chosen(folder: Path) -> bool:
    return (folder / "selection" / "done.json").exists()


@dataclass(frozen=True)
class RoundPlan:
    """One round; every number is an upper bound, None where the tasks are not known here.

    Args:
        number: from 1.
        method: how it trains.
        practice: episodes that are played and recorded first.
        rows: of training: episodes, pairs, or episodes played while it trains.
        steps: optimiser steps.
        sampled: tokens written by the model.
        trained: tokens of the rows, over all epochs.
    """

    number: int
    method: str
    practice: int | None
    rows: int | None
    steps: int | None
    sampled: int | None
    trained: int | None


@dataclass(frozen=True)
class Plan:
    """A run before it is begun.

    Args:
        model: as the settings name it.
        shape: of the model; None where its configuration is not here and its name not known.
        gpu: whether memory was computed for a GPU or for a CPU.
        places: the environments.
        rounds: what each does.
        evaluations: how often the held-out questions are played, sampled and greedily counted
            as two, the baseline without tools included.
        memory: peak by what is done, ``playing`` and the methods.
        needs: what is not on this machine, or will be fetched.
    """

    model: str
    shape: Shape | None
    gpu: bool
    places: list[Places]
    rounds: list[RoundPlan]
    evaluations: int
    memory: dict[str, Memory] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)

    def to_row(self) -> dict[str, Any]:
        """Plain JSON values; memory in bytes, GPUs in GiB."""
        memory = {
            name: {**asdict(peak), "total": peak.total, "fits_gib": fitting(peak.total)}
            for name, peak in self.memory.items()
        }
        shape = None if self.shape is None else asdict(self.shape)
        if shape is not None:
            del shape["linears"]
        return {**asdict(self), "shape": shape, "memory": memory}


def plan(settings: SelfTrainSettings) -> Plan:
    """Count what `toolgym.selftrain.loop.selftrain` would do.

    Args:
        settings: of the run.

    Raises:
        UnknownNameError: an environment, tool, format, prompt or reward that does not exist.
        BadInputError: an argument of an environment that cannot be used.
        MissingExtraError: torch or transformers is missing.
    """
    torch = require_extra("torch", "train")
    shape = _shape(settings)
    gpu = torch.cuda.is_available() or shape is None or shape.parameters >= _SMALL
    found = places(settings)
    needs = list(dict.fromkeys(missing for place in found for missing in place.needs))
    if shape is None:
        needs.insert(0, f"model {settings.model!r}: neither a folder nor in the hub's cache, and "
                     "its name is not known: its memory is not estimated")  # fmt: skip
    elif shape.source == "known architecture":
        size = shape.parameters * shape.saved / 1e9
        known = f"; fetch it with: toolgym model fetch {settings.model}"
        fetching = known if settings.model in MODELS else f"; {size:.1f} GB to fetch"
        needs.insert(0, f"model {settings.model!r}: not on this machine{fetching}")
    return Plan(
        model=settings.model,
        shape=shape,
        gpu=gpu,
        places=found,
        rounds=[_round(settings, found, number) for number in range(1, settings.rounds + 1)],
        evaluations=2 * (settings.rounds + 1) + settings.baseline,
        memory={} if shape is None else _memory(settings, shape, gpu),
        needs=needs,
    )


def _shape(settings: SelfTrainSettings) -> Shape | None:
    own = own_model(settings.model)
    if own is None:
        return find_shape(settings.model)
    return shape_of(own.configuration(settings.build), "built by the run")


def _round(settings: SelfTrainSettings, found: list[Places], number: int) -> RoundPlan:
    method = settings.method(number)
    practised = [place for place in found if place.practise is not None]
    counts = [None if (t := place.practised(number)) is None else t.tasks for place in practised]
    tasks = None if None in counts else sum(count for count in counts if count is not None)
    if settings.curriculum is not None:
        tasks = settings.curriculum.tasks
    turns = max((place.turns for place in practised), default=1)
    reply = settings.sampling.max_new_tokens
    train = settings.training(method)
    if tasks is None:
        return RoundPlan(number, method, None, None, train.max_updates, None, None)
    samples = settings.samples_per_task if settings.practises(method) else 0
    beside = settings.dpo.without_tools if method == "dpo" else 0
    # Without tools an episode has one turn.
    sampled = tasks * (samples * turns + beside) * reply
    rows, epochs = _rows(settings, number, tasks, samples + beside, turns), train.epochs
    steps = ceil(epochs * ceil(rows / train.batch_size))
    if train.max_updates is not None:
        steps = train.max_updates
        epochs = steps * train.batch_size / max(1, rows)
    if method == "grpo":
        rows = steps * train.batch_size
        sampled += rows * (1 if _credit(settings) == "turn" else turns) * reply
    sides = 2 if method == "dpo" else 1
    trained = rows * sides * train.max_length * (1 if method == "grpo" else epochs)
    practice = tasks * (samples + beside)
    return RoundPlan(number, method, practice, rows, steps, sampled, ceil(trained))


def _rows(settings: SelfTrainSettings, number: int, tasks: int, samples: int, turns: int) -> int:
    """Most rows that a round's practice can give; for GRPO episodes of one pass."""
    method, kept = settings.method(number), settings.filters(number)
    if method == "sft":
        most = (kept.per_task, kept.best_of, samples)
        return tasks * min(count for count in most if count is not None)
    if method == "dpo":
        diverging = settings.dpo.pairing == "first_divergence"
        most_pairs = samples - 1 if diverging else samples // 2
        limit = settings.dpo.per_task
        return tasks * (most_pairs if limit is None else min(limit, most_pairs))
    starts = tasks * (samples * turns if settings.grpo.starts == "prefixes" else 1)
    return starts * settings.grpo.generations


def _credit(settings: SelfTrainSettings) -> str:
    return settings.grpo.credit or ("turn" if settings.grpo.starts == "prefixes" else "episode")


def _bytes(dtype: str, shape: Shape, gpu: bool) -> int:
    """Of a weight that plays."""
    quick = dtype in ("fast", "fastest")
    dtype = "bfloat16" if gpu and quick else resolve_dtype(dtype)
    # Weights in 8 bits are made of those in float32.
    return {"float32": 4, "int8": 4, "bfloat16": 2, "float16": 2}.get(dtype, shape.saved)


def _memory(settings: SelfTrainSettings, shape: Shape, gpu: bool) -> dict[str, Memory]:
    sampling = settings.sampling
    reply = sampling.max_new_tokens
    positions = shape.positions or 2**31
    longest = min(sampling.max_prompt_tokens + reply, positions)
    wanted = (sampling.dtype, sampling.practice_dtype or sampling.dtype)
    saved = max(_bytes(dtype, shape, gpu) for dtype in wanted)
    play = (shape, sampling.batch_size, longest - reply, reply)
    kept = sampling.cache_gib * 2**30
    found: dict[str, Memory] = {}
    if sampling.engine == "local":  # a server takes what its own options say
        found["playing"] = playing_memory(*play, width=saved, kept=kept)
    for method in dict.fromkeys(settings.method(n) for n in range(1, settings.rounds + 1)):
        train = settings.training(method)
        half = gpu if train.bf16 is None else train.bf16
        if half == "fast":
            half = gpu or resolve_dtype("fast") == "bfloat16"
        checkpointing = train.gradient_checkpointing
        at_once = 1 if gpu else train.batch_size
        size = TrainingSize(
            method,
            rows=min(train.device_batch_size or at_once, train.batch_size),
            length=longest if method == "grpo" else min(train.max_length, positions),
            lora=16 if train.lora is True else int(train.lora),
            checkpointing=gpu if checkpointing is None else checkpointing,
            half=half,
            reference=method == "dpo" or (method == "grpo" and settings.grpo.beta > 0),
        )
        chosen = gpu or train.device_batch_size is not None
        peak = training_memory(shape, size) if chosen else bounded(shape, size)
        if method == "grpo" and sampling.engine == "local":
            # With adapters nothing is kept: their model makes its inputs in its own way.
            waiting = 0.0 if size.lora else kept
            width = 2 if half else 4
            playing = playing_memory(*play, width=width, kept=waiting, beside=peak)
            peak = max(peak, playing, key=lambda memory: memory.total)
        found[method] = peak
    return found

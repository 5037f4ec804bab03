"""The miniature as a job: its base model, built once and kept, its size and where it practises."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolgym._util.jsonl import write_json
from toolgym._util.workfolder import build_folder, move_in
from toolgym.errors import BadInputError, explain
from toolgym.miniature import errands
from toolgym.miniature.demonstrations import Lessons, copy_drill, lessons
from toolgym.miniature.model import (
    BaseSettings,
    Checkpoint,
    build_model,
    build_tokenizer,
    configuration,
)
from toolgym.miniature.pretrain import Progress, pretrain
from toolgym.miniature.world import World, parts
from toolgym.selftrain.sampling import SamplingSettings
from toolgym.selftrain.settings import (
    EnvironmentSettings,
    FilterSettings,
    OwnModel,
    SelfTrainSettings,
)
from toolgym.training.config import SftConfig

__all__ = ["ErrandsPreset", "MiniaturePreset"]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RECIPE: Final = 2
"""Raise it when world, demonstrations, model or training change: it makes older bases unused."""

CARD: Final = "miniature.json"
SHOWN_TO_TOKENIZER: Final = 4000
REPLY_TOKENS: Final = 64


def base_key(seed: int = 0, settings: BaseSettings | None = None, job: str = "miniature") -> str:
    """The name of a base's folder in the cache: a hash of recipe, seed and settings."""
    kept = {"recipe": RECIPE, "seed": seed, **asdict(settings or BaseSettings())}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return f"{job}-{digest[:12]}"


def build_base(
    folder: str | Path,
    seed: int = 0,
    settings: BaseSettings | None = None,
    progress: Callable[[Progress], None] | None = None,
    taught: Lessons | None = None,
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
        taught: what it is shown; the questions of the seed's world if None.

    Returns:
        The base's own folder inside `folder`.

    Raises:
        MissingExtraError: torch or transformers are not installed.
        PretrainingError: the model did not learn enough within the caps of `settings`.
    """
    settings, taught = settings or BaseSettings(), taught or lessons(World(seed))
    cache = Path(folder)
    target = cache / base_key(seed, settings, taught.job)
    if (target / CARD).is_file():
        return target
    with build_folder(target) as work:
        if (target / CARD).is_file():
            return target
        made, checkpoint = work / "model", Checkpoint(work / "checkpoint")
        shutil.rmtree(made, ignore_errors=True)
        _build(made, taught, seed, settings, progress, checkpoint)
        move_in(made, target)
    return target


def _build(
    folder: Path,
    taught: Lessons,
    seed: int,
    settings: BaseSettings,
    progress: Callable[[Progress], None] | None,
    checkpoint: Checkpoint,
) -> None:
    tokenizer = _tokenizer(taught, seed, settings)
    model = build_model(
        tokenizer, hidden=settings.hidden, layers=settings.layers, heads=settings.heads, seed=seed
    )
    accuracy = pretrain(model, tokenizer, taught, settings, seed, progress, checkpoint)
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


def _tokenizer(taught: Lessons, seed: int, settings: BaseSettings) -> PreTrainedTokenizerFast:
    rng = random.Random(f"tokenizer-{seed}")
    chats = [taught.shown(rng) for _ in range(SHOWN_TO_TOKENIZER)]
    chats += [copy_drill(rng) for _ in range(SHOWN_TO_TOKENIZER // 4)]
    return build_tokenizer(
        (turn["content"] for chat in chats for turn in chat), settings.vocabulary
    )


class _Build(BaseModel):
    """Options of the preset.

    Args:
        seed: of its world and its training.
        train: questions to practise on, over all environments.
        test: held-out questions, over all environments.
        base: sizes and steps, as in `BaseSettings`; ``{"tiny": true}`` is a model of a few steps
            for trying the chain.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    train: int = Field(default=500, ge=5)
    test: int = Field(default=500, ge=5)
    base: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, build: Mapping[str, Any]) -> _Build:
        try:
            return cls.model_validate(dict(build))
        except ValidationError as error:
            raise BadInputError(f"build: {explain(error, cls)}") from error

    @property
    def sizes(self) -> BaseSettings:
        options = dict(self.base)
        try:
            return BaseSettings.tiny() if options.pop("tiny", False) else BaseSettings(**options)
        except TypeError as error:
            raise BadInputError(f"build.base: {error}") from error


class MiniaturePreset(OwnModel):
    """The embedded default: a Llama of a million parameters, built and trained on a CPU."""

    caution = (
        "The miniature's world is generated: its people and entities are invented. Held-out "
        "questions have other numbers and entities than those of practice, in the same few "
        "phrasings, and the base model was shown right tool use in part of its pre-training. The "
        "figures show that the chain works. They say nothing about questions that people ask, or "
        "about larger models."
    )

    def settings(
        self, model: str | None = None, *, corpus: str | None = None, seed: int = 0
    ) -> SelfTrainSettings:
        """Two rounds of SFT on its own world.

        Raises:
            BadInputError: a model or a corpus, which it makes itself.
        """
        if model is not None or corpus is not None:
            raise BadInputError("the miniature makes its model and its corpus itself: name neither")
        return SelfTrainSettings(
            model="miniature",
            rounds=2,
            samples_per_task=8,
            seed=seed,
            sampling=SamplingSettings(max_new_tokens=48, batch_size=128, concurrency=256),
            filter=FilterSettings(per_task=4, dedupe="tokens"),
            train=SftConfig(epochs=2, batch_size=32, learning_rate=1e-3, max_length=512),
            build={"seed": seed} if seed else {},
        )

    def check(self, build: Mapping[str, Any]) -> None:
        """See `OwnModel.check`."""
        _ = _Build.read(build).sizes

    def build(
        self, build: Mapping[str, Any], folder: Path, tell: Callable[[str, int, int, str], None]
    ) -> tuple[str, str]:
        """See `OwnModel.build`; minutes on two cores."""

        def told(done: Any) -> None:
            tell(done.stage, done.step, done.steps, f"loss {done.loss:.2f}")

        chosen = _Build.read(build)
        self.write(chosen, folder / "world")
        taught = self.lessons(chosen.seed)
        model = build_base(folder, chosen.seed, chosen.sizes, told, taught)
        return model.name, "world"

    def lessons(self, seed: int) -> Lessons:
        """What the base of a seed is shown."""
        return lessons(World(seed))

    def write(self, chosen: _Build, folder: Path) -> None:
        """Write what the environments read.

        Args:
            chosen: the options.
            folder: where to.
        """
        World(chosen.seed).write(folder, train=chosen.train, test=chosen.test)

    def environments(self, world: Path) -> list[EnvironmentSettings]:
        """Real environments, over the files of its world."""
        shared = {"prompt": "bare", "format": "react", "max_steps": 4}
        corpus = str(world / "passages.jsonl")
        search = {"corpus": corpus, "tools": ["WikipediaSearch", "Calculator"]}
        return [
            EnvironmentSettings(
                id=env_id,
                name=name,
                args=shared | extra,
                train={"tasks": str(world / f"{name}-train.jsonl")},
                test={"tasks": str(world / f"{name}-test.jsonl")},
                maker={"name": "miniature", "part": name, "world": str(world)},
            )
            for name, env_id, extra in (
                ("arithmetic", "ToolQA-GSM8K-v0", search),
                ("entities", "ToolQA-PopQA-v0", search),
                # Trained in together they need one reward: here the final answer's.
                ("scenarios", "ToolScenario-v0", {"reward": {"accuracy": 1.0}}),
            )
        ]

    def tasks(self, build: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """See `OwnModel.tasks`."""
        chosen = _Build.read(build)
        trained, tested = parts(chosen.train), parts(chosen.test)
        return {label: (trained[label], tested[label]) for label in trained}

    def configuration(self, build: Mapping[str, Any]) -> Any:
        """See `OwnModel.configuration`."""
        sizes = _Build.read(build).sizes
        return configuration(
            sizes.vocabulary, hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads
        )


class ErrandsPreset(MiniaturePreset):
    """The miniature in worlds with a state, half of whose errands need a question to the user."""

    caution = (
        "The errands' worlds are generated: their people and companies are invented. Held-out "
        "errands are about other people and companies than those of practice, in the same few "
        "phrasings, and the base model was shown right errands and right questions in part of its "
        "pre-training. The figures show that the chain works. They say nothing about other worlds, "
        "about users who are people, or about larger models."
    )

    def settings(
        self, model: str | None = None, *, corpus: str | None = None, seed: int = 0
    ) -> SelfTrainSettings:
        """Two rounds of SFT on the errands that it has done right.

        Raises:
            BadInputError: a model or a corpus, which it makes itself.
        """
        if model is not None or corpus is not None:
            raise BadInputError("the miniature makes its model and its worlds itself: name neither")
        return SelfTrainSettings(
            model=errands.JOB,
            rounds=2,
            samples_per_task=8,
            seed=seed,
            baseline=False,
            judge_by="goal_reached",
            sampling=SamplingSettings(max_new_tokens=32, batch_size=128, concurrency=128),
            filter=FilterSettings(where="goal_reached>=1", per_task=4, dedupe="tokens"),
            train=SftConfig(epochs=2, batch_size=32, learning_rate=1e-3, max_length=512),
            build={"seed": seed} if seed else {},
        )

    def lessons(self, seed: int) -> Lessons:
        """See `MiniaturePreset.lessons`."""
        return errands.lessons(seed)

    def write(self, chosen: _Build, folder: Path) -> None:
        """See `MiniaturePreset.write`."""
        errands.write(World(chosen.seed), folder, train=chosen.train, test=chosen.test)

    def environments(self, world: Path) -> list[EnvironmentSettings]:
        """Both, each over the files of its errands."""
        return [
            EnvironmentSettings(
                id="ToolScenario-v0",
                name=label,
                args={"prompt": "bare", "format": "react", "max_steps": 6},
                train={"tasks": str(world / f"{label}-train.jsonl")},
                test={"tasks": str(world / f"{label}-test.jsonl")},
            )
            for label in errands.FAMILIES
        ]

    def tasks(self, build: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """See `OwnModel.tasks`."""
        chosen = _Build.read(build)
        trained, tested = errands.halves(chosen.train), errands.halves(chosen.test)
        return {label: (trained[label], tested[label]) for label in errands.FAMILIES}

"""Everything that decides a self-training run, in one validated model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from toolgym._util.jsonl import require_file
from toolgym._util.settingsfile import read_settings
from toolgym.data.chat import LearnAs
from toolgym.errors import BadInputError, explain
from toolgym.registry import PRESETS
from toolgym.selftrain.curriculum import CurriculumSettings
from toolgym.selftrain.sampling import SamplingSettings
from toolgym.training.config import DpoConfig, GroupConfig, SftConfig

__all__ = [
    "SamplingSettings",
    *("EnvironmentSettings", "OwnModel", "Preset", "SelfTrainSettings", "load_settings"),
    *("of_round", "own_model", "preset"),
]


T = TypeVar("T")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Practice = Annotated[
    Annotated[dict[str, Any] | None, Tag("one")] | Annotated[list[dict[str, Any]], Tag("by round")],
    Discriminator(lambda given: "by round" if isinstance(given, list | tuple) else "one"),
]
"""Arguments for all rounds, or for one round each, of which the last go on."""


def of_round(several: Sequence[T], number: int) -> T:
    """What stands for a round, counted from 1; the last one goes on."""
    return several[min(number, len(several)) - 1]


class EnvironmentSettings(_Settings):
    """One environment of the run.

    Args:
        id: such as ``ToolQA-PopQA-v0``, registered.
        name: for folders and the report; default: the id.
        args: arguments of the environment, for training and evaluation alike.
        train: further arguments for practice, such as ``{"split": "train"}``; several: one mapping
            a round, the last one goes on; None: evaluate only.
        test: further arguments for evaluation; None: practise only.
        train_tasks: at most so many questions a round; None: all.
        test_tasks: at most so many held-out questions; None: all.
        maker: who makes its practice tasks under a ``curriculum``: a registered name, or a mapping
            of ``name`` and options.
    """

    id: str
    name: str = ""
    args: dict[str, Any] = Field(default_factory=dict)
    train: Practice = Field(default_factory=lambda: {"split": "train"})
    test: dict[str, Any] | None = Field(default_factory=lambda: {"split": "test"})
    train_tasks: int | None = Field(default=None, ge=1)
    test_tasks: int | None = Field(default=None, ge=1)
    maker: str | dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Name of its folders."""
        return self.name or self.id.rpartition(":")[2]

    @property
    def practices(self) -> list[dict[str, Any]]:
        """What ``train`` says for the rounds; nothing: it is evaluated only."""
        if self.train is None:
            return []
        return self.train if isinstance(self.train, list) else [self.train]

    def practice(self, number: int) -> dict[str, Any]:
        """What ``train`` says for a round, counted from 1, of an environment that practises."""
        return of_round(self.practices, number)


class FilterSettings(_Settings):
    """Which episodes are trained on, see `toolgym.data.filter.select`."""

    where: str | None = "accuracy>=1"
    tools: Literal["any", "only"] = "any"
    best_of: int | None = Field(default=None, ge=1)
    by: str | None = None
    per_task: int | None = Field(default=4, ge=1)
    dedupe: Literal["text", "tokens"] | None = "text"


Filters = Annotated[
    Annotated[FilterSettings, Tag("one")] | Annotated[list[FilterSettings], Tag("by round")],
    Discriminator(lambda given: "by round" if isinstance(given, list | tuple) else "one"),
]
"""One for all rounds, or one a round, of which the last goes on."""
Method = Literal["sft", "dpo", "grpo"]


class DpoSettings(DpoConfig):
    """How a round of DPO trains.

    Args:
        without_tools: further episodes of each question, played without tools, that may be the
            rejected side (arXiv 2502.05867 takes all of its rejected ones from there).
    """

    without_tools: int = Field(default=0, ge=0)


class GrpoSettings(GroupConfig):
    """How a round of GRPO trains; how it writes stands in ``sampling``.

    Args:
        starts: where episodes begin: at ``tasks``, or at the ``prefixes`` of episodes that the
            round practises first (arXiv 2508.08791).
        reward: names and weights; None: the environment's own.
    """

    starts: Literal["tasks", "prefixes"] = "tasks"
    reward: dict[str, Any] | None = None


class SelfTrainSettings(_Settings):
    """One self-training run.

    Args:
        model: a folder, a hub id, or a registered preset that builds one; default: the first.
        environments: where it practises and where it is evaluated; a preset that builds its model
            brings its own where they are left out.
        rounds: practise, filter, train, evaluate; 0 only evaluates.
        methods: how each round trains, ``sft``, ``dpo`` or ``grpo``; the last one goes on.
        begin_with: what a round trains: the ``last`` round's model, or the ``base``.
        baseline: play the held-out questions once without tools, so that the report can say where
            tools were needed.
        stop_when_worse: end after a round that made the held-out answers worse (paired sign test,
            p < 0.05, by the metric of ``judge_by``).
        judge_by: the metric that says whether a round was a gain: ``exact_match``, ``accuracy``,
            ``accuracy_paper``, ``token_f1``, ``Solve-F1`` and the like, or a registered reward.
            None: one that copying cannot raise, ``exact_match``, and ``Solve-F1`` where the tasks
            have sub-answers.
        samples_per_task: episodes of each question in a round.
        seed: fixes everything that is drawn.
        sampling: how the model writes.
        filter: what is kept; several: one a round, the last one goes on.
        learn_as: the prompt under which SFT and DPO learn what was practised, see
            `toolgym.data.chat.LearnAs`; None: the evaluation's, ``{}``: as it was played. GRPO
            learns while it plays.
        train: how a round of SFT trains, see `toolgym.training.config.SftConfig`.
        dpo: how a round of DPO does.
        grpo: how a round of GRPO does.
        build: options of the preset that builds the model.
        curriculum: practise on tasks that are made for it, see
            `toolgym.selftrain.curriculum.CurriculumSettings`; None: on the tasks that there are.
    """

    model: str = Field(default_factory=lambda: PRESETS.names()[0], min_length=1)
    environments: list[EnvironmentSettings] = Field(default_factory=list)
    rounds: int = Field(default=3, ge=0)
    methods: list[Method] = Field(default=["sft"], min_length=1)
    begin_with: Literal["last", "base"] = "last"
    baseline: bool = True
    stop_when_worse: bool = True
    judge_by: str | None = None
    samples_per_task: int = Field(default=8, ge=1)
    seed: int = 0
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    filter: Filters = Field(default_factory=FilterSettings)
    learn_as: LearnAs | None = None
    train: SftConfig = Field(default_factory=SftConfig)
    dpo: DpoSettings = Field(default_factory=DpoSettings)
    grpo: GrpoSettings = Field(default_factory=GrpoSettings)
    build: dict[str, Any] = Field(default_factory=dict)
    curriculum: CurriculumSettings | None = None

    def method(self, number: int) -> Method:
        """How a round trains, counted from 1."""
        return of_round(self.methods, number)

    def filters(self, number: int) -> FilterSettings:
        """What a round keeps, counted from 1."""
        if isinstance(self.filter, FilterSettings):
            return self.filter
        return of_round(self.filter, number)

    def practises(self, method: str) -> bool:
        """Whether a round of this method begins with recorded episodes."""
        return method != "grpo" or self.grpo.starts == "prefixes" or self.curriculum is not None

    def training(self, method: Method) -> SftConfig | DpoSettings | GrpoSettings:
        """What a method is told."""
        sections = {"sft": self.train, "dpo": self.dpo, "grpo": self.grpo}
        return sections[method]  # type: ignore[return-value]

    @model_validator(mode="after")
    def _consistent(self) -> SelfTrainSettings:
        labels = [environment.label for environment in self.environments]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"two environments are named {twice!r}: give one another 'name'")
        bad = next((label for label in labels if not label or set(label) & set('/\\:*?"<>|')), None)
        if bad is not None:
            raise ValueError(f"environment name {bad!r} cannot be the name of a folder")
        empty = next((place.label for place in self.environments if place.train == []), None)
        if empty is not None:
            raise ValueError(
                f"'train' of environment {empty!r} is an empty list: give it one mapping, one a "
                "round, or null to evaluate only"
            )
        if self.filter == []:
            raise ValueError("'filter' is an empty list: give it one mapping, or one a round")
        if self.learn_as is not None and not {"sft", "dpo"} & set(self.methods):
            raise ValueError("'learn_as' is for episodes that SFT or DPO learns: GRPO plays live")
        if self.curriculum is not None and self.dpo.without_tools:
            raise ValueError("'dpo.without_tools' is not for a 'curriculum', which plays new tasks")
        own = own_model(self.model)
        if own is not None:
            own.check(self.build)
        elif self.build:
            raise ValueError("'build' goes with a model that the run builds, which this one is not")
        if own is not None and not self.environments:
            return self
        if all(environment.train is None for environment in self.environments):
            raise ValueError("no environment to practise in: give one a 'train'")
        if all(environment.test is None for environment in self.environments):
            raise ValueError("no environment to evaluate in: give one a 'test'")
        return self


class Preset(ABC):
    """A ready job of self-training. Plug-ins register theirs in `toolgym.registry.PRESETS`."""

    @abstractmethod
    def settings(
        self, model: str | None = None, *, corpus: str | None = None, seed: int = 0
    ) -> SelfTrainSettings:
        """The settings of the job.

        Args:
            model: a folder or a hub id; None for the job's own.
            corpus: what its searches look in; None for what it says itself.
            seed: of everything that is drawn.
        """


class OwnModel(Preset):
    """A preset whose model the run builds itself: its name stands as `SelfTrainSettings.model`."""

    caution: str
    """What the report says of such a model."""

    @abstractmethod
    def check(self, build: Mapping[str, Any]) -> None:
        """Refuse options that `build` cannot use.

        Raises:
            BadInputError: an unknown option or a wrong value.
        """

    @abstractmethod
    def build(
        self, build: Mapping[str, Any], folder: Path, tell: Callable[[str, int, int, str], None]
    ) -> tuple[str, str]:
        """Build the model, and what its environments read; goes on from what a kill left.

        Args:
            build: the options.
            folder: where to.
            tell: told the stage, what is done, what is planned, and a note.

        Returns:
            The folders of the model and of what the environments read, both below ``folder``.
        """

    @abstractmethod
    def environments(self, world: Path) -> list[EnvironmentSettings]:
        """Those of a run that names none.

        Args:
            world: the second folder of `build`.
        """

    @abstractmethod
    def tasks(self, build: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """By label of an environment, how many tasks it practises on and is evaluated on."""

    @abstractmethod
    def configuration(self, build: Mapping[str, Any]) -> Any:
        """The model's configuration, as ``transformers`` has it."""


def own_model(name: str) -> OwnModel | None:
    """The preset that builds the model of this name, or None: then it is a folder or a hub id."""
    found = preset(name) if name in PRESETS else None
    return found if isinstance(found, OwnModel) else None


def preset(name: str) -> Preset:
    """A registered preset.

    Raises:
        UnknownNameError: there is none of this name.
        BadInputError: what is registered makes something else.
    """
    made = PRESETS.get(name)()
    if not isinstance(made, Preset):
        raise BadInputError(f"preset {name!r} is registered, but makes {made!r:.80}, not a Preset")
    return made


def load_settings(
    settings: SelfTrainSettings | Mapping[str, Any] | str | Path,
) -> SelfTrainSettings:
    """Settings from a model, plain data, or a YAML or JSON file.

    In a file ``${NAME}`` stands for the environment variable, so that a recipe can name data that
    lies elsewhere on every machine.

    Raises:
        MissingFileError: no such file.
        MissingExtraError: a YAML file, and no YAML reader is installed.
        BadInputError: an unknown key (near ones are named), a value that does not fit, or a file
            names an environment variable that is not set.
    """
    if isinstance(settings, SelfTrainSettings):
        return settings
    where = "settings"
    if isinstance(settings, str | Path):
        where = f"settings file {str(settings)!r}"
        settings = read_settings(require_file(settings, "settings file"))
    if not isinstance(settings, Mapping):
        raise BadInputError(f"{where} must be a mapping, not {type(settings).__name__}")
    try:
        return SelfTrainSettings.model_validate(dict(settings))
    except ValidationError as error:
        raise BadInputError(f"{where}: {explain(error, SelfTrainSettings)}") from error

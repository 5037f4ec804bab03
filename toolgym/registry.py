"""Registries hold strings and import nothing until a name is used; plug-ins fill them.

A plug-in is a function without arguments that adds names to the registries. Built-in environments
and rewards come in through the same door (``BUILT_IN``) as those of other packages, which name
theirs in the entry-point group ``toolgym.plugins``.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium as gym

from toolgym.errors import BadInputError, MissingFileError, UnknownNameError

__all__ = [
    *("AUTHORS", "COMMANDS", "CORPORA", "ENVIRONMENTS", "FORMATS", "KINDS", "MAKERS", "MODELS"),
    "POLICIES",
    *(
        "PRESETS",
        "PROMPTS",
        "REWARDS",
        "SERVERS",
        "TASKS",
        "TOOLS",
        "VIEWERS",
        "Registry",
        "Resource",
    ),
]

BUILT_IN = ("toolgym._builtin:register", "toolgym.envs:register", "toolgym.rewards:register")
GROUP = "toolgym.plugins"


class Registry:
    """Names to objects, or to ``"module:attribute"`` strings that are imported on first use."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = {}
        self._about: dict[str, str] = {}

    def add(self, name: str, target: Any, *, about: str = "", replace: bool = False) -> None:
        """Register a name.

        Args:
            name: what users write.
            target: the object, or ``"module:attribute"``.
            about: what it is, in a line that ``toolgym envs`` shows.
            replace: allow a name that exists already.

        Raises:
            BadInputError: the name is taken.
        """
        if name in self._entries and not replace and self._entries[name] != target:
            raise BadInputError(
                f"{self.kind} {name!r} is registered already as {self._entries[name]!r}; "
                "choose another name or pass replace=True"
            )
        self._entries[name], self._about[name] = target, about

    def about(self, name: str) -> str:
        """What the thing of this name is, in a line; empty where nobody said it."""
        return self._about.get(name, "")

    def names(self) -> list[str]:
        """In the order of registration: built-in ones come before those of plug-ins."""
        return list(self._entries)

    def get(self, name: str) -> Any:
        """The object behind a name.

        Raises:
            UnknownNameError: nothing has this name.
        """
        if not isinstance(name, str) or name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        target = self._entries[name]
        return load(target) if isinstance(target, str) else target

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


class _Environments(Registry):
    """Environment ids: gymnasium makes them, this says which are toolgym's or of its plug-ins."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self._sources: dict[str, str] = {}
        self._oracles: dict[str, str] = {}

    def add(
        self,
        name: str,
        target: Any,
        *,
        about: str = "",
        replace: bool = False,
        vector: str | None = None,
        sources: str = "",
        oracle: str = "",
    ) -> None:
        """Register an id, with gymnasium too.

        Args:
            name: the id, such as ``Planets-v0``.
            target: ``"module:make"``: takes the keyword arguments, gives a `toolgym.ToolEnv`.
            about: what it is, in a line.
            replace: allow an id that exists already.
            vector: ``"module:make_vector"``: takes ``num_envs`` and the keyword arguments.
            sources: ``"module:function"``: takes a task source and a split, gives what is known of
                it before it is opened, a `toolgym.task.SourceFacts`, or None.
            oracle: name of the policy that plays its reference solutions, perhaps with ``{tasks}``
                in place of the source of the tasks.

        Raises:
            BadInputError: the id is taken, here or in gymnasium.
        """
        known = gym.registry.get(name)
        if known is not None and known.entry_point != target and not replace:
            raise BadInputError(
                f"gymnasium has an environment {name!r} already ({known.entry_point!r}); choose "
                "another id or pass replace=True"
            )
        if known is None or replace:
            gym.registry.pop(name, None)
            gym.register(name, entry_point=target, vector_entry_point=vector)
        super().add(name, target, about=about, replace=replace)
        self._sources[name] = sources
        self._oracles[name] = oracle

    def oracle(self, name: str, source: str) -> str:
        """The policy that plays the reference solutions of an id; empty: there is none.

        Args:
            name: an id.
            source: of the tasks.
        """
        return self._oracles.get(name, "").replace("{tasks}", source)

    def source_facts(self, name: str, source: str, split: str | None) -> Any:
        """What is known of a task source before it is opened, or None; see `add`.

        Args:
            name: an id.
            source: as the argument ``tasks``.
            split: one split of it, or None.
        """
        target = self._sources.get(name)
        return load(target)(source, split) if target else None


@dataclass(frozen=True, slots=True)
class Resource:
    """A file that an installed package carries, found when it is opened.

    Args:
        package: dotted package name.
        file: file name inside the package.
    """

    package: str
    file: str

    def path(self) -> Path:
        """Where the file lies.

        Raises:
            MissingFileError: the installation lacks it.
        """
        path = Path(str(files(self.package) / self.file))
        if not path.is_file():
            raise MissingFileError(
                f"{self.package} lacks its file {self.file!r}: reinstall toolgym"
            )
        return path


def load(target: str) -> Any:
    """Import ``"module:attribute"``."""
    module, _, attribute = target.partition(":")
    value: Any = importlib.import_module(module)
    for part in attribute.split(".") if attribute else ():
        value = getattr(value, part)
    return value


ENVIRONMENTS = _Environments("environment")
"""Ids for ``gymnasium.make``; an entry is a function that makes a `toolgym.ToolEnv`."""
TOOLS = Registry("tool")
SERVERS = Registry("server")
"""Kinds of servers whose tools are offered: ``kind:place`` among the tools. An entry takes that
text and options, and makes a `toolgym.tools.session.SessionSpec`."""
FORMATS = Registry("format")
PROMPTS = Registry("prompt")
REWARDS = Registry("reward")
POLICIES = Registry("policy")
TASKS = Registry("tasks")
"""Task files by name, for ``tasks=``; an entry is a `Resource`, or else has a ``path()``."""
CORPORA = Registry("corpus")
"""Passages by name; an entry is a `Resource` or anything else that has a ``path()``."""
MODELS = Registry("model")
"""Models that ``toolgym model fetch`` knows; an entry is a
`toolgym.policies.local.packaged.PackagedModel`. Once fetched its name stands for its folder."""
PRESETS = Registry("preset")
"""Ready jobs of self-training; an entry makes a `toolgym.selftrain.settings.Preset`."""
AUTHORS = Registry("author")
"""Who writes scenarios; see `toolgym.envs.toolscenario.compiler.decomposition.Author`."""
COMMANDS = Registry("command")
"""Groups of commands that plug-ins add to the command line; an entry is a typer application."""
VIEWERS = Registry("viewer")
"""How ``toolgym view`` shows rows of files that hold no trajectories: a function of a row and a
width that gives a text, or None when the row is none of its kind."""
MAKERS = Registry("maker")
"""Who makes tasks for self-training that steers its own: `toolgym.selftrain.curriculum.TaskMaker`
classes."""
KINDS = (
    *(ENVIRONMENTS, TOOLS, FORMATS, PROMPTS, REWARDS, POLICIES, TASKS, CORPORA, AUTHORS, PRESETS),
    *(MAKERS, MODELS, SERVERS, COMMANDS, VIEWERS),
)
"""Everything that a plug-in can add to, in the order in which ``toolgym envs`` shows it."""


def load_plugins() -> None:
    """Run the built-in plug-ins, then those of installed packages.

    A broken plug-in of another package is a warning that names it: it must not take the library
    down.
    """
    for target in BUILT_IN:
        load(target)()
    for entry in entry_points(group=GROUP):
        try:
            entry.load()()
        except Exception as error:  # the plug-in is foreign code: name it and go on
            warnings.warn(
                f"toolgym plug-in {entry.name!r} ({entry.value}) failed: {error!r}; "
                "its names are missing until it is fixed or uninstalled",
                RuntimeWarning,
                stacklevel=2,
            )

"""An environment whose episode can branch, be copied, and go on in another process."""

from __future__ import annotations

import copy
from typing import Any, Self

import gymnasium as gym

from toolgym._util.rebuilding import make_again
from toolgym.episodes.episode import Episode, Info, Moment
from toolgym.errors import BadInputError
from toolgym.formats import Format
from toolgym.task import Task
from toolgym.tools.toolset import Toolset
from toolgym.trajectory import Trajectory

__all__ = ["Branching", "Snapshot"]

# What a user may have set since the environment was made.
_SET = (
    *("max_steps", "max_reply_chars", "max_result_chars", "render_mode"),
    *("action_space", "observation_space", "_np_random", "_np_random_seed"),
)
Snapshot = tuple[Moment | None, Trajectory | None, bool, Any]
"""The episode, the record of the last one, whether a reset is needed, and the generator."""


class Branching(gym.Env[str, str]):
    """What an environment holds of the episode that it plays, and how that is copied."""

    format: Format
    descriptions: dict[str, str]
    _toolset: Toolset
    _episode: Episode | None
    _finished: Trajectory | None
    _ended: bool

    @property
    def toolset(self) -> Toolset:
        """The tools; what is changed in their documents from here on is this environment's own."""
        if self._toolset.shared:
            self._toolset, before = self._toolset.fork(), self._toolset
            if self._episode is not None and self._episode.tools is before:
                self._episode.tools = self._toolset
        return self._toolset

    @toolset.setter
    def toolset(self, toolset: Toolset) -> None:
        """Take other tools, from the next reset on."""
        self._toolset = toolset

    def clone(self) -> Self:
        """A fresh environment that shares tasks, tools, format and rubric; cheap."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._episode, twin._finished, twin._ended = None, None, True
        return twin

    def snapshot(self) -> Snapshot:
        """This moment of the episode, its sessions and its user, for `restore`.

        It can be restored many times, in this environment or in another one of the same tasks and
        tools: so an episode branches at any step.

        Raises:
            BadInputError: a session cannot be copied.
        """
        moment = self._episode.moment(self._ended) if self._episode is not None else None
        last = self._finished.copy() if self._finished is not None else None
        return moment, last, self._ended, copy.deepcopy(self._np_random)

    def restore(self, snapshot: Snapshot, sample: int | None = None) -> Info:
        """Go on from a moment; what was played since is dropped.

        Args:
            snapshot: of `snapshot`.
            sample: numbers the rollout that goes on from there; default: as it was.

        Returns:
            The info of that moment, as `reset` and `step` give it; empty before the first reset.

        Raises:
            BadInputError: a session cannot be brought back.
        """
        moment, last, ended, generator = snapshot
        task = moment[0].record.task if moment is not None else None
        playing = None if self._ended or ended else self._episode
        if moment is not None and playing is not None and playing.record.task == task:
            # The sessions of an episode of the same task go on from there.
            self._episode = Episode.at(moment, playing.every)
        else:
            self.end()
            self._episode = None
            if moment is not None:
                opened = self._tools_of if ended else self.open_tools
                self._episode = Episode.at(moment, opened(moment[0].record.task))
        self._ended, self._np_random = ended, copy.deepcopy(generator)
        self._finished = last.copy() if last is not None else None
        if self._episode is None:
            return {}
        if sample is not None:
            self._episode.record.sample = sample
        return self._episode.info()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that plays on from the same place; tasks, tools, format and rubric are shared."""
        twin = memo[id(self)] = self.clone()
        for name in _SET:
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        if not self._toolset.shared:
            twin._toolset = self._toolset.fork()
        twin.restore(self.snapshot())
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again from its spec, it plays on from the same place; see `__setstate__`.

        Raises:
            BadInputError: `gymnasium.make` did not make it: nothing says how to make it again.
        """
        if self.spec is None:
            raise BadInputError(
                "only an environment of gym.make can be pickled: register this one, or make it "
                "again in the other process"
            )
        changed = (
            None if self._toolset.shared else [(t.description, t.parameters) for t in self._toolset]
        )
        state = {"documents": changed, "snapshot": self.snapshot()}
        return make_again, (self.spec,), state | {name: getattr(self, name) for name in _SET}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where another was."""
        for tool, document in zip(self.toolset, state.pop("documents") or (), strict=False):
            tool.description, tool.parameters = document
        snapshot = state.pop("snapshot")
        self.__dict__.update(state)
        self.restore(snapshot)

    def tools_for(self, task: Task) -> Toolset:
        """The tools of one task; environments whose tools differ by task override this."""
        return self._toolset

    def open_tools(self, task: Task) -> Toolset:
        """The tools of a task, opened for an episode, those of its user among them.

        Args:
            task: that is played.

        Raises:
            BadInputError: a session cannot begin the task.
        """
        return self._tools_of(task).open(task)

    def _tools_of(self, task: Task) -> Toolset:
        if not self.format.strategy.tools:
            return Toolset()
        tools = self.tools_for(task)
        own = self.descriptions if tools is not self._toolset else {}
        return tools.described(own, some=True) if own else tools

    def end(self) -> None:
        """End what the tools of the episode remember; all else can be played on."""
        if self._episode is not None and not self._ended:
            self._episode.every.end()

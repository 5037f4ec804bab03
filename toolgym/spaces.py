"""The text space of actions and observations: any Unicode, cheap checks, useful samples."""

from __future__ import annotations

import copy
import os
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any, Protocol, cast, overload

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import (
    batch_differing_spaces,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from gymnasium.wrappers.utils import create_zero_array

from toolgym.formats import Action, Format
from toolgym.messages import ToolCall
from toolgym.tools.toolset import Toolset

__all__ = ["ActionSampler", "Sampler", "UnicodeText"]


class Sampler(Protocol):
    """Draws a text; must use nothing but the generator, so that a seed fixes the sample."""

    def __call__(self, rng: np.random.Generator) -> str:
        """One text."""


class UnicodeText(gym.spaces.Space[str]):
    """All texts of bounded length. gymnasium's own ``Text`` refuses spaces and accents.

    Args:
        max_length: in characters, inclusive.
        seed: for ``sample``.
        sampler: draws samples; default: short random words.
    """

    def __init__(
        self,
        max_length: int = 1_000_000,
        *,
        seed: int | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self.max_length, self._sampler = max_length, sampler
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text is not an array."""
        return False

    def contains(self, x: Any) -> bool:
        """Whether x is a text that is not too long; constant time."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """A text drawn by the space's seed.

        Raises:
            ValueError: with a mask or probabilities, which texts do not have.
        """
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither mask nor probability")
        if self._sampler is not None:
            return self._sampler(self.np_random)
        letters = self.np_random.integers(97, 123, size=int(self.np_random.integers(0, 16)))
        return "".join(chr(letter) for letter in letters)

    def __deepcopy__(self, memo: dict[int, Any]) -> UnicodeText:
        """A space that draws the same; the sampler keeps nothing and is shared."""
        twin = UnicodeText(self.max_length, sampler=self._sampler)
        twin._np_random = copy.deepcopy(self._np_random, memo)
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


def _empty_text(space: UnicodeText) -> str:
    return ""


@create_empty_array.register(UnicodeText)
def _empty_texts(space: UnicodeText, n: int = 1, fn: Any = None) -> tuple[str, ...]:
    return ("",) * n


def _batched(spaces: Sequence[UnicodeText]) -> gym.spaces.Tuple[Any]:
    return gym.spaces.Tuple(copy.deepcopy(list(spaces)))


# The stubs of these two do not know that a space of one's own is a space.
cast(Any, create_zero_array).register(UnicodeText, _empty_text)
cast(Any, batch_differing_spaces).register(UnicodeText, _batched)


class SharedTexts(Sequence[str]):
    """One text of any length for each environment of an asynchronous vector; a live view.

    Each stands in an anonymous file, which children inherit or are handed: unlike an array of fixed
    size it takes the room that its text needs. The pipes of the vector say who writes and who reads
    when.

    Args:
        files: descriptors, one a text, each holding a length of 8 bytes and UTF-8; closed with the
            view.
    """

    def __init__(self, files: Sequence[int]) -> None:
        self._files = list(files)
        for file in files:
            weakref.finalize(self, os.close, file)

    @classmethod
    def make(cls, count: int) -> SharedTexts:
        """So many empty texts."""
        files = []
        for _ in range(count):
            with tempfile.TemporaryFile() as file:
                files.append(os.dup(file.fileno()))
        texts = cls(files)
        for index in range(count):
            texts.write(index, "")
        return texts

    def write(self, index: int, text: str) -> None:
        """Set a text."""
        data = text.encode("utf-8", "surrogatepass")
        left = memoryview(len(data).to_bytes(8, "little") + data)
        place = 0
        while place < len(left):
            place += os.pwrite(self._files[index], left[place:], place)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """A text as it is now, or several."""
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        file, data = self._files[index], b""
        size = int.from_bytes(os.pread(file, 8, 0), "little")
        while len(data) < size:
            data += os.pread(file, size - len(data), 8 + len(data))
        return data.decode("utf-8", "surrogatepass")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        """The texts as they are now: what a vector gives its user."""
        return tuple(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that is being started; it gets the files themselves."""
        return _inherited, ([reduction.DupFd(file) for file in self._files],)


def _inherited(descriptors: Sequence[Any]) -> SharedTexts:
    return SharedTexts([item.detach() for item in descriptors])


@create_shared_memory.register(UnicodeText)
def _shared(space: UnicodeText, n: int = 1, ctx: Any = None) -> SharedTexts:
    return SharedTexts.make(n)


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: SharedTexts, n: int = 1) -> SharedTexts:
    return shared_memory


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, value: str, shared_memory: SharedTexts) -> None:
    shared_memory.write(index, value)


class ActionSampler:
    """Draws replies that a policy might write: calls, answers, and broken versions of both.

    Args:
        format: writes the replies.
        toolset: whose tools are called.
    """

    _WORDS = ("42", "6*7", "Paris", "Marie Curie", "río", "العربية", "the capital of France", "")

    def __init__(self, format: Format, toolset: Toolset) -> None:
        self._format, self._schemas = format, toolset.schemas()

    def __call__(self, rng: np.random.Generator) -> str:
        """One reply."""
        word = self._WORDS[int(rng.integers(len(self._WORDS)))]
        kind = int(rng.integers(4))
        if kind == 0 or not self._schemas:
            text = self._format.write(Action("I know it.", (), word), self._schemas)
        else:
            function = self._schemas[int(rng.integers(len(self._schemas)))]["function"]
            names = list(function["parameters"]["properties"])
            call = ToolCall("call_0", function["name"], {names[0]: word} if names else {})
            text = self._format.write(Action("I look it up.", (call,)), self._schemas)
        if kind == 3:
            text = text[: int(rng.integers(len(text) + 1))]
        return text

"""The text space of actions and observations: any Unicode, cheap checks, useful samples."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np

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
        """False: a text is no array."""
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


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

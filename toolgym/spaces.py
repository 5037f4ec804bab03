"""The text space of actions and observations: any Unicode, cheap checks, useful samples."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np

__all__ = ["Sampler", "UnicodeText"]


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

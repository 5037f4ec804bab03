"""Where pre-training stands, on disk: an interrupted build goes on instead of beginning anew."""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.optional import need
from toolgym.miniature.optimizers import Optimizers

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

__all__ = ["Checkpoint"]


class Checkpoint:
    """One file that holds model, optimizers, the generator of the data, and a few numbers.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def save(
        self,
        stage: str,
        model: LlamaForCausalLM,
        optimizers: Optimizers,
        rng: random.Random,
        numbers: dict[str, Any],
    ) -> None:
        """Replace the file: a kill leaves the old state or the new one.

        Args:
            stage: which stage it is.
            model: its weights are kept.
            optimizers: their states are kept.
            rng: between two blocks of batches, so that the next block is the one that would
                have come.
            numbers: plain values of the stage.
        """
        if self.path is None:
            return
        state = {
            "stage": stage,
            "model": model.state_dict(),
            "optimizers": optimizers.state(),
            "rng": rng.getstate(),
            "numbers": numbers,
        }
        partial = self.path.with_name(f"{self.path.name}-{secrets.token_hex(4)}")
        try:
            need("torch", "train").save(state, partial)
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)

    def load(
        self, stage: str, model: LlamaForCausalLM, optimizers: Optimizers, rng: random.Random
    ) -> dict[str, Any] | None:
        """Bring everything back to where the stage stood.

        Returns:
            The numbers, or None when there is no state of this stage.
        """
        state = self._read()
        if state is None or state["stage"] != stage:
            return None
        model.load_state_dict(state["model"])
        optimizers.load(state["optimizers"])
        rng.setstate(state["rng"])
        return dict(state["numbers"])

    def reached(self, stage: str) -> bool:
        """Whether the file holds a state of this stage."""
        state = self._read()
        return state is not None and state["stage"] == stage

    def drop(self) -> None:
        """The model is finished: the file is not needed any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        if self.path is None or not self.path.is_file():
            return None
        # Tensors and plain values only: nothing in the file is executed.
        found: dict[str, Any] = need("torch", "train").load(self.path, weights_only=True)
        return found

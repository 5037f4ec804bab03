"""How large the miniature is and how it is pre-trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BaseSettings:
    """Everything beside the seed that decides what the base model becomes.

    Attributes:
        hidden: width of the residual stream.
        layers: number of blocks.
        heads: attention heads.
        vocabulary: tokens, at most.
        batch: conversations a step.
        muon_rate: peak learning rate of the hidden matrices.
        adam_rate: peak learning rate of the embeddings and norms.
        drill_loss: the copying drill ends when its loss (nats a token, mean of 20 steps) is below
            this.
        drill_cap: most steps of the drill; not being there by then is an error.
        target: the demonstrations settle once the probe of `pretrain.tool_accuracy` reaches this.
        settle_steps: steps over which the learning rates then fall to a tenth.
        demonstration_cap: most steps of the demonstrations, settling included.
        required: least probe after the demonstrations; less is an error.
    """

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 800
    batch: int = 32
    muon_rate: float = 0.01
    adam_rate: float = 3e-3
    drill_loss: float = 0.8
    drill_cap: int = 800
    target: float = 0.25
    settle_steps: int = 300
    demonstration_cap: int = 1200
    required: float = 0.4

    @classmethod
    def tiny(cls) -> BaseSettings:
        """A model of a few steps, for tests: it has the right shape and has learned nothing."""
        return cls(
            hidden=32,
            layers=2,
            heads=2,
            vocabulary=400,
            batch=8,
            drill_loss=100.0,
            drill_cap=2,
            settle_steps=1,
            demonstration_cap=2,
            required=0.0,
        )

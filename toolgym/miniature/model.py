"""The miniature's Llama: its shape, tokenizer and optimizers, and the checkpoint of its base."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from toolgym._util.optional import require_extra
from toolgym._util.workfolder import publish

__all__ = ["BaseSettings", "Checkpoint"]

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


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


class Optimizers:
    """Muon on the hidden matrices, AdamW elsewhere: a third of the steps of AdamW alone.

    Args:
        model: what to train.
        settings: its peak learning rates.
    """

    def __init__(self, model: LlamaForCausalLM, settings: BaseSettings) -> None:
        optim = require_extra("torch.optim", "train")
        matrices: list[torch.Tensor] = []
        others: list[torch.Tensor] = []
        for name, parameter in model.named_parameters():
            inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if inner else others).append(parameter)
        self._parameters = matrices + others
        self._optimizers = [
            optim.Muon(matrices, lr=settings.muon_rate, weight_decay=0.0),
            optim.AdamW(
                others, lr=settings.adam_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
            ),
        ]
        self._peaks = (settings.muon_rate, settings.adam_rate)

    def step(self, loss: torch.Tensor, factor: float) -> None:
        """One update at `factor` times the peak rates, with gradients clipped to norm 1."""
        loss.backward()
        require_extra("torch.nn.utils", "train").clip_grad_norm_(self._parameters, 1.0)
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """What both optimizers have gathered, for a checkpoint."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Bring back what `state` gave."""
        for optimizer, kept in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(kept)


if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
SPECIAL: Final = (
    PAD,
    END,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
LONGEST: Final = 1024
"""Positions the model can take, in tokens."""

# One special token opens a turn and one ends it: a turn costs two tokens more than its text. The
# ending token stands inside the generation span, or a model trained on it would never learn to
# stop. Every turn is rendered on its own, so that a longer conversation always begins with the
# text of the shorter one.
CHAT_TEMPLATE: Final = """
{%- if tools %}
    {{- '<|system|>' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'Tools:\\n' }}
    {%- for tool in tools %}
        {{- (tool.function if tool.function is defined else tool) | tojson + '\\n' }}
    {%- endfor %}
    {{- 'Call one as <tool_call>{"name": NAME, "arguments": {...}}</tool_call>.<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
            {{- message.content or '' }}
            {%- for call in message.tool_calls or [] %}
                {%- set called = call.function if call.function is defined else call %}
                {%- set given = called.arguments %}
                {{- '<tool_call>{"name": ' + called.name | tojson + ', "arguments": ' }}
                {{- (given if given is string else given | tojson) + '}</tool_call>' }}
            {%- endfor %}
            {{- '<|end|>' }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- '<|user|><tool_response>' + message.content + '</tool_response><|end|>' }}
    {%- elif message.role == 'system' %}
        {%- if not (tools and loop.first) %}
            {{- '<|system|>' + message.content + '<|end|>' }}
        {%- endif %}
    {%- else %}
        {{- '<|user|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}
""".strip()

# How transformers (its server, its pipelines) and TRL read a reply back into content and tool
# calls.
RESPONSE_TEMPLATE: Final[dict[str, Any]] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>", "content": "text"},
    },
}

# The protocol's fixed phrases count as words, so that they may become one token each and sequences
# stay short; then words with the blank before them, digits one by one, runs of other signs, and
# blanks.
WORDS: Final = (
    r"Response from tool|\nAction:|\nAnswer:|\nRationale:"
    r"| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+"
)


def build_tokenizer(texts: Iterable[str], vocabulary: int = 700) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, with the chat template and the special tokens.

    Args:
        texts: what to learn the merges from.
        vocabulary: at most so many tokens, special ones included; at least 265.
    """
    tokenizers = require_extra("tokenizers", "train")
    transformers = require_extra("transformers", "train")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer: PreTrainedTokenizerFast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer


def configuration(
    vocabulary: int, *, hidden: int, layers: int, heads: int, **ends: int | None
) -> LlamaConfig:
    """The network's configuration.

    Args:
        vocabulary: tokens.
        hidden: width of the residual stream.
        layers: blocks.
        heads: attention heads.
        ends: ids of the special tokens, for those who run it.
    """
    transformers = require_extra("transformers", "train")
    config: LlamaConfig = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=3 * hidden,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        bos_token_id=None,
        **ends,
    )
    return config


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A Llama with random weights, in float32 on the CPU; the caller's random state is kept.

    Args:
        tokenizer: whose vocabulary and special tokens it gets.
        hidden: width of the residual stream; the feed-forward is three times as wide.
        layers: number of blocks.
        heads: attention heads; `hidden` must be a multiple of it.
        seed: decides the weights.
    """
    torch = require_extra("torch", "train")
    transformers = require_extra("transformers", "train")
    config = configuration(
        len(tokenizer),
        hidden=hidden,
        layers=layers,
        heads=heads,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LlamaForCausalLM = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    return model


if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


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
        with publish(self.path) as partial:
            require_extra("torch", "train").save(state, partial)

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

    def _read(self) -> dict[str, Any] | None:
        if self.path is None or not self.path.is_file():
            return None
        # Tensors and plain values only: nothing in the file is executed.
        found: dict[str, Any] = require_extra("torch", "train").load(self.path, weights_only=True)
        return found

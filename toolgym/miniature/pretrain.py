"""Pre-training of the miniature: a copying drill until copying works, then the mixed demonstrations.

Both stages stop when they are good enough, not after a fixed number of steps, and fail loudly at their cap: below a
cliff a model this small never copies, and self-training would have nothing to make stronger.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from toolgym._optional import need
from toolgym.errors import ToolgymError
from toolgym.miniature.demonstrations import Chat, copy_drill, demonstration, right_episode
from toolgym.miniature.settings import BaseSettings
from toolgym.miniature.world import World

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED: Final = -100
PROBES: Final = 128
PROBE_EVERY: Final = 50
AVERAGED: Final = 20
WARM_UP: Final = 40
# Conversations drawn at once, in batches: sorting so many by length leaves little padding.
DRAWN: Final = 16
# Assistant tokens of an average demonstration.
TYPICAL: Final = 25


class PretrainingError(ToolgymError, RuntimeError):
    """The base model did not learn what self-training needs within its cap of steps."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where pre-training stands.

    Attributes:
        stage: "drill" or "demonstrations".
        step: steps done in this stage.
        steps: the stage's cap; it may end earlier.
        loss: mean loss of the last steps, in nats a token.
        tool_accuracy: latest probe, 0 to 1; None before the first.
    """

    stage: Literal["drill", "demonstrations"]
    step: int
    steps: int
    loss: float
    tool_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation in tokens.

    Attributes:
        ids: all tokens.
        mask: 1 where the assistant wrote the token, the ending token of its turns included.
    """

    ids: list[int]
    mask: list[int]


def encode(tokenizer: PreTrainedTokenizerFast, chats: Sequence[Chat]) -> list[Row]:
    """Conversations as tokens, with the assistant's tokens marked by the chat template."""
    encoded: Any = tokenizer.apply_chat_template(
        list(chats), return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    return [Row(ids, mask) for ids, mask in pairs]


class Optimizers:
    """Muon on the hidden matrices, AdamW on everything else: three times fewer steps than AdamW alone.

    Args:
        model: what to train.
        settings: its peak learning rates.
    """

    def __init__(self, model: LlamaForCausalLM, settings: BaseSettings) -> None:
        """Sorts the parameters."""
        torch = need("torch", "train")
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            inner = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if inner else others).append(parameter)
        self._parameters = matrices + others
        self._optimizers = [
            torch.optim.Muon(matrices, lr=settings.muon_rate, weight_decay=0.0),
            torch.optim.AdamW(
                others, lr=settings.adam_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True
            ),
        ]
        self._peaks = (settings.muon_rate, settings.adam_rate)

    def step(self, loss: torch.Tensor, factor: float) -> None:
        """One update at `factor` times the peak learning rates, with gradients clipped to norm 1."""
        torch = need("torch", "train")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    settings: BaseSettings,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> float:
    """Trains a fresh model in place, on the CPU: the copying drill, then the demonstrations.

    Args:
        model: from `model.build_model`; it is left in evaluation mode.
        tokenizer: the model's.
        world: whose "demo" split the demonstrations are about.
        settings: rates, targets and caps.
        seed: decides the conversations and their order.
        progress: called now and then.

    Returns:
        The last probe (see `tool_accuracy`).

    Raises:
        PretrainingError: a stage ended at its cap without having learned enough.
    """
    model.train()
    try:
        _drill(model, tokenizer, settings, seed, progress)
        return _demonstrations(model, tokenizer, world, settings, seed, progress)
    finally:
        model.eval()


def tool_accuracy(model: LlamaForCausalLM, rows: Sequence[Row]) -> float:
    """How often sampling at temperature 1 would write the right call and then copy its result, given the tool.

    It is computed, not sampled: the probability of the right tokens of each conversation, from the call's name to the
    end, averaged over conversations; the tokens that choose the tool count as given.

    Args:
        model: the model to probe.
        rows: conversations of `right_episode`.
    """
    torch = need("torch", "train")
    with torch.inference_mode():
        inputs, labels = collate(rows, model.config.pad_token_id)
        scores = model(input_ids=inputs).logits[:, :-1].float().log_softmax(-1)
        wanted = labels[:, 1:]
        chosen = scores.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]  # (row, position)
        return float((chosen * (wanted != IGNORED)).sum(1).exp().mean())


def collate(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and labels, both (row, position) int64; `IGNORED` where nothing is to be learned."""
    torch = need("torch", "train")
    longest = max(len(row.ids) for row in rows)
    inputs = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORED)
    for place, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        inputs[place, : len(row.ids)] = ids
        labels[place, : len(row.ids)] = torch.where(torch.tensor(row.mask) == 1, ids, IGNORED)
    return inputs, labels


def loss_of(model: LlamaForCausalLM, rows: Sequence[Row]) -> tuple[torch.Tensor, int]:
    """Negative log-likelihood of the assistant's tokens in nats, summed, and the number of these tokens."""
    torch = need("torch", "train")
    inputs, labels = collate(rows, model.config.pad_token_id)
    # No attention mask: padding stands on the right, where causal attention never looks.
    hidden = model.model(input_ids=inputs).last_hidden_state[:, :-1]  # (row, position, hidden)
    learned = labels[:, 1:] != IGNORED
    # Only the positions that count are projected on the vocabulary, which halves the cost of a step.
    loss: torch.Tensor = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[learned]), labels[:, 1:][learned], reduction="sum"
    )
    return loss, int(learned.sum())


def _batches(
    tokenizer: PreTrainedTokenizerFast, draw: Callable[[], Chat], size: int, rng: random.Random
) -> Iterator[list[Row]]:
    """Endless batches of rows of similar length, in random order."""
    while True:
        rows = encode(tokenizer, [draw() for _ in range(DRAWN * size)])
        rows.sort(key=lambda row: len(row.ids))
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(batches)
        yield from batches


def _drill(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    settings: BaseSettings,
    seed: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    rng = random.Random(f"drill-{seed}")
    batches = _batches(tokenizer, lambda: copy_drill(rng), settings.batch, rng)
    optimizers = Optimizers(model, settings)
    losses: deque[float] = deque(maxlen=AVERAGED)
    mean = float("inf")
    for step in range(1, settings.drill_cap + 1):
        loss, tokens = loss_of(model, next(batches))
        optimizers.step(loss / tokens, min(1.0, step / WARM_UP))
        losses.append(float(loss.detach()) / tokens)
        mean = sum(losses) / len(losses)
        if progress and step % 10 == 0:
            progress(Progress("drill", step, settings.drill_cap, mean))
        if len(losses) == AVERAGED and mean < settings.drill_loss:
            return
    if mean >= settings.drill_loss:
        raise PretrainingError(
            f"the copying drill is at a loss of {mean:.2f} after its cap of drill_cap={settings.drill_cap} steps, "
            f"not below drill_loss={settings.drill_loss}: raise drill_cap or try another seed"
        )


def _demonstrations(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    settings: BaseSettings,
    seed: int,
    progress: Callable[[Progress], None] | None,
) -> float:
    rng = random.Random(f"demonstrations-{seed}")
    draw = lambda: demonstration(world, world.problem(rng, "demo"), rng)[1]  # noqa: E731
    batches = _batches(tokenizer, draw, settings.batch, rng)
    probes = _probe_rows(tokenizer, world, seed)
    optimizers = Optimizers(model, settings)
    losses: deque[float] = deque(maxlen=AVERAGED)
    probe: float | None = None
    last = settings.demonstration_cap
    step = 0
    while step < last:
        step += 1
        left = (last - step) / max(1, settings.settle_steps)
        loss, tokens = loss_of(model, next(batches))
        # A constant divisor on purpose. Batches hold rows of similar length; a mean over each batch's own tokens would
        # give short rows, which are those without a tool, twice the weight that the mixture gives them.
        optimizers.step(
            loss / (settings.batch * TYPICAL), min(1.0, step / WARM_UP, 0.1 + 0.9 * left)
        )
        losses.append(float(loss.detach()) / tokens)
        if step % PROBE_EVERY == 0:
            probe = tool_accuracy(model, probes)
            if probe >= settings.target:
                last = min(last, step + settings.settle_steps)
        if progress and step % 10 == 0:
            progress(Progress("demonstrations", step, last, sum(losses) / len(losses), probe))
    probe = tool_accuracy(model, probes)
    if probe < settings.required:
        raise PretrainingError(
            f"given the tool, the base model is right with probability {probe:.2f} after its cap of "
            f"demonstration_cap={settings.demonstration_cap} steps, and self-training needs "
            f"required={settings.required}: raise demonstration_cap or try another seed"
        )
    return probe


def _probe_rows(tokenizer: PreTrainedTokenizerFast, world: World, seed: int) -> list[Row]:
    """Right episodes in which the thought before the first call counts as given."""
    rng = random.Random(f"probe-{seed}")
    rows = encode(
        tokenizer, [right_episode(world, world.problem(rng, "demo")) for _ in range(PROBES)]
    )
    given = len(tokenizer("Thought: I need a tool.\nAction:")["input_ids"])
    for row in rows:
        first = row.mask.index(1)
        row.mask[first : first + given] = [0] * given
    return rows

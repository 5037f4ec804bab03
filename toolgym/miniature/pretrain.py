"""Pre-training of the miniature: a copying drill until copying works, then demonstrations.

Both stages stop when they are good enough, not after a fixed number of steps, and fail loudly at
their cap: below a cliff a model this small never copies, and self-training would have nothing to
make stronger.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from toolgym._util.optional import require_extra
from toolgym.errors import ToolgymError
from toolgym.miniature.demonstrations import Chat, Lessons, copy_drill
from toolgym.miniature.model import BaseSettings, Checkpoint, Optimizers

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation in tokens.

    Attributes:
        ids: all tokens.
        mask: 1 where the assistant wrote the token, the ending token of its turns included.
    """

    ids: list[int]
    mask: list[int]


def encode(tokenizer: PreTrainedTokenizerFast, chats: Sequence[Chat]) -> list[Encoded]:
    """Conversations as tokens, with the assistant's tokens marked by the chat template."""
    encoded: Any = tokenizer.apply_chat_template(
        list(chats), return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    return [Encoded(ids, mask) for ids, mask in pairs]


def collate(rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and labels, both [rows, longest] int64.

    A label is `IGNORED` where nothing is to be learned. Which token pads on the right is of no
    matter, because causal attention never looks there.
    """
    torch = require_extra("torch", "train")
    longest = max(len(row.ids) for row in rows)
    inputs = torch.zeros((len(rows), longest), dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED)
    for place, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        inputs[place, : len(row.ids)] = ids
        labels[place, : len(row.ids)] = torch.where(torch.tensor(row.mask) == 1, ids, IGNORED)
    return inputs, labels


def loss_of(model: LlamaForCausalLM, rows: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood (nats) of the assistant's tokens, and how many they are."""
    functional = require_extra("torch.nn.functional", "train")
    inputs, labels = collate(rows)
    # Padding stands on the right, so no attention mask is needed.
    hidden = model.model(input_ids=inputs).last_hidden_state[:, :-1]  # (row, position, hidden)
    learned = labels[:, 1:] != IGNORED
    # Only the positions that count are projected on the vocabulary, which halves the cost of a
    # step.
    loss: torch.Tensor = functional.cross_entropy(
        model.lm_head(hidden[learned]), labels[:, 1:][learned], reduction="sum"
    )
    return loss, int(learned.sum())


if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PROBES: Final = 128
PROBE_EVERY: Final = 50
REPORT_EVERY: Final = 10
AVERAGED: Final = 20
WARM_UP: Final = 40
# Conversations drawn at once, in batches: sorting so many by length leaves little padding.
DRAWN: Final = 16
# Steps between checkpoints; a multiple of DRAWN, since only there no drawn batch is left over.
SAVE_EVERY: Final = 3 * DRAWN
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


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Lessons,
    settings: BaseSettings,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> float:
    """Train a fresh model in place, on the CPU: the copying drill, then the demonstrations.

    Args:
        model: from `model.build_model`; it is left in evaluation mode.
        tokenizer: the model's.
        lessons: what it is shown.
        settings: rates, targets and caps.
        seed: decides the conversations and their order.
        progress: called now and then.
        checkpoint: where to go on from, and where to keep how far it is.

    Returns:
        The last probe (see `tool_accuracy`).

    Raises:
        PretrainingError: a stage ended at its cap without having learned enough.
    """
    kept = checkpoint or Checkpoint(None)
    model.train()
    try:
        if not kept.reached("demonstrations"):
            _drill(model, tokenizer, settings, seed, progress, kept)
        return _demonstrations(model, tokenizer, lessons, settings, seed, progress, kept)
    finally:
        model.eval()


def tool_accuracy(model: LlamaForCausalLM, rows: Sequence[Encoded]) -> float:
    """Probability of a right call and a right copy of its result, sampling at temperature 1.

    It is computed, not sampled: the probability of the right tokens of each conversation, from the
    call's name to the end, averaged over conversations. The tokens before it, which choose to use a
    tool, count as given.

    Args:
        model: the model to probe.
        rows: conversations of `Lessons.right`.
    """
    torch = require_extra("torch", "train")
    with torch.inference_mode():
        inputs, labels = collate(rows)
        scores = model(input_ids=inputs).logits[:, :-1].float().log_softmax(-1)
        wanted = labels[:, 1:]
        chosen = scores.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]  # (row, position)
        return float((chosen * (wanted != IGNORED)).sum(1).exp().mean())


def _batches(
    tokenizer: PreTrainedTokenizerFast, draw: Callable[[], Chat], size: int, rng: random.Random
) -> Iterator[list[Encoded]]:
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
    checkpoint: Checkpoint,
) -> None:
    rng = random.Random(f"drill-{seed}")
    batches = _batches(tokenizer, lambda: copy_drill(rng), settings.batch, rng)
    optimizers = Optimizers(model, settings)
    numbers = checkpoint.load("drill", model, optimizers, rng) or {"step": 0, "losses": []}
    losses: deque[float] = deque(numbers["losses"], maxlen=AVERAGED)
    mean = float("inf")
    for step in range(numbers["step"] + 1, settings.drill_cap + 1):
        loss, tokens = loss_of(model, next(batches))
        optimizers.step(loss / tokens, min(1.0, step / WARM_UP))
        losses.append(float(loss.detach()) / tokens)
        mean = sum(losses) / len(losses)
        learned = len(losses) == AVERAGED and mean < settings.drill_loss
        if progress and (step % REPORT_EVERY == 0 or learned):
            progress(Progress("drill", step, settings.drill_cap, mean))
        if learned:
            return
        if step % SAVE_EVERY == 0:
            numbers = {"step": step, "losses": list(losses)}
            checkpoint.save("drill", model, optimizers, rng, numbers)
    if mean >= settings.drill_loss:
        raise PretrainingError(
            f"the copying drill is at a loss of {mean:.2f} after its cap of "
            f"drill_cap={settings.drill_cap} steps, not below "
            f"drill_loss={settings.drill_loss}: raise drill_cap or try another seed"
        )


def _demonstrations(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Lessons,
    settings: BaseSettings,
    seed: int,
    progress: Callable[[Progress], None] | None,
    checkpoint: Checkpoint,
) -> float:
    rng = random.Random(f"demonstrations-{seed}")
    batches = _batches(tokenizer, lambda: lessons.shown(rng), settings.batch, rng)
    probes = _probe_rows(tokenizer, lessons, seed)
    optimizers = Optimizers(model, settings)
    start: dict[str, Any] = {
        "step": 0,
        "last": settings.demonstration_cap,
        "losses": [],
        "probe": None,
    }
    numbers = checkpoint.load("demonstrations", model, optimizers, rng) or start
    losses: deque[float] = deque(numbers["losses"], maxlen=AVERAGED)
    probe: float | None = numbers["probe"]
    step, last = numbers["step"], numbers["last"]
    while step < last:
        step += 1
        left = (last - step) / max(1, settings.settle_steps)
        loss, tokens = loss_of(model, next(batches))
        # A constant divisor on purpose. Batches hold rows of similar length; a mean over each
        # batch's own tokens would give short rows, which are those without a tool, twice the
        # weight that the mixture gives them.
        optimizers.step(
            loss / (settings.batch * TYPICAL), min(1.0, step / WARM_UP, 0.1 + 0.9 * left)
        )
        losses.append(float(loss.detach()) / tokens)
        if step % PROBE_EVERY == 0:
            probe = tool_accuracy(model, probes)
            if probe >= settings.target:
                last = min(last, step + settings.settle_steps)
        if progress and (step % REPORT_EVERY == 0 or step == last):
            progress(Progress("demonstrations", step, last, sum(losses) / len(losses), probe))
        if step % SAVE_EVERY == 0:
            numbers = {"step": step, "last": last, "losses": list(losses), "probe": probe}
            checkpoint.save("demonstrations", model, optimizers, rng, numbers)
    probe = tool_accuracy(model, probes)
    if probe < settings.required:
        raise PretrainingError(
            f"given the tool, the base is right with probability {probe:.2f} after its cap of "
            f"demonstration_cap={settings.demonstration_cap} steps, and self-training needs "
            f"required={settings.required}: raise demonstration_cap or try another seed"
        )
    return probe


def _probe_rows(tokenizer: PreTrainedTokenizerFast, lessons: Lessons, seed: int) -> list[Encoded]:
    """Right episodes in which the thought before the first call or question counts as given."""
    rng = random.Random(f"probe-{seed}")
    chats = [lessons.right(rng) for _ in range(PROBES)]
    rows = encode(tokenizer, chats)
    for row, chat in zip(rows, chats, strict=True):
        thought, label = chat[1]["content"].split(":", 2)[:2]
        given = len(tokenizer(f"{thought}:{label}:")["input_ids"])
        first = row.mask.index(1)
        row.mask[first : first + given] = [0] * given
    return rows

"""TRL's trainer of preferences for pairs of tokens: its collator, its batches, its loss."""

from __future__ import annotations

import math
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.training.loop import whole_batches

__all__ = ["masked_collator", "pair_trainer"]


def masked_collator(pad: int) -> Any:
    """TRL's collator of pairs, less the tokens that the policy did not write."""
    torch = require_extra("torch", "train")
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class Masked(DataCollatorForPreference):
        """Zeroes the completion mask where ``chosen_mask`` or ``rejected_mask`` is 0."""

        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            """A batch: the chosen rows, then the rejected ones."""
            batch: dict[str, Any] = super().torch_call(examples)
            sides = [(e["prompt_ids"], e["chosen_mask"]) for e in examples]
            sides += [(e["prompt_ids"], e["rejected_mask"]) for e in examples]
            for row, (prompt, mask) in enumerate(sides):
                place = slice(len(prompt), len(prompt) + len(mask))
                batch["completion_mask"][row, place] *= torch.tensor(mask)
            return batch

    return Masked(pad_token_id=pad)


_MEANS = (
    *("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"),
    *("logps/chosen", "logps/rejected"),
)


def pair_trainer(pairs: int, missing: int, seed: int) -> Any:
    """TRL's trainer, for pairs of tokens; each update is that of one process with whole batches.

    Args:
        pairs: to learn from.
        missing: silent ones behind them, see `missing_rows`.
        seed: of their order.
    """
    torch = require_extra("torch", "train")
    trl = require_extra("trl", "train")
    base: Any = whole_batches(trl.DPOTrainer, pairs, missing, seed)

    class TokenTrainer(base):  # type: ignore[misc]
        """Takes rows of tokens as they are."""

        loss_types: list[str]
        loss_weights: list[float]

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> None:
            """Count the pairs and the chosen tokens of an update, over batches and processes."""
            self.whole = self._everywhere([self._counted(batch) for batch in batch_samples])

        def _counted(self, batch: Any) -> list[int]:
            chosen = batch["completion_mask"][:, 1:].chunk(2)[0]
            return [int(chosen.any(dim=1).sum()), int(chosen.sum())]

        def _everywhere(self, counts: list[list[int]]) -> list[int]:
            here = torch.tensor(counts, device=self.accelerator.device).sum(dim=0, keepdim=True)
            return [int(count) for count in self.accelerator.gather(here).sum(dim=0)]

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            """The sum over the batch, as its part of the mean over the update.

            A silent pair's own loss is log 2, without a gradient; it has no chosen token.
            """
            (own, tokens), size = self._counted(inputs), len(inputs["completion_mask"]) // 2
            # What is divided by afterwards: batches of the update, and processes.
            share = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            parts = [share * size / self.whole[0], share * tokens / self.whole[1]]
            kinds, weights = self.loss_types, self.loss_weights
            most = len(kinds) if own else 1
            self.loss_types = kinds[:most]
            self.loss_weights = [w * p for w, p in zip(weights[:most], parts, strict=False)]
            try:
                loss = super()._compute_loss(model, inputs, return_outputs)
            finally:
                self.loss_types, self.loss_weights = kinds, weights
            metrics = self._metrics["train" if self.model.training else "eval"]
            for name in _MEANS:
                metrics[name][-1] *= parts[0]
            return loss - parts[0] * (size - own) / size * math.log(2)

    return TokenTrainer

"""The loss of SFT, DPO and GRPO falls on the policy's own tokens: nudged elsewhere, it stays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from toolgym._util.optional import quiet
from toolgym.training import dpo, grpo, sft
from toolgym.training.config import DpoConfig, GrpoConfig, Resolved, SftConfig
from toolgym.training.trl_episode import Played

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

# Two replies around a tool result; 1 = written by the policy.
PROMPT, COMPLETION = [5, 6, 7], [8, 9, 3, 20, 21, 22, 10, 11, 3]
MASK = [1, 1, 1, 0, 0, 0, 1, 1, 1]
OTHER, OTHER_MASK = [12, 9, 3, 23, 24, 13, 3], [1, 1, 1, 0, 0, 1, 1]


@pytest.fixture
def loaded(tiny_base: Path) -> tuple[Any, Any]:
    from toolgym.training.loop import load_for_training

    with quiet():
        model, tokenizer, _ = load_for_training(tiny_base, options(1))
    return model, tokenizer


@contextmanager
def nudged(model: Any, places: list[tuple[int, int]]) -> Iterator[None]:
    """Noise on what the model says at (row, position), which predicts the token after it."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        noisy = output.clone()
        generator = torch.Generator().manual_seed(0)
        for row, place in places:
            if row < len(noisy):
                noisy[row, place] += torch.randn(noisy.shape[-1], generator=generator)
        return noisy

    handle = model.base_model.norm.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def losses(
    monkeypatch: pytest.MonkeyPatch,
    train: Callable[[], Any],
    spans: list[tuple[int, int, list[int]]],
) -> tuple[float, float, float]:
    """The loss as it is, nudged where tools spoke, and nudged where the policy did.

    Args:
        monkeypatch: puts a single look at the loss into the place of the training loop.
        train: one of `run_sft`, `run_dpo`, `run_grpo`.
        spans: row of the batch, where its completion begins, its mask.
    """
    places: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for row, begin, mask in spans:
        for n, mine in enumerate(mask):
            places[mine].append((row, begin + n - 1))
    found: list[float] = []

    def look(make: Callable[[], Any], *_: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the real loop does
            trainer = make()
            model = trainer.model
            batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
            for chosen in ([], places[0], places[1]):
                with torch.no_grad(), nudged(model, chosen):
                    found.append(float(trainer.compute_loss(model, dict(batch))))

    for module in (sft, dpo, grpo):
        monkeypatch.setattr(module, "train_loop", look)
    with quiet():
        train()
    plain, tools, policy = found
    return plain, tools, policy


def options(batch_size: int) -> Resolved:
    return SftConfig(learning_rate=1e-3, batch_size=batch_size, max_updates=1).resolve()


def check(found: tuple[float, float, float]) -> None:
    plain, tools, policy = found
    assert tools == plain, "tool results take part in the loss"
    assert abs(policy - plain) > 1e-4, "the policy's own tokens take no part in the loss"


def test_sft(loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [token if mine else -100 for token, mine in zip(COMPLETION, MASK, strict=True)]
    rows = [{"input_ids": PROMPT + COMPLETION, "labels": [-100] * len(PROMPT) + labels}]

    def train() -> Any:
        return sft.run_sft(*loaded, rows, tmp_path, options(1), resume=False, progress=None)

    check(losses(monkeypatch, train, [(0, len(PROMPT), MASK)]))


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_dpo(
    loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sft_weight: float
) -> None:
    row = {"prompt_ids": PROMPT, "chosen_ids": COMPLETION, "chosen_mask": MASK}
    row |= {"rejected_ids": OTHER, "rejected_mask": OTHER_MASK}
    config = DpoConfig(beta=0.5, sft_weight=sft_weight)

    def train() -> Any:
        return dpo.run_dpo(
            *loaded, [row], tmp_path, options(1), config, resume=False, progress=None
        )

    spans = [(0, len(PROMPT), MASK), (1, len(PROMPT), OTHER_MASK)]
    check(losses(monkeypatch, train, spans))


def test_grpo(loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GrpoConfig(generations=2, beta=0.1, max_length=64)
    weights = {"good": 1.0}

    def play(model: Any, keys: Any, step: int) -> Played:
        return Played(
            prompt_ids=[PROMPT, PROMPT],
            completion_ids=[COMPLETION, OTHER],
            mask=[MASK, OTHER_MASK],
            logprobs=[[0.0] * len(COMPLETION), [0.0] * len(OTHER)],
            parts=[{"good": 1.0}, {"good": 0.0}],
        )

    def train() -> Any:
        return grpo.run_grpo(
            *loaded, ["a"], play, tmp_path, options(2), config, weights, resume=False, progress=None
        )

    # The trainer may exchange the rows of a batch: both masks on both rows, where both agree.
    both = [a & b for a, b in zip(MASK, OTHER_MASK, strict=False)]
    neither = [a | b for a, b in zip(MASK, OTHER_MASK, strict=False)]
    assert 1 in both
    assert 0 in neither
    spans = [(row, len(PROMPT), neither) for row in (0, 1)]
    plain, tools, _ = losses(monkeypatch, train, spans)
    assert tools == plain
    spans = [(row, len(PROMPT), both) for row in (0, 1)]
    plain, _, policy = losses(monkeypatch, train, spans)
    assert abs(policy - plain) > 1e-4

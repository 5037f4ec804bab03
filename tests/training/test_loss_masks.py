"""The loss of SFT, DPO and GRPO falls on the policy's own tokens: nudged elsewhere, it stays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from toolgym import Trajectory, rollout
from toolgym._util.optional import quiet
from toolgym.data.chat import LearnAs
from toolgym.data.export import IGNORED, message_rows
from toolgym.messages import Chat
from toolgym.policies.local.chat import apply_template
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
            # What the loop does before an update of one batch.
            trainer.current_gradient_accumulation_steps = 1
            trainer._get_num_items_in_batch([batch], trainer.args.device)
            for chosen in ([], places[0], places[1]):
                with torch.no_grad(), nudged(model, chosen):
                    found.append(float(trainer.compute_loss(model, dict(batch))))

    for module in (sft, dpo, grpo):
        monkeypatch.setattr(module, "train_loop", look)
    with quiet():
        train()
    plain, tools, policy = found
    return plain, tools, policy


# SmolLM2's template, with the end token of the tokenizer at hand: ChatML without generation marks,
# and a system message of its own where there is none.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|start|>system\nYou are a helpful AI assistant<|end|>\n' }}{% endif %}"
    "{{'<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


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


def practised(format: str) -> list[Trajectory]:
    """An episode with two worked examples before its question, and a result in its middle."""
    args = {"format": format, "examples": 2, "tools": ["WikipediaSearch"]}
    return rollout("ToolQA-PopQA-v0", "lookup", env_args=args, episodes=1).trajectories()


def own_places(
    tokenizer: Any, row: dict[str, Any], ids: list[int], replies: int, end: str = "<|end|>"
) -> list[int]:
    """1 for the tokens of the last replies and their ends, found in the text itself."""
    chats: list[Chat] = row.get("messages") or row["prompt"] + row["completion"]
    places = [n for n, chat in enumerate(chats) if chat["role"] == "assistant"][-replies:]
    spans = []
    for place in places:
        begin = len(
            apply_template(tokenizer, chats[:place], add_generation_prompt=True, tokenize=False)
        )
        spans.append((begin, begin + len(chats[place]["content"]) + len(end)))
    # How many characters stand before each token; a replacement sign stands for half of one.
    edges = [len(tokenizer.decode(ids[:n]).rstrip("\ufffd")) for n in range(len(ids) + 1)]
    assert edges[-1] == len(apply_template(tokenizer, chats, tokenize=False))
    return [int(any(begin <= a and b <= last for begin, last in spans)) for a, b in pairwise(edges)]


@pytest.mark.parametrize("template", ["own", "chatml"])
@pytest.mark.parametrize("format", ["react", "hermes"])
@pytest.mark.parametrize("learn_as", [None, {"examples": 0}, {"prompt": "bare", "examples": 0}])
def test_rows_of_practice_with_examples(
    loaded: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
    format: str,
    learn_as: dict[str, Any] | None,
) -> None:
    model, tokenizer = loaded
    if template == "chatml":
        tokenizer.chat_template = CHATML
    (episode,) = practised(format)
    anew = LearnAs.read(learn_as)
    # Native rows of hermes hold no examples: here all are as they were played.
    (row,), _ = message_rows([episode], style="as_played", learn_as=anew)
    prepared = sft.prepare([row], tokenizer, max_length=None)
    assert prepared.counts == {"re-rendered" if learn_as else "retokenised": 1}
    (made,) = prepared.rows
    mask = own_places(tokenizer, row, made["input_ids"], len(episode.steps))
    assert sum(mask) > 5
    assert [int(label != IGNORED) for label in made["labels"]] == mask
    examples = [m.content for m in episode.messages[: episode.opening] if m.role == "assistant"]
    text = tokenizer.decode(made["input_ids"])
    assert all((example in text) == (learn_as is None) for example in examples)

    def train() -> Any:
        given = (model, tokenizer, [made], tmp_path, options(1))
        return sft.run_sft(*given, resume=False, progress=None)

    check(losses(monkeypatch, train, [(0, 0, mask)]))


@pytest.mark.parametrize("learn_as", [None, {"examples": 0}])
def test_pairs_of_practice_with_examples(
    loaded: tuple[Any, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    learn_as: dict[str, Any] | None,
) -> None:
    model, tokenizer = loaded
    tokenizer.chat_template = CHATML
    (better,) = practised("react")
    (worse,) = rollout(
        "ToolQA-PopQA-v0",
        lambda messages, tools: "Answer: I do not know",
        env_args={"examples": 2, "tools": ["WikipediaSearch"]},
        episodes=1,
    ).trajectories()
    config = DpoConfig(pairing="right_wrong", where="calls>=1")
    prepared = dpo.prepare_pairs([better, worse], tokenizer, config, learn_as)
    assert prepared.counts == {"re-rendered" if learn_as else "retokenised": 1}
    (row,) = prepared.rows
    prompt = tokenizer.decode(row["prompt_ids"])
    assert prompt.count("Question: ") == (1 if learn_as else 3)
    sides = [(row["prompt_ids"], row[f"{side}_mask"]) for side in ("chosen", "rejected")]

    def train() -> Any:
        given = (model, tokenizer, [row], tmp_path, options(1), config)
        return dpo.run_dpo(*given, resume=False, progress=None)

    begin = len(row["prompt_ids"])
    found = losses(
        monkeypatch, train, [(n, 0, [0] * begin + mask) for n, (_, mask) in enumerate(sides)]
    )
    check(found)

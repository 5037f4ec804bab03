"""Rows whose beginning is read once: the losses and weights of rows that are read one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl")

from toolgym.data.export import IGNORED  # noqa: E402
from toolgym.training import beginnings  # noqa: E402
from toolgym.training.config import DpoConfig, Resolved, SftConfig, configure  # noqa: E402
from toolgym.training.dpo import run_dpo  # noqa: E402
from toolgym.training.sft import run_sft  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="rows are read one by one on a GPU"
)

BEGINNING = [(7 * n) % 90 + 3 for n in range(60)]


def row(number: int, *, beginning: list[int] = BEGINNING, learned: int = 6) -> dict[str, list[int]]:
    """A row with a question and a reply of its own behind a beginning that others have, too."""
    asked = [(number * 13 + n * 5) % 90 + 3 for n in range(4 + number % 5)]
    reply = [(number * 11 + n * 3) % 90 + 3 for n in range(learned)]
    ids = [*beginning, *asked, *reply]
    return {"input_ids": ids, "labels": [IGNORED] * (len(ids) - learned) + reply}


ROWS = [row(number) for number in range(12)]


def llama(**more: Any) -> Any:
    torch.manual_seed(3)
    values = {
        **{"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    }
    config = transformers.AutoConfig.for_model(more.pop("family", "llama"), **values | more)
    return transformers.AutoModelForCausalLM.from_config(config)


LEARNING = {"epochs": 2, "batch_size": 4, "device_batch_size": 4, "learning_rate": 1e-2}


def settings(**more: Any) -> Resolved:
    return configure(SftConfig, LEARNING | more, {}).resolve()


def trained(
    model: Any,
    rows: list[dict[str, list[int]]],
    tiny_base: Path,
    work: Path,
    **more: Any,
) -> tuple[list[float], Any, int]:
    """Losses, the trained weights, and how many tokens went through the model."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    read = 0

    def count(_module: Any, given: Any, _out: Any) -> None:
        nonlocal read
        read += given[0].numel()

    hook = model.get_input_embeddings().register_forward_hook(count)
    work.mkdir(parents=True)
    given, how = (model, tokenizer, rows, work), {"resume": False, "progress": None}
    if "labels" in rows[0]:
        made = run_sft(*given, settings(**more), **how)
    else:
        config = configure(DpoConfig, {"sft_weight": 0.2, **LEARNING, **more}, {})
        made = run_dpo(*given, config.resolve(), config, **how)
    hook.remove()
    weights = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    return [entry["loss"] for entry in made.log], weights, read


def both(
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, list[int]]],
    tiny_base: Path,
    tmp_path: Path,
    model: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[int, int]:
    """Train in both ways, compare, and return the tokens that each has read."""
    once = trained(llama(**model or {}), rows, tiny_base, tmp_path / "once", **more)
    monkeypatch.setattr(beginnings, "_LEAST", 1 << 30)
    each = trained(llama(**model or {}), rows, tiny_base, tmp_path / "each", **more)
    assert once[0] == pytest.approx(each[0], abs=1e-5)
    assert each[0][0] > each[0][-1] + 0.01, "it learns"
    for name, value in each[1].items():
        torch.testing.assert_close(once[1][name], value, atol=2e-4, rtol=1e-3)
    return once[2], each[2]


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ({}, {}),
        ({}, {"device_batch_size": 2}),
        ({}, {"lora": 4, "learning_rate": 3e-2}),
        ({"family": "qwen2", "use_sliding_window": False}, {}),
        ({"tie_word_embeddings": True}, {}),
        ({"family": "gpt2", "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, {}),
    ],
    ids=["llama", "two at once", "lora", "qwen2", "tied", "learned positions"],
)
def test_losses_and_weights_are_those_of_rows_read_one_by_one(
    model: dict[str, Any],
    more: dict[str, Any],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once, each = both(monkeypatch, ROWS, tiny_base, tmp_path, model, **more)
    at_once = more.get("device_batch_size", 4)
    batches = len(ROWS) // at_once * 2
    # The last token of the beginning is read with its row.
    assert each - once == batches * (at_once - 1) * (len(BEGINNING) - 1)


def test_what_is_learned_within_the_common_beginning_is_learned_in_each_row(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same first call in all rows: each of them counts."""
    rows = [row(number) for number in range(8)]
    for one in rows:
        one["labels"][40:50] = one["input_ids"][40:50]
    once, each = both(monkeypatch, rows, tiny_base, tmp_path)
    assert each - once == 4 * 3 * 39, "all that stands before the token that tells the first"


@pytest.mark.parametrize(
    "rows",
    [
        [row(n, beginning=[n + 3, *BEGINNING]) for n in range(8)],
        [row(n, beginning=BEGINNING[:20]) for n in range(8)],
    ],
    ids=["nothing in common", "little in common"],
)
def test_rows_without_a_common_beginning_are_read_one_by_one(
    rows: list[dict[str, list[int]]],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once, each = both(monkeypatch, rows, tiny_base, tmp_path)
    assert once == each


def test_a_row_that_is_all_beginning_keeps_what_it_learns(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of unlike lengths that are padded, one of them the beginning of the others."""
    short = {
        "input_ids": [*BEGINNING, 5, 6],
        "labels": [*[IGNORED] * len(BEGINNING), 5, 6],
    }
    rows = [short, *(row(n, beginning=[*BEGINNING, 5, 6]) for n in range(3))] * 2
    once, each = both(monkeypatch, rows, tiny_base, tmp_path)
    assert each > once


def pair(number: int) -> dict[str, list[int]]:
    """Two replies to one question; the better one is shorter, and has something of a tool in it."""
    worse, better = row(number, learned=9), row(number + 40, learned=5)
    asked = len(worse["input_ids"]) - 9
    return {
        "prompt_ids": worse["input_ids"][:asked],
        "chosen_ids": better["input_ids"][-7:],
        "rejected_ids": worse["input_ids"][asked:],
        "chosen_mask": [1, 1, 0, 0, 1, 1, 1],
        "rejected_mask": [1] * 9,
    }


@pytest.mark.parametrize(
    ("more", "in_common"),
    [
        ({}, len(BEGINNING) - 1),
        ({"device_batch_size": 1, "sft_weight": 0.0}, None),
        ({"lora": 4, "learning_rate": 3e-2}, len(BEGINNING) - 1),
    ],
    ids=["four pairs", "a pair alone", "lora"],
)
def test_pairs_are_read_once_by_both_models(
    more: dict[str, Any],
    in_common: int | None,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reference reads the beginning with weights of its own, or without the adapters."""
    pairs = [pair(number) for number in range(12)]
    once, each = both(monkeypatch, pairs, tiny_base, tmp_path, **more)
    if in_common is None:  # each pair has its whole prompt in common
        saved = 2 * sum(len(one["prompt_ids"]) - 1 for one in pairs)
    else:
        saved = 2 * 3 * (2 * 4 - 1) * in_common
    assert each - once == 2 * saved, "the reference counts along"


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ({"family": "mistral", "sliding_window": 16}, {}),
        ({"attention_dropout": 0.1}, {}),
        ({"family": "gpt2"}, {}),
        ({}, {"gradient_checkpointing": True}),
    ],
    ids=["sliding window", "dropout", "dropout layers", "checkpoints"],
)
def test_where_it_would_not_be_exact_the_trainer_is_as_it_was(
    model: dict[str, Any], more: dict[str, Any]
) -> None:
    assert beginnings.read_once(trl.SFTTrainer, llama(**model), settings(**more)) is trl.SFTTrainer


def test_on_a_cpu_it_is_another_one() -> None:
    found = beginnings.read_once(trl.SFTTrainer, llama(), settings())
    assert found is not trl.SFTTrainer
    assert issubclass(found, trl.SFTTrainer)

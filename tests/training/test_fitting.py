"""How many rows a CPU takes at once where nobody says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
psutil = pytest.importorskip("psutil")

from toolgym._util.jsonl import read_json  # noqa: E402
from toolgym.training import fitting  # noqa: E402
from toolgym.training.config import (  # noqa: E402
    DpoConfig,
    GrpoConfig,
    SftConfig,
    TrainConfig,
    configure,
)
from toolgym.training.fitting import bounded, installed_memory, rows_that_fit  # noqa: E402
from toolgym.training.memory import (  # noqa: E402
    TrainingSize,
    find_shape,
    shape_of_model,
    training_memory,
)
from toolgym.training.sft import train_sft  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes one row at once")
GIB = 2**30
CONFIGS: dict[str, type[TrainConfig]] = {"sft": SftConfig, "dpo": DpoConfig, "grpo": GrpoConfig}


@pytest.fixture(scope="module")
def smollm2() -> Any:
    """The network of a model of 135 million weights, without memory for them."""
    config = transformers.AutoConfig.for_model(
        **{"model_type": "llama", "vocab_size": 49152, "num_key_value_heads": 3},
        **{"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536},
        **{"num_attention_heads": 9, "tie_word_embeddings": True},
        max_position_embeddings=8192,
    )
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    gib: float,
    method: str = "sft",
    longest: int = 500,
    **given: Any,
) -> int:
    monkeypatch.setattr(fitting, "installed_memory", lambda: int(gib * GIB))
    asked = configure(CONFIGS[method], {"batch_size": 16, **given}, {})
    return rows_that_fit(method, model, longest, asked, asked.resolve()).device_batch_size


@pytest.mark.parametrize("method", CONFIGS)
def test_more_memory_holds_more_rows_and_half_of_it_is_never_passed(
    monkeypatch: pytest.MonkeyPatch, smollm2: Any, method: str
) -> None:
    shape = shape_of_model(smollm2, "test")
    found = [chosen(monkeypatch, smollm2, gib, method) for gib in (4, 8, 16, 32, 64, 256)]
    assert found == sorted(found)
    assert found[0] == 1, "one row is always taken"
    assert found[-1] == 16, "and never more than a batch"
    assert len(set(found)) > 2
    for gib, rows in zip((8, 16, 32, 64, 256), found[1:], strict=True):
        size = TrainingSize(
            method, rows, 500, checkpointing=False, half=False, reference=method == "dpo"
        )
        assert rows == 1 or training_memory(shape, size).total <= gib * GIB / 2
        assert 16 % rows == 0, "batches of a whole update"


def test_longer_rows_adapters_and_checkpoints_are_taken_into_account(
    monkeypatch: pytest.MonkeyPatch, smollm2: Any
) -> None:
    plain = chosen(monkeypatch, smollm2, 24)
    assert chosen(monkeypatch, smollm2, 24, longest=4000) < plain
    no_longer = chosen(monkeypatch, smollm2, 200, longest=8192)
    assert chosen(monkeypatch, smollm2, 200, longest=80000) == no_longer > 1, "positions bound it"
    assert chosen(monkeypatch, smollm2, 24, gradient_checkpointing=True) > plain
    assert chosen(monkeypatch, smollm2, 24, batch_size=6) in (1, 2, 3, 6)
    assert chosen(monkeypatch, smollm2, 24, "dpo") <= plain
    # Episodes of GRPO are at most as long as a prompt and a reply may be.
    short = {"max_prompt_tokens": 200, "max_new_tokens": 50}
    assert chosen(monkeypatch, smollm2, 24, "grpo", 8192, **short) > 1
    assert chosen(monkeypatch, smollm2, 24, "grpo", 8192) == 1


def test_what_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch, smollm2: Any) -> None:
    assert chosen(monkeypatch, smollm2, 1, device_batch_size=8) == 8


@pytest.mark.parametrize("family", ["gpt2", "mamba", "qwen3_moe"])
def test_other_architectures_have_a_number_as_well(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    small = {"vocab_size": 50300, "hidden_size": 48, "num_hidden_layers": 2}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(family, **small)
        )
    assert chosen(monkeypatch, model, 64) == 16
    assert chosen(monkeypatch, model, 0.1) == 1


def test_what_a_plan_says_is_what_would_be_taken(
    monkeypatch: pytest.MonkeyPatch, smollm2: Any
) -> None:
    shape = find_shape("smollm2")
    assert shape is not None
    size = TrainingSize("dpo", 16, 1000, checkpointing=False, half=False, reference=True)
    monkeypatch.setattr(fitting, "installed_memory", lambda: 24 * GIB)
    assert bounded(shape, size).total == pytest.approx(12 * GIB)
    monkeypatch.setattr(fitting, "installed_memory", lambda: 240 * GIB)
    assert bounded(shape, size) == training_memory(shape, size)
    monkeypatch.setattr(fitting, "installed_memory", lambda: GIB)
    one = TrainingSize("dpo", 1, 1000, checkpointing=False, half=False, reference=True)
    assert bounded(shape, size).total == pytest.approx(training_memory(shape, one).total)


def test_a_container_has_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(fitting, "_LIMITS", (str(tmp_path / "none"), str(limit)))
    assert installed_memory() == whole
    for text, found in {"max\n": whole, f"{GIB}\n": min(GIB, whole), f"{2**62}\n": whole}.items():
        limit.write_text(text)
        assert installed_memory() == found


def test_a_training_takes_few_rows_and_learns_the_same(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses, and the folder of one can be gone on with by the other."""
    rows = [
        {"input_ids": [5, 6, 7 + n, 8, 9 + n], "labels": [-100, -100, 7 + n, 8, 9 + n]}
        for n in range(8)
    ]
    losses = []
    for gib in (64.0, 0.1):
        monkeypatch.setattr(fitting, "installed_memory", lambda gib=gib: int(gib * GIB))
        made = train_sft(rows, tiny_base, tmp_path / str(gib), batch_size=4, epochs=1)
        written = read_json(tmp_path / str(gib) / "training.json")
        assert written["options"]["device_batch_size"] == (4 if gib > 1 else 1)
        losses.append(made.loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    again = train_sft(rows, tiny_base, tmp_path / "64.0", batch_size=4, epochs=1)
    assert again.loss == losses[0]

"""Models in the middle of a training, written for a server that plays with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

from toolgym.training.output import hand_over  # noqa: E402


class Tokenizer:
    """Writes a file, as a tokenizer does."""

    def save_pretrained(self, folder: Path) -> None:
        """Write it."""
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")


def llama(*, tied: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.arange(2, 20)[None]).logits


def read(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # of peft's own
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("adapters", [False, True])
def test_what_is_read_there_is_the_model_of_this_moment(
    tmp_path: Path, tied: bool, adapters: bool
) -> None:
    model = llama(tied=tied)
    if adapters:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        ).eval()
    folder = tmp_path / "served"
    for _ in range(2):  # the second time over the first
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if not adapters or "lora_B" in name:
                    weight += 0.05 * torch.randn_like(weight)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        hand_over(model, Tokenizer(), folder, torch.float32)
        there = read(folder)
        torch.testing.assert_close(logits(there), logits(model))
        assert there.lm_head.weight is not there.model.embed_tokens.weight
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("tied", [False, True])
def test_scrambled_weights_are_all_others(tmp_path: Path, tied: bool) -> None:
    model, state = llama(tied=tied), torch.get_rng_state()
    hand_over(model, Tokenizer(), tmp_path / "served", torch.float32, scrambled=True)
    assert torch.equal(torch.get_rng_state(), state)
    other = read(tmp_path / "served").state_dict()
    for name, weight in model.state_dict().items():
        ratio = other[name] / weight
        assert ratio.abs().max() <= 1.001
        assert ratio.std() > 0.4


def test_it_is_written_as_it_will_be_saved(tmp_path: Path) -> None:
    model = llama(tied=False)
    hand_over(model, Tokenizer(), tmp_path / "served", torch.bfloat16)
    said = json.loads((tmp_path / "served" / "config.json").read_text(encoding="utf-8"))
    assert said["dtype"] == "bfloat16"
    assert read(tmp_path / "served").dtype == torch.bfloat16
    assert model.dtype == torch.float32


def test_tied_weights_of_several_files_are_written_apart(tmp_path: Path) -> None:
    model = llama(tied=True)
    whole = model.save_pretrained
    model.save_pretrained = lambda *args, **options: whole(*args, **options, max_shard_size="10KB")
    for _ in range(2):
        hand_over(model, Tokenizer(), tmp_path / "served", torch.float32)
        there = read(tmp_path / "served")
        torch.testing.assert_close(logits(there), logits(model))
        assert there.lm_head.weight is not there.model.embed_tokens.weight
    assert len(list((tmp_path / "served").glob("*.safetensors"))) > 2

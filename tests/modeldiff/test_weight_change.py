"""The change of weights: known changes, every way of saving, adapters of peft, and refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolgym.errors import BadInputError, MissingExtraError, MissingFileError
from toolgym.modeldiff import weight_change, weights
from toolgym.modeldiff.models import tokenizer_notes
from toolgym.modeldiff.page import layer_chart, layer_map
from toolgym.modeldiff.pairs import Place, places
from toolgym.modeldiff.weights import Change, TensorChange, WeightChange

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
peft = pytest.importorskip("peft")

# peft asks transformers by a name that is going to be another.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

LAYERS = 6


def llama(**changed: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **{
                "vocab_size": 64,
                "hidden_size": 16,
                "intermediate_size": 40,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "tie_word_embeddings": False,
            }
            | changed
        )
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    llama().save_pretrained(folder)
    return folder


def tuned(base: Path, out: Path, change: Callable[[dict[str, Any]], None], **saving: Any) -> Path:
    """A copy of the model with some weights changed."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        change(dict(model.named_parameters()))
    model.save_pretrained(out, **saving)
    return out


def up(layer: int) -> str:
    return f"model.layers.{layer}.mlp.up_proj.weight"


def query(layer: int) -> str:
    return f"model.layers.{layer}.self_attn.q_proj.weight"


def by_name(change: WeightChange) -> dict[str, Change]:
    return {tensor.name: tensor.change for tensor in change.tensors}


def nudge(state: dict[str, Any]) -> None:
    torch.manual_seed(1)
    for tensor in state.values():
        tensor += 0.01 * torch.randn_like(tensor)


def test_known_changes_by_tensor_third_module_and_share(base: Path, tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        state[up(0)] *= 1.5
        state[query(5)] *= 0.9
        state["lm_head.weight"][3] += 2.0

    found = weight_change(base, tuned(base, tmp_path / "t", change))
    named = by_name(found)
    assert found.layers == LAYERS
    assert named[up(0)].relative == pytest.approx(0.5)
    assert named[query(5)].relative == pytest.approx(0.1)
    assert (named["lm_head.weight"].moved, named["lm_head.weight"].changed) == (
        pytest.approx(16 * 4.0),
        16,
    )
    still = [name for name, moved in named.items() if moved.moved == 0]
    assert len(still) == len(named) - 3

    model = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    lower = sum(
        float((model[f"model.layers.{n}.mlp.{p}_proj.weight"].double() ** 2).sum())
        for n in (0, 1)
        for p in ("gate", "up", "down")
    )
    expected = 0.5 * float(model[up(0)].double().norm()) / math.sqrt(lower)
    thirds = found.thirds()
    assert thirds["lower", "mlp"].relative == pytest.approx(expected)
    assert thirds["upper", "mlp"].moved == thirds["lower", "attention"].moved == 0
    assert thirds["upper", "attention"].moved == named[query(5)].moved
    whole = sum(c.moved for c in named.values())
    assert found.share(thirds["lower", "mlp"]) == pytest.approx(named[up(0)].moved / whole)
    assert set(found.modules()) == {"attention", "mlp", "norms", "embeddings", "head"}
    assert sum(found.share(change) for change in found.modules().values()) == pytest.approx(1)
    assert found.total.elements == sum(tensor.numel() for tensor in model.values())


def test_shards_and_bin_files_give_the_same_figures(base: Path, tmp_path: Path) -> None:
    whole = tuned(base, tmp_path / "whole", nudge)
    shards = tuned(base, tmp_path / "shards", nudge, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    pickled = tmp_path / "bin"
    shutil.copytree(whole, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    state = safetensors.load_file(whole / "model.safetensors")
    torch.save(state, pickled / "pytorch_model.bin")
    legacy = tmp_path / "legacy"
    shutil.copytree(pickled, legacy)
    torch.save(state, legacy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    parts = tmp_path / "parts"
    shutil.copytree(pickled, parts, ignore=shutil.ignore_patterns("*.bin"))
    files = {name: f"pytorch_model-{n % 2}.bin" for n, name in enumerate(state)}
    for file in set(files.values()):
        torch.save({k: v for k, v in state.items() if files[k] == file}, parts / file)
    (parts / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    first = weight_change(base, whole)
    assert first.total.moved > 0
    for other in (shards, pickled, parts, legacy):
        assert weight_change(base, other).to_dict() == first.to_dict()
        assert weight_change(whole, other).total.moved == 0


@given(
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3),
    dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]),
    piece=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_of_any_size_add_up_to_the_norm_of_the_whole(
    shape: list[int],
    dtype: str,
    piece: int,
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "_CHUNK", piece)
    torch.manual_seed(seed)
    sides = [torch.randn(shape).to(getattr(torch, dtype)) for _ in range(2)]
    for name, tensor in zip("ab", sides, strict=True):
        (tmp_path / name).mkdir(exist_ok=True)
        safetensors.save_file({"x.weight": tensor}, tmp_path / name / "model.safetensors")
    found = weight_change(tmp_path / "a", tmp_path / "b").total
    old, new = (tensor.double() for tensor in sides)
    assert found.moved == pytest.approx(float(((new - old) ** 2).sum()), rel=1e-12)
    assert found.size == pytest.approx(float((old**2).sum()), rel=1e-12)
    assert (found.elements, found.changed) == (old.numel(), int((old != new).sum()))


@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers.:UserWarning")
@pytest.mark.parametrize(
    "settings_",
    [
        {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 12},
        {"target_modules": "all-linear", "use_rslora": True},
        {
            "target_modules": ["up_proj", "k_proj"],
            "alpha_pattern": {"layers.1.mlp.up_proj": 40},
            "rank_pattern": {"k_proj": 2},
        },
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["v_proj", "embed_tokens"]},
    ],
)
def test_an_adapter_changes_what_peft_merges(
    settings_: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **settings_)
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "modules_to_save" in name:
                tensor += 0.1
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    model.save_pretrained(adapter)
    model.merge_and_unload().save_pretrained(merged)
    expected, found = weight_change(base, merged), weight_change(base, adapter)
    assert expected.total.moved > 0
    for name, change in by_name(expected).items():
        assert by_name(found)[name].moved == pytest.approx(change.moved, rel=1e-5), name
    # The other way round, and against another adapter: sums instead of what was added.
    assert weight_change(adapter, merged).total.relative == pytest.approx(0, abs=1e-6)


def test_two_adapters_stand_on_the_model_that_they_name(base: Path, tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = peft.get_peft_model(model, config)
        folders += [tmp_path / f"adapter{seed}", tmp_path / f"merged{seed}"]
        model.save_pretrained(folders[-2])
        model.merge_and_unload().save_pretrained(folders[-1])
    found = weight_change(folders[0], folders[2])
    assert found.total.moved == pytest.approx(
        weight_change(folders[1], folders[3]).total.moved, rel=1e-5
    )
    assert found.total.changed == LAYERS * 16 * 16


def test_gpt2_names_layouts_and_first_words(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_embd=8, n_layer=3, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "base")
    state = safetensors.load_file(tmp_path / "base" / "model.safetensors")
    assert all(name.startswith("transformer.") for name in state)
    # As the first published files are: no first word, and the attention's mask among the weights.
    plain = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    plain["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "base", old)
    safetensors.save_file(plain, old / "model.safetensors")
    wrapped = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=2,
            target_modules=["c_attn", "attn.c_proj"],
            fan_in_fan_out=True,
            init_lora_weights=False,
        ),
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    found = weight_change(old, tmp_path / "merged")
    assert found.layers == 3
    assert set(found.modules()) == {"attention", "mlp", "norms", "embeddings"}
    moved = {t.place.kind for t in found.tensors if t.change.moved}
    assert moved == {"c_attn", "c_proj"}
    exact = weight_change(tmp_path / "base", tmp_path / "adapter")
    assert exact.total.moved == pytest.approx(found.total.moved, rel=1e-5)


def test_grown_embeddings_are_compared_in_their_common_rows(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(70, mean_resizing=False)
    model.save_pretrained(tmp_path / "grown")
    found = weight_change(base, tmp_path / "grown")
    assert found.total.moved == 0
    assert any("64 rows before and 70 after; the first 64" in note for note in found.notes)
    shapes = {t.name: t.shape for t in found.tensors}
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (64, 16)


def test_a_head_of_its_own_is_compared_with_the_tied_one(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "tied")
    state = safetensors.load_file(tmp_path / "tied" / "model.safetensors")
    assert "lm_head.weight" not in state
    for name, tied in (("own", False), ("both", True)):
        shutil.copytree(tmp_path / "tied", tmp_path / name)
        table = state["model.embed_tokens.weight"]
        safetensors.save_file(
            state | {"lm_head.weight": 2 * table}, tmp_path / name / "model.safetensors"
        )
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(
            json.dumps(config | {"tie_word_embeddings": tied})
        )
    found = weight_change(tmp_path / "tied", tmp_path / "own")
    assert found.modules()["head"].relative == pytest.approx(1.0)
    assert any("has none of its own" in note for note in found.notes)
    shutil.copytree(tmp_path / "both", tmp_path / "both2")
    again = weight_change(tmp_path / "both", tmp_path / "both2")
    assert "head" not in again.modules()
    assert "counted once" in " ".join(again.notes)


@pytest.mark.parametrize(("dtype", "percent"), [("bfloat16", 0.16), ("float16", 0.02)])
def test_rounding_to_fewer_bits_is_said_to_be_rounding(
    dtype: str, percent: float, base: Path, tmp_path: Path
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "half")
    found = weight_change(base, tmp_path / "half")
    assert 100 * found.modules()["mlp"].relative == pytest.approx(percent, rel=0.1)
    assert any(f"rounding alone shows as about {percent} %" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.self_attn.q_proj.weight", Place(3, "attention", "q_proj")),
        ("model.layers.3.self_attn.q_norm.weight", Place(3, "norms", "q_norm")),
        ("model.layers.3.post_attention_layernorm.weight", Place(3, "norms", "")),
        ("model.layers.0.mlp.experts.7.down_proj.weight", Place(0, "mlp", "down_proj")),
        ("model.layers.0.block_sparse_moe.gate.weight", Place(0, "mlp", "gate")),
        ("model.layers.0.linear_attn.in_proj_qkvz.weight", Place(0, "attention", "")),
        ("transformer.h.11.attn.c_attn.bias", Place(11, "attention", "c_attn")),
        ("transformer.h.11.ln_1.weight", Place(11, "norms", "ln_1")),
        ("transformer.h.2.self_attention.dense.weight", Place(2, "attention", "dense")),
        ("transformer.h.2.mlp.dense_h_to_4h.weight", Place(2, "mlp", "dense_h_to_4h")),
        ("model.decoder.layers.1.fc1.weight", Place(1, "mlp", "fc1")),
        ("layers.1.feed_forward.w2.weight", Place(1, "mlp", "w2")),
        ("model.layers.4.mixer.in_proj.weight", Place(4, "other", "in_proj")),
        ("model.embed_tokens.weight", Place(None, "embeddings", "embed_tokens")),
        ("transformer.wte.weight", Place(None, "embeddings", "wte")),
        ("model.norm.weight", Place(None, "norms", "norm")),
        ("transformer.ln_f.bias", Place(None, "norms", "ln_f")),
        ("lm_head.weight", Place(None, "head", "lm_head")),
        ("embed_out.weight", Place(None, "head", "embed_out")),
    ],
)
def test_places_of_names_as_published_models_have_them(name: str, expected: Place) -> None:
    found = places({name: 1})[name]
    assert (found.layer, found.module) == (expected.layer, expected.module)
    assert expected.kind in ("", found.kind)


def test_the_layers_are_those_of_the_largest_stack() -> None:
    names = {f"model.language_model.layers.{n}.mlp.up_proj.weight": 100 for n in range(4)}
    names |= {f"vision_tower.blocks.{n}.mlp.fc1.weight": 10 for n in range(9)}
    found = places(names)
    assert max(place.layer or 0 for place in found.values()) == 3
    assert found["vision_tower.blocks.8.mlp.fc1.weight"] == Place(None, "other", "fc1")


def assert_refused(
    base: Path, other: Path | str, message: str, kind: type[Exception] = BadInputError
) -> None:
    with pytest.raises(kind, match=message) as caught:
        weight_change(base, other)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_compared_are_one_clear_line(base: Path, tmp_path: Path) -> None:
    assert_refused(base, base, "are the same folder")
    (tmp_path / "link").symlink_to(base)
    assert_refused(base, tmp_path / "link", "are the same folder")
    assert_refused(
        base, base.with_name("bas"), r"does not exist \(did you mean 'base'", MissingFileError
    )
    assert_refused(base, base / "config.json", "is a file", MissingFileError)
    assert_refused(base, "no-such-model", "is not a folder, and the hub's cache", MissingFileError)
    assert_refused(base, "nobody/nothing", "fetch it with: hf download", MissingFileError)
    llama(hidden_size=32).save_pretrained(tmp_path / "wide")
    assert_refused(base, tmp_path / "wide", "is 64 x 16 in .* and 64 x 32")
    llama(num_hidden_layers=7).save_pretrained(tmp_path / "deep")
    assert_refused(base, tmp_path / "deep", r"only .*deep' holds 'model.layers.6.* and 8 more")
    (tmp_path / "empty").mkdir()
    assert_refused(base, tmp_path / "empty", "holds no weights", MissingFileError)
    other = tuned(base, tmp_path / "t", nudge)
    config = json.loads((other / "config.json").read_text())
    for change, message in (
        ({"model_type": "qwen3"}, "of type 'llama' and .* of type 'qwen3'"),
        ({"quantization_config": {"bits": 4}}, "is quantised"),
    ):
        (other / "config.json").write_text(json.dumps(config | change))
        assert_refused(base, other, message)
    (other / "config.json").write_text("{")
    assert_refused(base, other, "is not valid JSON")


def test_broken_files_are_one_clear_line(base: Path, tmp_path: Path) -> None:
    other = tuned(base, tmp_path / "t", lambda s: s[up(2)].fill_(float("nan")))
    assert_refused(base, other, r"'model.layers.2.mlp.up_proj.weight' .* holds NaN")
    file = other / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert_refused(base, other, "is cut off")
    for content in (b"", b"{}", whole[:40], b"\xff" * 64):
        file.write_bytes(content)
        assert_refused(base, other, "is not a safetensors file")
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert_refused(base, other, "git lfs pull")
    state = safetensors.load_file(base / "model.safetensors")
    safetensors.save_file(state | {up(0): state[up(0)].to(torch.int8)}, file)
    assert_refused(base, other, "holds I8, not floats")
    shards = tuned(base, tmp_path / "shards", nudge, max_shard_size="20KB")
    sorted(shards.glob("*.safetensors"))[1].unlink()
    assert_refused(base, shards, "00002-of-.* is missing", MissingFileError)
    file.unlink()
    (other / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert_refused(base, other, "cannot be read by torch")


def test_adapters_of_other_kinds_or_models_are_refused(base: Path, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "dora")
    assert_refused(base, tmp_path / "dora", r"type DoRA, not plain LoRA: merge it")
    wide = peft.get_peft_model(
        llama(hidden_size=32), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
    wide.save_pretrained(tmp_path / "wide")
    assert_refused(base, tmp_path / "wide", r"is \(32, 32\), the model's \(16, 16\)")
    deep = peft.get_peft_model(
        llama(num_hidden_layers=7), peft.LoraConfig(r=2, target_modules=["q_proj"])
    )
    deep.save_pretrained(tmp_path / "deep")
    assert_refused(base, tmp_path / "deep", "which .* does not hold: name the model")
    tokens = peft.get_peft_model(
        llama(), peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1, 2])
    )
    tokens.save_pretrained(tmp_path / "tokens")
    assert_refused(base, tmp_path / "tokens", "trainable_tokens_delta', which is not a LoRA pair")
    (tmp_path / "deep" / "adapter_model.safetensors").unlink()
    assert_refused(base, tmp_path / "deep", "has no adapter_model.safetensors", MissingFileError)


def test_a_hub_id_is_found_in_the_cache(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    snapshot = tmp_path / "models--me--tuned" / "snapshots" / "abc"
    tuned(base, snapshot, nudge)
    (tmp_path / "models--me--tuned" / "refs").mkdir()
    (tmp_path / "models--me--tuned" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert weight_change(base, "me/tuned").total.moved > 0


def test_pickles_need_torch_and_say_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"toolgym\[train\]"):
        weight_change(base, tmp_path)


def vocabulary(folder: Path, tokens: list[str], template: str = "{{ x }}") -> Path:
    folder.mkdir()
    vocab = {token: number for number, token in enumerate(tokens)}
    added = [{"id": len(tokens), "content": "<|end|>"}]
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocab}, "added_tokens": added})
    )
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_vocabularies(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(50)]
    base = vocabulary(tmp_path / "base", words)
    assert tokenizer_notes(base, vocabulary(tmp_path / "same", words)) == []
    named = vocabulary(tmp_path / "named", [*words[:-1], "<tool>"], "{{ y }}")
    assert tokenizer_notes(base, named) == [
        "1 ids stand for other tokens (49: 'w49' is '<tool>').",
        "The chat templates differ: the two models were not prompted alike.",
    ]
    with pytest.raises(BadInputError, match=r"vocabularies differ: 5. of 51 common ids"):
        tokenizer_notes(base, vocabulary(tmp_path / "other", words[::-1]))
    (tmp_path / "none").mkdir()
    assert tokenizer_notes(base, tmp_path / "none") == [
        "The tuned model has no tokenizer.json: the vocabularies were not compared.",
        "The tuned model has no chat template.",
    ]


def made_up(layers: int, moved: float) -> WeightChange:
    rng = np.random.default_rng(0)
    tensors = []
    for layer in range(layers):
        for module, kind in (("attention", "q_proj"), ("mlp", "up<proj")):
            change = Change(10, 10, moved * rng.random(), 1.0)
            tensors.append(
                TensorChange(f"{layer}.{kind}", Place(layer, module, kind), (10,), change)
            )
    return WeightChange(tensors, layers)


@pytest.mark.parametrize("layers", [1, 2, 3, 32, 126])
@pytest.mark.parametrize("moved", [0.0, 1e-12, 1.0, 1e9])
def test_drawings_are_whole_and_stay_inside(layers: int, moved: float) -> None:
    change = made_up(layers, moved)
    for drawn in (layer_chart(change), layer_map(change)):
        root = ElementTree.fromstring(drawn)
        width = float(root.attrib["width"])
        for element in root.iter():
            for key in ("x", "cx", "x1", "x2"):
                assert 0 <= float(element.attrib.get(key, 0)) <= width
            for key in ("y", "cy", "y1", "y2"):
                assert 0 <= float(element.attrib.get(key, 0)) <= float(root.attrib["height"])
    cells = [e for e in ElementTree.fromstring(layer_map(change)).iter() if e.tag.endswith("title")]
    assert len(cells) == 2 * layers
    assert f"layer {layers - 1}, up<proj" in (cells[-1].text or "")

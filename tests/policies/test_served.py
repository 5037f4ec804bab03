"""A served model asked by token ids, rendered with its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from model_server import ANSWER, SEARCH, ModelServer  # noqa: E402

from toolgym import rollout  # noqa: E402
from toolgym.errors import BadInputError  # noqa: E402
from toolgym.formats import get_format  # noqa: E402
from toolgym.messages import Message, to_chats  # noqa: E402
from toolgym.policies import Request, make_policy  # noqa: E402
from toolgym.policies.local.served import TokenEndpointPolicy  # noqa: E402

END = "<|end|>"
TEMPLATE = (
    "{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token a character, and one for two letters that a sampler need not have used."""
    alphabet = ["\u0120", "\u010a", *map(chr, range(33, 127)), "oo"]
    vocabulary = {token: n for n, token in enumerate(alphabet)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("o", "o")]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens([END, *(f"<|{role}|>" for role in ("system", "user", "assistant"))])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)
    made.chat_template = TEMPLATE
    path = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(path)
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[ModelServer]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def letters(text: str) -> list[int]:
        """As a model may sample: letter by letter, where the tokenizer would join two."""
        blanks = text.replace(" ", "\u0120").replace("\n", "\u010a")
        return [*map(tokenizer.convert_tokens_to_ids, blanks), tokenizer.eos_token_id]

    made = ModelServer("vllm", encode=letters)
    made.say = lambda turn: SEARCH if turn < 2 else ANSWER
    made.tokenizer = tokenizer  # type: ignore[attr-defined]
    yield made
    made.end()


@pytest.fixture(autouse=True)
def counted_by_the_tokenizer(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    monkeypatch.setattr(
        "model_server.turn_of",
        lambda body: tokenizer.decode(body["prompt"]).count("Thought: I look it up"),
    )


def test_every_episode_is_token_exact(server: ModelServer, folder: Path) -> None:
    policy = make_policy(f"token-endpoint:{server.url}#m", tokenizer=str(folder))
    run = rollout("ToolQA-PopQA-v0", policy, episodes=3, env_args={"prompt": "bare"})
    policy.close()
    assert set(server.paths) == {"/v1/completions"}
    assert all("messages" not in body for body in server.bodies)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for trajectory in run:
        tokens = trajectory.tokens
        assert tokens is not None, "its ids are not those that the tokenizer makes of its text"
        assert tokens.logprobs is not None
        assert tokens.tokenizer == policy.tokenizer_hash == run.settings["hashes"]["tokenizer"]
        ids = zip(tokens.completion_ids, tokens.mask, strict=True)
        own = tokenizer.decode([i for i, mine in ids if mine])
        assert own == f"{SEARCH}{END}{SEARCH}{END}{ANSWER}{END}"
        assert [step.action for step in trajectory.steps] == [SEARCH, SEARCH, ANSWER]
        assert "oo" in own
        assert tokenizer.convert_tokens_to_ids("oo") not in tokens.completion_ids[:40]
    told = policy.describe()
    assert (told["policy"], told["tokens"]) == ("token-endpoint", True)


def test_a_server_without_ids_is_a_failure_that_says_so(server: ModelServer, folder: Path) -> None:
    server.kind = "plain"
    policy = TokenEndpointPolicy(server.url, model="m", tokenizer=str(folder))
    codec = get_format("react", "bare")
    messages: Any = to_chats(codec.render([], [Message("user", "Q?")]))
    (reply,) = policy.act([Request(messages, [], codec)])
    policy.close()
    assert "sent no token ids" in str(reply)


def test_what_it_needs() -> None:
    for options in ({}, {"tokenizer": "there", "native_tools": True}):
        with pytest.raises(BadInputError, match="needs the model's tokenizer"):
            TokenEndpointPolicy("http://127.0.0.1:9/v1", model="m", **options)

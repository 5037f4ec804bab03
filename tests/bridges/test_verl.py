"""The bridge to verl, over a stand-in of its agent loop; `make bridge-verl` has the real one."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest
import trainers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolgym.bridges.episode import COLUMN
from toolgym.errors import BadInputError, MissingExtraError
from toolgym.policies.base import ReplyTokens, Request, cut_at_stop, join_tokens

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

GSM8K = "ToolQA-GSM8K-v0"
END = "<|im_end|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
REPLIES = ["Action: Calculator[2+3]", "", "Thought: no.\nAction: Oven[x]", "Answer: 5"]


@pytest.fixture(scope="module")
def bridge() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    for name, made in trainers.verl().items():
        patch.setitem(sys.modules, name, made)
    patch.delitem(sys.modules, "toolgym.bridges.verl", raising=False)
    yield importlib.import_module("toolgym.bridges.verl")
    patch.undo()
    sys.modules.pop("toolgym.bridges.verl", None)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Each byte is a token; what a template writes is special."""
    base = tokenizers.Tokenizer(tokenizers.models.BPE())
    base.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", END, "<|pad|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    base.train_from_iterator(["Thought: Action: Calculator Answer: Response from tool"], trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, eos_token=END, pad_token="<|pad|>"
    )
    made.chat_template = CHATML
    return made


def sampled(tokenizer: Any, text: str, ended: bool = True, known: bool = True) -> Any:
    """A reply letter by letter: not as its text would be tokenised."""
    ids = [i for letter in text for i in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    ids += [tokenizer.eos_token_id] if ended else []
    return ids, [-(place + 1) / 64 for place in range(len(ids))] if known else None


def play(
    bridge: ModuleType,
    tokenizer: Any,
    replies: list[Any],
    builder: type[trainers.Builder] = trainers.Builder,
    args: dict[str, Any] | None = None,
    **rollout: Any,
) -> tuple[trainers.Output, trainers.Server]:
    row = bridge.verl_rows(GSM8K, args)[0]
    server = trainers.Server(replies)

    async def run() -> Any:
        kind = type("Loop", (bridge.VerlLoop,), {"builder": builder})
        loop = kind(server, tokenizer, **rollout)
        return await loop.run({"temperature": 1.0}, **row, raw_prompt=row["prompt"])

    return asyncio.run(run()), server


def ours(tokenizer: Any, replies: list[Any]) -> tuple[Any, Any]:
    """The same episode in the environment itself, with the tokens that a rollout records."""
    from toolgym.policies.local.chat import TokenChat

    env = gym.make(GSM8K, disable_env_checker=True).unwrapped
    _, info = env.reset(options={"task": 0})
    chat, turns = TokenChat(tokenizer), []
    for turn, (ids, logprobs) in enumerate(replies):
        request = Request(info["messages"], info["tools"], env.format, episode="e", turn=turn)
        prompt = chat.prompts([request])[0]
        text = cut_at_stop(chat.decode(ids), request)
        chat.keep(request, ids, text)
        turns.append(ReplyTokens(prompt, ids, logprobs))
        *_, info = env.step(text)
    return join_tokens(turns, ""), env.trajectory


@pytest.mark.parametrize("builder", [trainers.Builder, trainers.QwenBuilder])
@given(ended=st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_tokens_and_masks_are_those_of_a_rollout(
    bridge: ModuleType, tokenizer: Any, builder: type[trainers.Builder], ended: list[bool]
) -> None:
    replies = [
        sampled(tokenizer, text, whole)
        for text, whole in zip(REPLIES, ended, strict=True)
        if text or whole
    ]
    output, server = play(bridge, tokenizer, replies, builder)
    tokens, record = ours(tokenizer, replies)
    assert output.prompt_ids == tokens.prompt_ids
    assert output.response_ids == tokens.completion_ids
    assert output.response_mask == tokens.mask
    assert output.response_logprobs == tokens.logprobs
    assert sum(output.response_mask) == sum(len(ids) for ids, _ in replies)
    own = zip(output.response_ids, output.response_mask, strict=True)
    assert [i for i, mine in own if mine] == [i for ids, _ in replies for i in ids]
    assert output.extra_fields["turn_scores"] == [step.reward for step in record.steps]
    assert server.prompts[-1][: len(tokens.prompt_ids)] == tokens.prompt_ids


def test_the_reward_is_that_of_the_episode(bridge: ModuleType, tokenizer: Any) -> None:
    gold = gym.make(GSM8K, disable_env_checker=True).unwrapped.tasks[0].answers[0]
    replies = [sampled(tokenizer, text) for text in (*REPLIES[:3], f"Answer: {gold}")]
    output, _ = play(bridge, tokenizer, replies)
    assert output.reward_score == 1.0
    assert output.num_turns == 8
    told = output.extra_fields
    assert told["turn_scores"] == [0.0, 0.0, 0.0, 1.0]
    assert told["tool_rewards"] == []
    assert told["reward_extra_info"] == {"answered": 1.0, "replies": 4.0}
    assert told[COLUMN]["parts"] == {"accuracy": 1.0}
    assert (told["min_global_steps"], told["max_global_steps"]) == (1, 4)
    assert vars(output.metrics).keys() == {"generate_sequences", "tool_calls"}


def test_a_full_response_ends_the_episode(bridge: ModuleType, tokenizer: Any) -> None:
    replies = [sampled(tokenizer, text) for text in REPLIES]
    first = len(replies[0][0])
    for limit in (first, first + 5, 10_000):
        output, server = play(bridge, tokenizer, replies, response_length=limit)
        assert len(output.response_ids) == len(output.response_mask) <= limit
        assert len(output.response_logprobs) == len(output.response_ids)
        assert len(server.prompts) == len(output.extra_fields["turn_scores"])
    whole = output.response_ids
    output, server = play(bridge, tokenizer, replies, response_length=first + 5)
    assert output.response_ids == whole[: first + 5]
    assert output.extra_fields["reward_extra_info"] == {"answered": 0.0, "replies": 1.0}
    assert len(server.prompts) == 1


def test_replies_without_log_probabilities_leave_the_episode_without(
    bridge: ModuleType, tokenizer: Any
) -> None:
    replies = [sampled(tokenizer, text, known=n != 1) for n, text in enumerate(REPLIES)]
    output, _ = play(bridge, tokenizer, replies)
    assert output.response_logprobs is None
    assert output.response_mask.count(1) == sum(len(ids) for ids, _ in replies)


@pytest.mark.parametrize(
    ("rollout", "sent"),
    [
        ({"name": "vllm"}, True),
        ({"name": "sglang", "skip_tokenizer_init": False}, True),
        ({"name": "sglang", "skip_tokenizer_init": True}, False),
        ({"name": "trtllm"}, False),
    ],
)
def test_stop_texts_go_to_servers_that_read_texts(
    bridge: ModuleType, tokenizer: Any, rollout: dict[str, Any], sent: bool
) -> None:
    replies = [sampled(tokenizer, "Answer: 5")]
    _, server = play(bridge, tokenizer, replies, **rollout)
    stop = {"stop": ["\nResponse from tool "]} if sent else {}
    assert server.sampling == {"temperature": 1.0} | stop
    _, server = play(bridge, tokenizer, replies, args={"format": "hermes"}, **rollout)
    assert server.sampling == {"temperature": 1.0}


def test_a_template_without_end_tokens_gets_none(bridge: ModuleType, tokenizer: Any) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = NO_END
    replies = [sampled(plain, text) for text in REPLIES]
    output, _ = play(bridge, plain, replies)
    assert sum(output.response_mask) == sum(len(ids) for ids, _ in replies)
    assert output.response_ids.count(plain.eos_token_id) == len(replies)


def test_rows_are_what_verls_data_set_reads(bridge: ModuleType, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [*bridge.verl_rows(GSM8K, {"max_steps": 4}), *bridge.verl_rows("ToolScenario-v0")]
    read = parquet.read_table(bridge.write_verl(tmp_path / "rows.parquet", rows)).to_pylist()
    assert read == rows, "no field of one row may reach another"
    assert {row["agent_name"] for row in rows} == {bridge.NAME}
    assert {row["data_source"] for row in rows} == {GSM8K, "ToolScenario-v0"}
    assert all(row["reward_model"]["style"] == "rule" for row in rows)
    registry = sys.modules["verl.experimental.agent_loop.agent_loop"].registry
    assert registry == {bridge.NAME: bridge.VerlLoop}


def test_a_row_of_something_else_is_refused(bridge: ModuleType, tokenizer: Any) -> None:
    async def run(**row: Any) -> Any:
        return await bridge.VerlLoop(trainers.Server([]), tokenizer).run({}, **row)

    for row in ({}, {"extra_info": None}, {"extra_info": {"index": 1}}):
        with pytest.raises(BadInputError, match="no column 'toolgym'"):
            asyncio.run(run(**row))


def test_without_verl_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verl", None)
    monkeypatch.delitem(sys.modules, "toolgym.bridges.verl", raising=False)
    for name in [name for name in sys.modules if name.startswith("verl.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[verl\]'") as raised:
        importlib.import_module("toolgym.bridges.verl")
    assert "environment of its own" in str(raised.value)
    assert "\n" not in str(raised.value)

"""DPO and GRPO in the small: real trainers, real episodes, resuming, what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import toolgym
from toolgym import Trajectory, export, rollout, tool
from toolgym._util.jsonl import read_rows
from toolgym.env import ToolEnv
from toolgym.errors import BadInputError, PolicyError, RunMismatchError
from toolgym.registry import TOOLS
from toolgym.training.config import DpoConfig
from toolgym.training.dpo import prepare_pairs, train_dpo
from toolgym.training.grpo import train_grpo
from toolgym.training.output import LOG
from toolgym.training.trl_episode import Player, Start, starts_from_episodes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

CALL = "Thought: a tool.\nAction: Calculator[6*{n}]"
DPO: dict[str, Any] = {"batch_size": 8, "max_updates": 3, "learning_rate": 1e-3, "save_every": 1}
GRPO: dict[str, Any] = {
    **{"generations": 4, "batch_size": 8, "max_updates": 2, "learning_rate": 1e-3, "save_every": 1},
    **{"max_new_tokens": 8, "max_length": 400},
}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    rows = [
        {"id": f"q{n}", "question": f"What is 6*{n}?", "answers": [str(6 * n)]} for n in range(8)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"tasks": str(file), "tools": ["Calculator"], "prompt": "bare", "max_steps": 2}


@pytest.fixture(scope="module")
def episodes(arguments: dict[str, Any]) -> list[Trajectory]:
    env = gym.make("ToolQA-GSM8K-v0", **arguments).unwrapped
    played = []
    for n in range(8):
        for sample, replies in enumerate(
            ([CALL.format(n=n), f"Answer: {6 * n}"], [CALL.format(n=n), f"Answer: {6 * n + 1}"])
        ):
            env.reset(options={"task": f"q{n}", "sample": sample})
            for reply in replies:
                env.step(reply)
            played.append(env.trajectory)  # type: ignore[attr-defined]
    return played


def weights(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_pairs_of_messages_are_masked_and_share_their_prompt(
    tiny_base: Path, episodes: list[Trajectory]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    made = prepare_pairs(episodes, tokenizer, DpoConfig(pairing="right_wrong"))
    row = made.rows[0]
    chosen = [t for t, mine in zip(row["chosen_ids"], row["chosen_mask"], strict=True) if mine]
    text = tokenizer.decode(chosen)
    assert "Action: Calculator[6*0]" in text
    assert "Answer: 0" in text
    assert "Response" not in text
    assert "Response" in tokenizer.decode(row["chosen_ids"])
    diverging = DpoConfig(pairing="first_divergence")
    late = prepare_pairs(episodes, tokenizer, diverging).rows[0]
    assert "Response" in tokenizer.decode(late["prompt_ids"])
    assert "Answer: 0" in tokenizer.decode(late["chosen_ids"])
    assert made.trained_tokens > 2 * len(made.rows)


def test_dpo_trains_resumes_and_knows_its_folder(
    tiny_base: Path, episodes: list[Trajectory], tmp_path: Path
) -> None:
    whole = train_dpo(episodes, tiny_base, tmp_path / "whole", pairing="right_wrong", **DPO)
    assert whole.steps == 3
    assert 0.0 <= whole.figures["accuracy"] <= 1.0
    assert not same(weights(tiny_base), weights(whole.path))
    assert len(list(read_rows(whole.path / LOG))) == 3

    def interrupt(step: int, *_: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    options = {"pairing": "right_wrong", **DPO}
    with pytest.raises(KeyboardInterrupt):
        train_dpo(episodes, tiny_base, tmp_path / "cut", **options, progress=interrupt)
    cut = train_dpo(episodes, tiny_base, tmp_path / "cut", **options)
    assert (cut.loss, cut.figures) == (whole.loss, whole.figures)
    assert same(weights(cut.path), weights(whole.path))
    assert train_dpo(episodes, tiny_base, tmp_path / "cut", **options) == cut
    with pytest.raises(RunMismatchError, match="begun with options"):
        train_dpo(episodes, tiny_base, tmp_path / "cut", **options, beta=0.1)


def test_exported_pairs_train_with_adapters(
    tiny_base: Path, episodes: list[Trajectory], tmp_path: Path
) -> None:
    export(episodes, "dpo", pairing="right_wrong", out=tmp_path / "pairs.jsonl")
    made = train_dpo(tmp_path / "pairs.jsonl", tiny_base, tmp_path / "model", lora=4, **DPO)
    assert made.counts == {"retokenised": 8}
    assert set(weights(made.path)) == set(weights(tiny_base))


def test_grpo_plays_our_environment_and_resumes(
    tiny_base: Path, arguments: dict[str, Any], tmp_path: Path
) -> None:
    reward = {"accuracy": 1.0, "execution_precision": 0.5}
    given: dict[str, Any] = {"env_args": arguments | {"reward": reward}, **GRPO}
    whole = train_grpo(
        "ToolQA-GSM8K-v0", tiny_base, tmp_path / "whole", record_episodes=True, **given
    )
    assert whole.counts == {"episodes": 16}
    assert set(whole.figures) == {"reward", "accuracy", "execution_precision"}
    log = [row for _, row in read_rows(whole.path / LOG)]
    assert {"rewards/accuracy/mean", "rewards/execution_precision/mean"} <= set(log[0])
    files = sorted((whole.path / "episodes").iterdir())
    assert [file.name for file in files] == ["step-000001.jsonl", "step-000002.jsonl"]
    rows = [Trajectory.from_row(row) for _, row in read_rows(files[0])]
    assert len(rows) == 8
    assert all(row.tokens is not None and sum(row.tokens.mask) for row in rows)

    def interrupt(step: int, *_: Any) -> None:
        if step == 2:
            raise KeyboardInterrupt

    given["record_episodes"] = True
    with pytest.raises(KeyboardInterrupt):
        train_grpo("ToolQA-GSM8K-v0", tiny_base, tmp_path / "cut", **given, progress=interrupt)
    cut = train_grpo("ToolQA-GSM8K-v0", tiny_base, tmp_path / "cut", **given)
    assert (cut.loss, cut.figures, cut.counts) == (whole.loss, whole.figures, whole.counts)
    assert same(weights(cut.path), weights(whole.path))


def scripted(replies: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model's policy say what is written instead of what it would sample."""
    from toolgym.policies.base import Reply, ReplyTokens
    from toolgym.policies.local.transformers import TransformersPolicy

    def act(self: Any, requests: Any) -> list[Any]:
        found: list[Any] = []
        for request in requests:
            said = next(text for key, text in replies.items() if f":{key}@" in request.episode)
            prompt = list(range(3 + 4 * request.turn))
            found.append(
                Reply(said, ReplyTokens(prompt, [3 + 4 * request.turn, 4 + 4 * request.turn]))
                if said
                else PolicyError("the model is gone")
            )
        return found

    monkeypatch.setattr(TransformersPolicy, "act", act)


def player(tiny_base: Path, env: ToolEnv, starts: list[Start], **changes: Any) -> Player:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    options: dict[str, Any] = {"credit": "episode", "max_tokens": 100, "seed": 0} | changes
    return Player(
        envs=[env],
        tokenizer=tokenizer,
        starts={start.key: start for start in starts},
        sampling={"max_new_tokens": 4},
        **options,
    )


def test_rewards_of_an_episode_and_of_a_turn(
    tiny_base: Path,
    arguments: dict[str, Any],
    episodes: list[Trajectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reward = {"accuracy": 1.0, "execution_precision": 0.5}
    env = gym.make("ToolQA-GSM8K-v0", **arguments, reward=reward).unwrapped
    assert isinstance(env, ToolEnv)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base)
    scripted({"q3": CALL.format(n=3)}, monkeypatch)
    whole = player(tiny_base, env, [Start("q3")])
    played = whole(model, [Start("q3").key], 0)
    assert played.parts == [{"accuracy": 0.0, "execution_precision": 1.0}]
    assert played.mask == [[1, 1, 0, 0, 1, 1]]
    assert played.prompt_ids == [[0, 1, 2]]
    prefixes = starts_from_episodes([env], episodes)
    assert len(prefixes) == 16  # 8 tasks: before the first turn, and after the call
    late = next(start for start in prefixes if start.task == "q3" and start.actions)
    scripted({"q3": "Answer: 18"}, monkeypatch)
    played = player(tiny_base, env, prefixes, credit="turn")(model, [late.key, late.key], 0)
    assert played.parts == [{"accuracy": 1.0, "execution_precision": 0.0}] * 2
    assert [len(ids) for ids in played.completion_ids] == [2, 2]


def test_an_episode_that_failed_is_left_out_and_many_are_an_error(
    tiny_base: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = gym.make("ToolQA-GSM8K-v0", **arguments).unwrapped
    assert isinstance(env, ToolEnv)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base)
    starts = [Start("q1"), Start("q2")]
    keys = [start.key for start in starts]
    scripted({"q1": "Answer: 6", "q2": ""}, monkeypatch)
    played = player(tiny_base, env, starts)(model, [keys[0], keys[0], keys[1]], 0)
    assert [parts is None for parts in played.parts] == [False, False, True]
    assert played.mask[2] == [0]
    scripted({"q1": "", "q2": ""}, monkeypatch)
    with pytest.raises(PolicyError, match=r"2 of 2 episodes .* the model is gone"):
        player(tiny_base, env, starts)(model, keys, 0)


@tool(timeout=0.2)
def hangs(text: str) -> str:
    """Never answer.

    Args:
        text: anything.
    """
    time.sleep(3600)
    return text


def test_a_hanging_tool_does_not_stop_the_step(
    tiny_base: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "hangs" not in TOOLS:
        TOOLS.add("hangs", hangs)
    env = gym.make("ToolQA-GSM8K-v0", **{**arguments, "tools": ["hangs"]}).unwrapped
    assert isinstance(env, ToolEnv)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base)
    scripted({"q1": "Action: hangs[x]"}, monkeypatch)
    began = time.monotonic()
    played = player(tiny_base, env, [Start("q1")])(model, [Start("q1").key], 0)
    assert time.monotonic() - began < 60
    assert played.parts == [{"accuracy": 0.0}]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"generations": 1}, "generations must be at least 2"),
        ({"generations": 3}, "batch_size 8 is not a multiple of generations 3"),
        ({"baseline": "grpoo"}, "did you mean 'grpo'"),
        ({"credit": "turns"}, "did you mean 'turn'"),
        ({"learning_rat": 1.0}, "unknown option 'learning_rat' .did you mean 'learning_rate'"),
        ({"env_args": {"reward": {"accuracy": 0.0}}}, "no reward with a weight"),
    ],
)
def test_what_grpo_refuses(
    tiny_base: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        train_grpo("ToolQA-GSM8K-v0", tiny_base, tmp_path / "model", **(GRPO | wrong))


def test_prefixes_of_other_tasks_are_refused(
    tiny_base: Path, episodes: list[Trajectory], tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="is of no task in 'sample'"):
        train_grpo("ToolQA-GSM8K-v0", tiny_base, tmp_path / "m", prefixes=episodes, **GRPO)


def test_per_turn_training_from_a_run(
    tiny_base: Path, arguments: dict[str, Any], tmp_path: Path
) -> None:
    run = rollout(
        "ToolQA-GSM8K-v0",
        lambda messages, tools: CALL.format(n=2) if len(messages) < 3 else "Answer: 12",
        env_args=arguments,
        episodes=2,
    )
    assert isinstance(run, toolgym.Run)
    given = {"env_args": arguments, "prefixes": run, **GRPO, "max_updates": 1}
    made = train_grpo("ToolQA-GSM8K-v0", tiny_base, tmp_path / "model", **given)
    assert made.counts == {"episodes": 8}

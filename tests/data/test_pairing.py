"""Preference pairs beyond the paper's three: shared prefixes, fewer calls, balance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest

from toolgym import Trajectory, export
from toolgym.data.pairs import Pair, balance, make_pairs, token_pair_row
from toolgym.errors import BadInputError
from toolgym.trajectory import Tokens

CALL = "Thought: I compute.\nAction: Calculator[6*7]"
AGAIN = "Thought: once more.\nAction: Calculator[42+0]"
RIGHT, WRONG = "Answer: 42", "Answer: 41"


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Trajectory]:
    file = tmp_path / "tasks.jsonl"
    rows = [{"id": f"q{n}", "question": f"What is 6*7? ({n})", "answers": ["42"]} for n in (0, 1)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    env = gym.make("ToolQA-GSM8K-v0", tasks=str(file), tools=["Calculator"]).unwrapped

    def played(task: str, sample: int, *replies: str) -> Trajectory:
        env.reset(options={"task": task, "sample": sample})
        for reply in replies:
            env.step(reply)
        return env.trajectory  # type: ignore[attr-defined]

    return played


def right(trajectory: Trajectory) -> bool:
    return trajectory.reward > 0


def test_the_first_turn_that_differs_is_compared(play: Callable[..., Trajectory]) -> None:
    episodes = [play("q0", 0, CALL, AGAIN, RIGHT), play("q0", 1, WRONG), play("q0", 2, CALL, WRONG)]
    (pair,), _ = make_pairs(episodes, right, pairing="first_divergence", per_task=None)
    assert (pair.chosen.id, pair.rejected.id) == ("q0#0", "q0#2")
    assert (pair.shared, pair.turns) == (1, 1)
    row = export(episodes, "dpo", pairing="first_divergence")[0]
    assert [m["role"] for m in row["prompt"]] == ["system", "user", "assistant", "user"]
    assert row["prompt"][2]["content"] == CALL
    assert row["chosen"] == [{"role": "assistant", "content": AGAIN}]
    assert row["rejected"] == [{"role": "assistant", "content": WRONG}]
    assert row["rejected_id"] == "q0#2"


def test_an_episode_that_goes_on_where_the_other_ends_does_not_diverge(
    play: Callable[..., Trajectory],
) -> None:
    long, short = play("q0", 0, CALL, RIGHT), play("q0", 1, CALL)
    with pytest.raises(BadInputError, match="1 chosen and rejected read the same"):
        make_pairs([long, short], right, pairing="first_divergence", per_task=None)


def test_right_and_wrong_whatever_they_called(play: Callable[..., Trajectory]) -> None:
    episodes = [play("q0", 0, RIGHT), play("q0", 1, CALL, WRONG), play("q0", 2, WRONG)]
    pairs, _ = make_pairs(episodes, right, pairing="right_wrong", per_task=None)
    assert [(p.chosen.id, p.rejected.id) for p in pairs] == [("q0#0", "q0#1")]


def test_fewer_calls_among_the_right_ones(play: Callable[..., Trajectory]) -> None:
    episodes = [
        *(play("q0", 0, CALL, AGAIN, RIGHT), play("q0", 1, CALL, RIGHT), play("q0", 2, WRONG)),
        *(play("q1", 0, CALL, RIGHT), play("q1", 1, CALL, RIGHT)),
    ]
    pairs, dropped = make_pairs(episodes, right, pairing="fewer_calls", per_task=None)
    assert [(p.chosen.id, p.rejected.id) for p in pairs] == [("q0#1", "q0#0")]
    assert dropped == {"whose right episodes all call equally often": 1}


def test_at_most_so_many_pairs_of_a_question(play: Callable[..., Trajectory]) -> None:
    ways = (RIGHT, f"Thought: so.\n{RIGHT}", f"Thought: well.\n{RIGHT}")
    episodes = [play("q0", n, way) for n, way in enumerate(ways)]
    episodes += [play("q0", n + 3, f"Thought: {n}.\n{WRONG}") for n in range(3)]
    for most, count in ((None, 3), (2, 2)):
        pairs, _ = make_pairs(episodes, right, pairing="right_wrong", per_task=most)
        assert len(pairs) == count


def test_a_side_that_is_always_longer_is_told(play: Callable[..., Trajectory]) -> None:
    pairs = [
        Pair(play("q0", n, f"{'word ' * 40}\n{RIGHT}"), play("q0", n, WRONG)) for n in range(4)
    ]
    found = balance(pairs)
    assert found["chosen_longer"] == 1.0
    assert found["chosen_characters"] > 200
    assert "longer in 100% of pairs" in found["warning"]
    assert "shorter in 100%" in balance([Pair(p.rejected, p.chosen) for p in pairs])["warning"]
    even = [Pair(p.chosen, p.chosen) for p in pairs]
    assert balance(even)["warning"] == ""


def test_pairs_of_tokens_begin_where_the_turns_differ(play: Callable[..., Trajectory]) -> None:
    one, other = play("q0", 0, CALL, RIGHT), play("q0", 1, CALL, WRONG)
    one.tokens = Tokens([1, 2], [3, 4, 9, 9, 5, 6], [1, 1, 0, 0, 1, 1], None, "t")
    other.tokens = Tokens([1, 2], [3, 4, 9, 9, 7], [1, 1, 0, 0, 1], None, "t")
    row = token_pair_row(Pair(one, other, 1, 1))
    assert row is not None
    assert row["prompt_ids"] == [1, 2, 3, 4, 9, 9]
    assert (row["chosen_ids"], row["rejected_ids"]) == ([5, 6], [7])
    whole = token_pair_row(Pair(one, other))
    assert whole is not None
    assert whole["chosen_mask"] == [1, 1, 0, 0, 1, 1]
    first = token_pair_row(Pair(one, other, 0, 1))
    assert first is not None
    assert first["chosen_ids"] == [3, 4]
    other.tokens.tokenizer = "another"
    assert token_pair_row(Pair(one, other)) is None


def test_every_prefix_is_a_row(play: Callable[..., Trajectory]) -> None:
    rows = export([play("q0", 0, CALL, RIGHT), play("q0", 1, CALL, WRONG)], "prefixes")
    assert [row["id"] for row in rows] == ["q0#0@0", "q0#0@1", "q0#1@1"]
    assert rows.dropped == {"the same prefix and turn again": 1}
    assert [row["reward"] for row in rows] == [0.0, 1.0, 0.0]
    assert rows[1]["prompt"][-2]["content"] == CALL
    assert rows[1]["completion"] == [{"role": "assistant", "content": RIGHT}]
    assert "unsolved_set" not in rows[0]


def test_a_prefix_says_what_was_still_open(play: Callable[..., Trajectory]) -> None:
    played = play("q0", 0, CALL, AGAIN, RIGHT)
    entries = [("q1", "42"), ("q2", "7")]
    played.task.metadata["sub_answers"] = [
        {"id": name, "tool": "Calculator", "answer": answer} for name, answer in entries
    ]
    rows = export([played], "prefixes")
    assert [json.loads(row["unsolved_set"]) for row in rows] == [
        {"Calculator": ["42", "7"]},
        {"Calculator": ["7"]},
        {"Calculator": ["7"]},
    ]
    assert [row["solve_rate"] for row in rows] == [0.0, 0.5, 0.5]

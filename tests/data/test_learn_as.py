"""Learning under another prompt: the opening is written anew, the replies stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from toolgym import Trajectory, export, rollout
from toolgym.data.chat import LearnAs, learned
from toolgym.data.pairs import make_pairs
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.formats import get_format
from toolgym.messages import Message, to_chats
from toolgym.registry import FORMATS
from toolgym.training.sft import episode_row, training_rows
from toolgym.trajectory import Tokens

POPQA = "ToolQA-PopQA-v0"
PLAIN = {"examples": 0}


def played(episodes: int = 6, **args: Any) -> list[Trajectory]:
    run = rollout(POPQA, "lookup", env_args={"examples": 2, **args}, episodes=episodes)
    return run.trajectories()


@pytest.mark.parametrize("format", FORMATS.names())
def test_without_examples_it_is_what_the_plain_prompt_would_have_been(format: str) -> None:
    shown, plain = played(format=format), played(format=format, examples=0)
    for one, other in zip(shown, plain, strict=True):
        made, note = learned(one, LearnAs.read(PLAIN))
        assert note == "re-rendered from examples=2 to examples=0"
        assert made.messages == other.messages
        assert made.steps == one.steps
        assert made.examples == 0
        assert learned(other, LearnAs.read(PLAIN)) == (other, "")
        assert learned(one, None) == (one, "")


@pytest.mark.parametrize("format", FORMATS.names())
@pytest.mark.parametrize("prompt", ["bare", "tools_single_step", "non_reasoning"])
def test_another_prompt_is_written_by_the_format(format: str, prompt: str) -> None:
    (one,) = played(1, format=format)
    made, note = learned(one, LearnAs.read({"prompt": prompt, "examples": 0}))
    question = [Message("user", one.task.question)]
    assert made.messages[: made.opening] == get_format(format, prompt).render(one.tools, question)
    assert made.messages[made.opening :] == one.messages[one.opening :]
    assert note == f"re-rendered from examples=2 to prompt={prompt}, examples=0"
    kept, _ = learned(one, LearnAs.read({"prompt": prompt}))
    assert kept.examples == 2
    assert kept.messages[-one.opening :] == one.messages[-one.opening :]


def test_rows_say_what_was_done_and_keep_their_episodes(tmp_path: Path) -> None:
    shown = played()
    kept = export(shown, "sft", style="as_played")
    assert all(
        row["prompt"] + row["completion"]
        == to_chats(t.messages[: t.opening + len(row["completion"])])
        and len(row["prompt"]) == t.opening
        for row, t in zip(kept, shown, strict=True)
    )
    assert all("learn_as" not in row for row in kept)
    made = export(shown, "sft", learn_as=PLAIN, out=tmp_path / "rows.jsonl")
    assert [row["id"] for row in made] == [t.id for t in shown]
    assert {row["learn_as"] for row in made} == {"re-rendered from examples=2 to examples=0"}
    assert made.rows == [
        {**row, "learn_as": made[0]["learn_as"]} for row in export(played(examples=0), "sft")
    ]
    card = (tmp_path / "rows.md").read_text(encoding="utf-8")
    assert "| Prompt | re-rendered from examples=2 to examples=0 (6 of 6 rows) |" in card
    prefixes = export(shown, "prefixes", learn_as=PLAIN)
    assert prefixes[0]["prompt"] == made[0]["messages"][: len(prefixes[0]["prompt"])]
    # Formats whose rows are native by default are as played under another prompt.
    hermes = export(played(format="hermes"), "sft", learn_as=PLAIN)
    assert hermes[0]["messages"][0]["role"] == "system"
    assert "tools" not in hermes[0]


def test_pairs_have_the_new_opening_on_both_sides() -> None:
    env = gym.make(POPQA, examples=2).unwrapped
    episodes = []
    for sample, replies in enumerate((["Action: WikipediaSearch[x]", "Answer: a"], ["Answer: b"])):
        env.reset(options={"task": 0, "sample": sample})
        for reply in replies:
            env.step(reply)
        episodes.append(env.trajectory)  # type: ignore[attr-defined]
    where = "calls>=1"
    (kept,) = export(episodes, "dpo", where=where, pairing="right_wrong").rows
    assert len(kept["prompt"]) == episodes[0].opening
    (row,) = export(episodes, "dpo", where=where, pairing="right_wrong", learn_as=PLAIN).rows
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert [row[side] for side in ("chosen", "rejected")] == [kept["chosen"], kept["rejected"]]
    assert row["learn_as"]


def test_diverging_pairs_compare_whole_openings() -> None:
    """Episodes whose first messages agree, and whose later examples do not, share no turn."""

    def played_twice(counts: tuple[int, int]) -> list[Trajectory]:
        episodes = []
        for sample, examples in enumerate(counts):
            env = gym.make(POPQA, examples=examples).unwrapped
            env.reset(options={"task": 0, "sample": sample})
            for reply in ("Action: WikipediaSearch[x]", f"Answer: {sample}"):
                env.step(reply)
            episodes.append(env.trajectory)  # type: ignore[attr-defined]
        assert episodes[0].messages[:3] == episodes[1].messages[:3]
        return episodes

    def pairs(episodes: list[Trajectory]) -> list[int]:
        made, _ = make_pairs(
            episodes, lambda t: t.sample == 0, pairing="first_divergence", per_task=None
        )
        return [pair.shared for pair in made]

    assert pairs(played_twice((2, 2))) == [1]
    with pytest.raises(BadInputError, match="no pair can be made"):
        pairs(played_twice((2, 3)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"examples": 2}, "learn_as: "),
        ({"exmples": 0}, "did you mean 'examples'"),
        ({"prompt": 3}, "learn_as: "),
        ([1], "learn_as"),
    ],
)
def test_what_cannot_be_done_is_refused(given: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        export(played(1), "sft", learn_as=given)


def test_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bare'"):
        export(played(1), "sft", learn_as={"prompt": "bear"})
    with pytest.raises(BadInputError, match=r"'no_tool' offers no tools, and episode"):
        export(played(1), "sft", learn_as={"prompt": "no_tool"})
    with pytest.raises(BadInputError, match="native rows hold neither"):
        export(played(1), "sft", style="native", learn_as=PLAIN)


def test_recorded_tokens_stay_with_what_was_played() -> None:
    (one,) = played(1)
    one.tokens = Tokens([1, 2], [3], [1])
    assert learned(one, LearnAs.read(PLAIN))[0].tokens is None
    assert one.tokens is not None
    assert learned(one, LearnAs.read({}))[0].tokens is one.tokens


def test_rows_that_are_written_already_are_not_written_anew() -> None:
    shown, anew = played(2), LearnAs.read(PLAIN)
    rows = export(shown, "sft")
    for source in (rows, rows.rows, iter(rows.rows)):
        with pytest.raises(BadInputError, match="these rows are written already"):
            training_rows(source, anew)
    assert training_rows(iter(shown), anew) == export(shown, "sft", learn_as=PLAIN).rows
    assert training_rows(shown) == rows.rows
    (one, _) = shown
    one.tokens = Tokens([1, 2], [3], [1])
    assert episode_row(one)["input_ids"] == [1, 2, 3]
    assert episode_row(one, LearnAs.read({"prompt": "tools_multi_step"}))["input_ids"] == [1, 2, 3]
    assert "messages" in episode_row(one, anew)

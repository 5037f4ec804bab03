"""Recordings of schema 1, made by the version that wrote them, are still read."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolgym._util.jsonl import read_rows, write_rows
from toolgym.data.chat import conversation
from toolgym.trajectory import SCHEMA, Trajectory, read_trajectories

FILES = Path(__file__).parent / "schema1"


def read(name: str) -> list[Trajectory]:
    return list(read_trajectories(FILES / name))


@pytest.mark.parametrize("name", ["cut.jsonl", "faults.jsonl"])
def test_what_is_written_now_reads_as_the_same_objects(name: str, tmp_path: Path) -> None:
    episodes = read(name)
    write_rows(tmp_path / "t.jsonl", [episode.to_row() for episode in episodes])
    assert list(read_trajectories(tmp_path / "t.jsonl")) == episodes
    before, after = (
        [row for _, row in read_rows(path)] for path in (FILES / name, tmp_path / "t.jsonl")
    )
    for old, new in zip(before, after, strict=True):
        assert (old.pop("schema"), new.pop("schema")) == (1, SCHEMA)
        steps = list(zip(old.pop("steps"), new.pop("steps"), strict=True))
        assert old == new
        for old_step, new_step in steps:
            for row in old_step.get("results", ()):
                row.pop("detail", None)
            for row in new_step.get("results", ()):
                assert row.keys() <= {
                    "call_id", "content", "error", "fault", "added_seconds", "shown"
                }  # fmt: skip
                for key in ("fault", "added_seconds", "shown"):
                    row.pop(key, None)
            assert old_step == new_step


def test_faults_become_fields() -> None:
    results = [result for episode in read("faults.jsonl") for _, result in episode.calls]
    by_kind = {kind: [r for r in results if r.fault == kind] for kind in (None, "slow", "garbled")}
    assert {result.fault for result in results} == {None, "slow", "garbled", "empty", "timeout"}
    assert {result.added_seconds for result in by_kind["slow"]} == {2.5}
    assert all(result.added_seconds == 0.0 for result in results if result.fault != "slow")
    assert [result.error for result in by_kind[None]] == ["unknown_tool"] * 3
    assert {result.error for result in by_kind["garbled"]} == {None, "tool_error"}
    assert all(result.detail is None for result in results)


def test_cuts_become_fields() -> None:
    (episode,) = read("cut.jsonl")
    results = [result for _, result in episode.calls]
    assert [result.shown for result in results] == [None, None, None, 120, None]
    assert results[3].seen == f"{results[3].content[:120]} [cut: 236 characters]"
    _, rest, _ = conversation(episode, "native")
    told = [chat["content"] for chat in rest if chat["role"] == "tool"]
    assert told == [result.seen for result in results]
    assert all(text in "\n".join(s.observation for s in episode.steps) for text in told)


def test_searches_without_a_hit_become_fields(tmp_path: Path) -> None:
    row = next(row for _, row in read_rows(FILES / "cut.jsonl"))
    step = next(step for step in row["steps"] if step.get("results"))
    said = "No result for 'zzz': no article holds a word of it."
    step["results"][0] |= {"content": said, "error": None}
    old = Trajectory.from_row(row)
    first, *others = [result for _, result in old.calls]
    assert (first.empty, first.passed) == (True, False)
    assert not any(result.empty for result in others)
    again = Trajectory.from_row(old.to_row())
    assert again == old
    step["results"][0]["error"] = "tool_error"  # what a tool says of its failure is no search
    assert not next(iter(Trajectory.from_row(row).calls))[1].empty

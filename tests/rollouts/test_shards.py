"""Shards of a plan, merged: the bytes of one run of one process, or one line that says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import toolgym
from toolgym import merge, plan, rollout
from toolgym.cli import app
from toolgym.errors import BadInputError, MissingFileError, RunMismatchError
from toolgym.rollouts.plan import Plan, read_shard
from toolgym.rollouts.runs import Run

ENV = "ToolQA-GSM8K-v0"
CLOCK = re.compile(rb'"seconds": [0-9.e-]+')


def adder(messages: list[dict[str, Any]], tools: Any) -> str:
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return "Action: Calculator[" + last.split()[3][:-1] + "]"
    return "Answer: " + last.rsplit(" ", 1)[1]


def moody(messages: list[dict[str, Any]], tools: Any) -> str:
    if "What is 3+3" in str(messages):
        raise ValueError("no threes")
    return adder(messages, tools)


def content(run: Path) -> dict[str, bytes]:
    """The files of a run folder, clocks set to zero."""
    return {
        file.name: CLOCK.sub(b'"seconds": 0', file.read_bytes())
        for file in run.iterdir()
        if file.is_file()
    }


def play(out: Path, tasks: dict[str, Any], policy: Any = adder, **more: Any) -> Run:
    return rollout(ENV, policy, env_args=tasks, samples_per_task=3, seed=5, out=out, **more)


@pytest.mark.parametrize("policy", [adder, moody])
@pytest.mark.parametrize(("count", "concurrency"), [(1, 1), (3, 8), (5, 2), (40, 4)])
def test_any_number_of_shards_and_workers_gives_the_same_bytes(
    tasks: dict[str, Any], tmp_path: Path, count: int, concurrency: int, policy: Any
) -> None:
    play(tmp_path / "whole", tasks, policy, concurrency=1)
    play(tmp_path / "many", tasks, policy, concurrency=16)
    expected = content(tmp_path / "whole")
    assert content(tmp_path / "many") == expected
    folders = [tmp_path / f"part-{n}" for n in range(count)]
    for n, folder in reversed(list(enumerate(folders))):
        play(folder, tasks, policy, concurrency=concurrency, shard=(n, count))
    made = merge(folders, tmp_path / "merged", partial=policy is moody)
    assert content(tmp_path / "merged") == expected
    assert made.settings == Run.open(tmp_path / "whole").settings
    assert len(made) == (33 if policy is moody else 36)
    assert len(made.failures()) == (3 if policy is moody else 0)


def test_a_plan_is_what_a_rollout_plays(tasks: dict[str, Any], tmp_path: Path) -> None:
    whole = plan(ENV, adder, env_args=tasks, samples_per_task=3, seed=5)
    run = play(tmp_path / "run", tasks)
    lines = (tmp_path / "run" / "trajectories.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [job.key for job in whole.jobs]
    assert {t.id: t.seed for t in run} == {job.key: job.seed for job in whole.jobs}
    assert whole.settings == run.settings
    assert whole.shard("1/4").jobs == whole.jobs[1::4]
    assert whole.shard("1/4").settings["shard"] == [1, 4]


@given(st.integers(1, 60), st.integers(1, 70))
@settings(max_examples=40)
def test_every_job_is_in_one_shard(jobs: int, count: int) -> None:
    whole: Any = Plan(tuple(range(jobs)), {})  # type: ignore[arg-type]
    parts = [whole.shard((n, count)).jobs for n in range(count)]
    assert sorted(job for part in parts for job in part) == list(range(jobs))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("shard", "why"),
    [
        ("4/4", "shard 4 of 4 does not exist: shards are counted from 0 to 3"),
        ((0, 0), "at least one shard"),
        ("1", "'0/4', not '1'"),
        ("-1/4", "'0/4', not '-1/4'"),
        ((0, 1, 2), r"not \(0, 1, 2\)"),
        ((True, 2), "whole number of at least 0, not True"),
        ((-1, 2), "whole number of at least 0, not -1"),
        (3, "not 3"),
    ],
)
def test_what_is_not_a_shard(shard: Any, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        read_shard(shard)


@pytest.fixture
def parts(tasks: dict[str, Any], tmp_path: Path) -> list[Path]:
    folders = [tmp_path / f"part-{n}" for n in range(3)]
    for n, folder in enumerate(folders):
        play(folder, tasks, shard=(n, 3))
    return folders


def test_shards_that_do_not_fit_are_one_line(
    parts: list[Path], tasks: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    with pytest.raises(BadInputError, match="1 of 3 shards are not named: 1/3"):
        merge([parts[0], parts[2]], out)
    with pytest.raises(BadInputError, match="are both shard 1/3"):
        merge([*parts, parts[1]], out)
    with pytest.raises(BadInputError, match="none is named"):
        merge([], out)
    with pytest.raises(BadInputError, match="is one of the shards: name another folder"):
        merge(parts, parts[0])
    play(tmp_path / "whole", tasks)
    with pytest.raises(MissingFileError, match="is not a shard of a run"):
        merge([*parts, tmp_path / "whole"], out)
    rollout(ENV, adder, env_args=tasks, seed=6, out=tmp_path / "other", shard=(1, 3))
    with pytest.raises(RunMismatchError, match=r"begun with episodes = 12, now it is 36"):
        merge([parts[0], tmp_path / "other", parts[2]], out)
    play(tmp_path / "four", tasks, shard=(1, 4))
    with pytest.raises(BadInputError, match="not of one plan"):
        merge([parts[0], tmp_path / "four", parts[2]], out)
    play(tmp_path / "few", tasks, shard=(1, 3), episodes=9)
    with pytest.raises(RunMismatchError, match="begun with episodes = 9, now it is 36"):
        merge([parts[0], tmp_path / "few", parts[2]], out)
    assert not out.exists()


def test_other_files_on_another_machine_are_found_before_anything_is_played(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    plan(ENV, adder, env_args=tasks, samples_per_task=3, seed=5).write(tmp_path / "plan")
    play(tmp_path / "part-0", tasks, shard="0/2", same_as=tmp_path / "plan")
    Path(tasks["tasks"]).write_text(Path(tasks["tasks"]).read_text().replace("sum-3", "sum-33"))
    asked: list[Any] = []

    def policy(messages: Any, tools: Any) -> str:
        asked.append(messages)
        return "Answer: 1"

    for reference in (tmp_path / "plan", tmp_path / "part-0" / "run.json"):
        with pytest.raises(RunMismatchError, match=r"hashes\.tasks.*the same files") as error:
            play(tmp_path / "part-1", tasks, shard="1/2", same_as=reference)
        assert "\n" not in str(error.value)
    wanted = json.loads((tmp_path / "plan" / "run.json").read_text())
    with pytest.raises(RunMismatchError, match=r"policy\.name"):
        play(tmp_path / "part-1", tasks, policy, shard="1/2", same_as=wanted)
    assert not asked
    assert not (tmp_path / "part-1").exists()


def test_a_merge_can_be_done_again_and_loses_nothing(
    parts: list[Path], tasks: dict[str, Any], tmp_path: Path
) -> None:
    out, lines = tmp_path / "merged", parts[1] / "trajectories.jsonl"
    whole = lines.read_bytes()
    cut = whole.splitlines(keepends=True)
    lines.write_bytes(b"".join(cut[:4]) + cut[4][:50])  # torn, as a kill leaves it
    with pytest.raises(BadInputError, match=r"part-1' has not finished 8 of 12 episodes, such as"):
        merge(parts, out)
    assert len(merge(parts, out, partial=True)) == 28
    (out / "trajectories.jsonl").unlink()  # as if the merge had been killed
    assert len(merge(parts, out, partial=True)) == 28
    play(parts[1], tasks, shard=(1, 3))
    play(tmp_path / "whole", tasks)
    assert len(merge(parts, out)) == 36
    assert content(out) == content(tmp_path / "whole")
    # What a partial merge lacked may be played without shards, and is not lost by a later merge.
    lines.write_bytes(b"".join(cut[:4]))
    merge(parts, tmp_path / "gone-on", partial=True)
    play(tmp_path / "gone-on", tasks)
    assert content(tmp_path / "gone-on") == content(tmp_path / "whole")
    with pytest.raises(RunMismatchError, match="that no shard has finished"):
        merge(parts, tmp_path / "gone-on", partial=True)


def test_merging_into_what_is_not_this_run_is_refused(
    parts: list[Path], tasks: dict[str, Any], tmp_path: Path
) -> None:
    rollout(ENV, adder, env_args=tasks, episodes=2, seed=1, out=tmp_path / "other")
    with pytest.raises(RunMismatchError, match="was begun with"):
        merge(parts, tmp_path / "other")
    selection = tmp_path / "selection"
    toolgym.select(parts[0], where=None).write(selection)
    with pytest.raises(RunMismatchError, match="holds other episodes"):
        merge(parts, selection)


def test_a_changed_shard_is_refused(parts: list[Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(parts[2], kept)
    with (parts[2] / "trajectories.jsonl").open("ab") as stream:
        stream.write((parts[0] / "trajectories.jsonl").read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(BadInputError, match=r"line 13: episode 'sum-.*' is not one of this shard"):
        merge(parts, tmp_path / "merged")
    shutil.rmtree(parts[2])
    shutil.copytree(kept, parts[2])
    rows = (parts[2] / "plan.jsonl").read_text().splitlines(keepends=True)
    (parts[2] / "plan.jsonl").write_text("".join(rows[:-1]))
    with pytest.raises(BadInputError, match="is not one of this shard"):
        merge(parts, tmp_path / "merged")
    (parts[2] / "plan.jsonl").write_text("".join(rows[:-2]))
    with pytest.raises(BadInputError, match=r"a plan\.jsonl was changed"):
        merge(parts, tmp_path / "merged")
    (parts[2] / "plan.jsonl").write_text("".join([*rows[:-1], rows[0]]))
    with pytest.raises(BadInputError, match=r"is not one of this shard|a plan\.jsonl was changed"):
        merge(parts, tmp_path / "merged")


def test_other_versions_are_told(parts: list[Path], tmp_path: Path) -> None:
    told = json.loads((parts[2] / "run.json").read_text())
    told["versions"]["numpy"] = "1.0"
    (parts[2] / "run.json").write_text(json.dumps(told))
    found = merge(parts, tmp_path / "merged").settings
    assert found["shard_versions"] == {"2/3": told["versions"]}
    assert found["versions"] == json.loads((parts[0] / "run.json").read_text())["versions"]


def test_a_shard_is_resumed_as_itself(tasks: dict[str, Any], tmp_path: Path) -> None:
    for n in range(2):
        play(tmp_path / f"part-{n}", tasks, shard=(n, 2), episodes=9)
    with pytest.raises(RunMismatchError, match=r"shard = \[0, 2\], now it is \[1, 2\]"):
        play(tmp_path / "part-0", tasks, shard=(1, 2))
    with pytest.raises(RunMismatchError, match=r"shard = \[0, 2\]"):
        play(tmp_path / "part-0", tasks)
    for n in range(2):  # more episodes of the same plan
        run = play(tmp_path / f"part-{n}", tasks, shard=(n, 2))
        assert len(run) == run.planned == 18
    play(tmp_path / "part-1", tasks, shard=(1, 2), episodes=9)  # fewer keep what is there
    merge([tmp_path / "part-0", tmp_path / "part-1"], tmp_path / "merged")
    play(tmp_path / "whole", tasks)
    assert content(tmp_path / "merged") == content(tmp_path / "whole")


SCRIPT = """
import json, sys, time, random
from toolgym import rollout
def adder(messages, tools):
    time.sleep(random.random() * 0.02)
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return "Action: Calculator[" + last.split()[3][:-1] + "]"
    return "Answer: " + last.rsplit(" ", 1)[1]
rollout("ToolQA-GSM8K-v0", adder, env_args=json.loads(sys.argv[1]), out=sys.argv[2],
        samples_per_task=30, seed=5, shard=sys.argv[3])
"""


def test_killed_shards_give_the_same_bytes(tasks: dict[str, Any], tmp_path: Path) -> None:
    folders = [tmp_path / f"part-{n}" for n in range(2)]
    commands = [
        [sys.executable, "-c", SCRIPT, json.dumps(tasks), str(folder), f"{n}/2"]
        for n, folder in enumerate(folders)
    ]
    processes = [subprocess.Popen(command) for command in commands]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(
        (file := folder / "trajectories.jsonl").exists() and file.stat().st_size > 20_000
        for folder in folders
    ):
        time.sleep(0.005)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 0 < sum(len(Run.open(folder)) for folder in folders) < 360
    for command in commands:
        subprocess.run(command, check=True, timeout=120)
    merge(folders, tmp_path / "merged")
    rollout(ENV, adder, env_args=tasks, samples_per_task=30, seed=5, out=tmp_path / "whole")
    assert content(tmp_path / "merged") == content(tmp_path / "whole")


def test_the_command_line(tasks: dict[str, Any], tmp_path: Path) -> None:
    def toolgym(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    asked = ["rollout", "ToolQA-PopQA-v0", "--policy", "lookup", "--episodes", "10"]
    base = tmp_path / "big"
    assert "10 episodes" in toolgym(*asked, "--plan-only", "--out", str(base))
    folders = [str(tmp_path / f"big-{n}") for n in range(3)]
    for n, folder in enumerate(folders):
        more = ("--shard", f"{n}/3", "--same-as", str(base), "--out", folder)
        said = toolgym(*asked, *more)
        assert f"{4 if n == 0 else 3}/{4 if n == 0 else 3}" in said
        assert "toolgym merge, once all 3 shards are played" in said
    said = toolgym("merge", *folders, "--out", str(base), "--json")
    assert json.loads(said)["finished"] == json.loads(said)["planned"] == 10
    toolgym(*asked, "--out", str(tmp_path / "whole"))
    assert content(base) == content(tmp_path / "whole")
    result = CliRunner().invoke(app, ["merge", *folders[:2], "--out", str(tmp_path / "x")])
    assert result.exit_code == BadInputError.exit_code
    assert "1 of 3 shards are not named: 2/3" in result.stderr
    result = CliRunner().invoke(app, [*asked, "--shard", "3/3", "--out", str(tmp_path / "x")])
    assert result.exit_code == BadInputError.exit_code
    assert "shard 3 of 3 does not exist" in result.stderr

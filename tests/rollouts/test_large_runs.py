"""Runs of any length: tools stand once, lines may be compressed, and memory does not grow."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner

from toolgym import Run, evaluate, export, merge, rollout, score, select
from toolgym._util.frames import LineFile
from toolgym._util.jsonl import read_lines, read_rows
from toolgym._util.spool import Spool
from toolgym.cli import app
from toolgym.data.filter import Selection
from toolgym.data.lineage import ancestry, seal
from toolgym.data.tracing import trace
from toolgym.errors import BadInputError
from toolgym.evaluation import intervals
from toolgym.rollouts.lines import Lines
from toolgym.rollouts.recording import open_recording
from toolgym.trajectory import Documents, EpisodeSpool, Trajectory, read_trajectories, reading

ENV = "ToolQA-GSM8K-v0"
CLOCK = re.compile(rb'"seconds": [0-9.e-]+')
SCHEMA2 = Path(__file__).parent.parent / "schema2" / "popqa.jsonl"


def adder(messages: list[dict[str, Any]], tools: Any) -> str:
    last = messages[-1]["content"]
    if last.startswith("Question"):
        return "Action: Calculator[" + last.split()[3][:-1] + "]"
    return "Answer: " + last.rsplit(" ", 1)[1]


def play(out: Path, tasks: dict[str, Any], **more: Any) -> Run:
    return rollout(ENV, adder, env_args=tasks, samples_per_task=3, seed=5, out=out, **more)


def content(run: Path, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What the files of a folder hold, clocks set to zero; of compressed ones what was packed."""
    found = {}
    for file in run.iterdir():
        data = file.read_bytes()
        if file.suffix == ".zst":
            packed = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
            data = packed.read()
        if file.name not in but:
            found[file.name.removesuffix(".zst")] = CLOCK.sub(b'"seconds": 0', data)
    return found


def names(run: Path) -> set[str]:
    return {file.name for file in run.iterdir()}


def test_tools_stand_once_by_the_hash_of_what_they_are(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    run = play(tmp_path / "run", tasks)
    ((_, row),) = read_rows(tmp_path / "run" / "tools.jsonl")
    assert row["id"] == Documents.name_of(Documents.text_of(row["tools"]))
    lines = [line for _, line in read_rows(tmp_path / "run" / "trajectories.jsonl")]
    assert {line["tools"] for line in lines} == {row["id"]}
    assert {line["schema"] for line in lines} == {3}
    held = play(None, tasks)  # type: ignore[arg-type]
    for one, other in zip(run, held, strict=True):
        assert one.tools == other.tools == row["tools"]
        assert Trajectory.from_row(one.to_row()) == one  # alone it is whole
    with pytest.raises(BadInputError, match=r"its tools stand in 'tools.jsonl' of its folder"):
        Trajectory.from_row(lines[0])


def test_tools_that_are_missing_or_changed_are_named(tasks: dict[str, Any], tmp_path: Path) -> None:
    run = play(tmp_path / "run", tasks)
    file = tmp_path / "run" / "tools.jsonl"
    before = file.read_bytes()
    for wrong, why in (
        (b"", r"line \d+: its tools 'sha256:\w+' do not stand in '.*tools.jsonl': copy that file"),
        (before.replace(b"Calculate", b"Guess", 1), "were changed"),
        (b'{"tools": []}\n', r"line 1: it begins b'{\"tools\": \[\]}"),
    ):
        file.write_bytes(wrong)
        with pytest.raises(BadInputError, match=why) as error:
            list(Run.open(tmp_path / "run"))
        assert "\n" not in str(error.value)
    file.write_bytes(before + before[:40])  # a writer is in the middle of a line
    assert len(list(run)) == 36
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "some.jsonl"
    alone.write_bytes((tmp_path / "run" / "trajectories.jsonl").read_bytes())
    with pytest.raises(BadInputError, match="do not stand in"):
        list(read_trajectories(alone))


def test_scenarios_bring_tools_of_their_own_and_any_way_of_playing_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    how: dict[str, Any] = {"samples_per_task": 2, "episodes": 24, "seed": 3}

    def scenarios(out: Path, **more: Any) -> Run:
        return rollout("ToolScenario-v0", "scenario-random", **how, out=out, **more)

    scenarios(tmp_path / "one", concurrency=1)
    expected = content(tmp_path / "one")
    assert expected["tools.jsonl"].count(b"\n") == 12
    scenarios(tmp_path / "many", concurrency=8)
    with ThreadPoolExecutor(2) as executor:
        scenarios(tmp_path / "sent", executor=executor)
    parts = [tmp_path / f"part-{n}" for n in range(3)]
    for n, part in enumerate(parts):
        scenarios(part, shard=(n, 3), compress=n == 1)
    merge(parts, tmp_path / "merged")
    for folder in ("many", "sent", "merged"):
        assert content(tmp_path / folder) == expected
    documents = {t.id: t.tools for t in Run.open(tmp_path / "one")}
    assert documents == {t.id: t.tools for t in scenarios(None)}  # type: ignore[arg-type]


def test_a_compressed_run_holds_the_same_lines(tasks: dict[str, Any], tmp_path: Path) -> None:
    plain = play(tmp_path / "plain", tasks)
    for n, how in enumerate(({"concurrency": 1}, {"concurrency": 16})):
        play(tmp_path / f"packed-{n}", tasks, compress=True, **how)
    packed = Run.open(tmp_path / "packed-1")
    assert names(tmp_path / "packed-1") == {
        *("run.json", "failures.jsonl", "trajectories.jsonl.zst", "tools.jsonl.zst")
    }
    assert content(tmp_path / "packed-0") == content(tmp_path / "packed-1")
    assert content(tmp_path / "packed-0") == content(tmp_path / "plain")
    assert [t.id for t in packed] == [t.id for t in plain]
    for folder in (tmp_path / "plain", tmp_path / "packed-0"):
        assert evaluate(folder).to_dict() == evaluate(plain).to_dict()
        again = rollout(ENV, f"replay:{folder}", env_args=tasks, samples_per_task=3, seed=5)
        assert [t.answer for t in again] == [t.answer for t in plain]
    file = tmp_path / "packed-1" / "trajectories.jsonl.zst"
    assert len(list(read_trajectories(file))) == len(list(open_recording(file))) == 36


def test_a_run_changes_its_form_when_it_is_asked_to(tasks: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    play(out, tasks, episodes=10)
    play(out, tasks, episodes=20, compress=True)
    assert {"trajectories.jsonl.zst", "tools.jsonl.zst"} < names(out)
    assert "trajectories.jsonl" not in names(out)
    before = (out / "trajectories.jsonl.zst").read_bytes()
    play(out, tasks, episodes=20)
    assert (out / "trajectories.jsonl.zst").read_bytes() == before
    play(out, tasks)  # goes on as it is
    assert "trajectories.jsonl.zst" in names(out)
    play(out, tasks, compress=False)
    assert not any(name.endswith(".zst") for name in names(out))
    play(tmp_path / "whole", tasks)
    assert content(out) == content(tmp_path / "whole")


def test_a_run_that_the_zstd_tool_packed_is_read_and_gone_on_with(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    play(out, tasks, episodes=20)
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    file = out / "trajectories.jsonl"
    (out / "trajectories.jsonl.zst").write_bytes(
        packer.compress(file.read_bytes()) + packer.flush()
    )
    assert len(Run.open(out)) == 20  # with `zstd -k` both are there
    file.unlink()
    assert len(list(Run.open(out))) == evaluate(out).episodes == 20
    play(out, tasks)
    play(tmp_path / "whole", tasks)
    assert content(out) == content(tmp_path / "whole")


CHILD = """
import sys, time
sys.path.insert(0, {here!r})
from test_large_runs import adder
from toolgym import rollout
def slow(messages, tools):
    time.sleep(0.1)
    return adder(messages, tools)
slow.__qualname__ = "adder"
rollout({env!r}, slow, env_args={tasks!r}, samples_per_task=3, seed=5, out={out!r}, compress=True,
        concurrency=3)
"""


def test_kills_while_a_compressed_run_is_written_lose_and_repeat_nothing(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    out, here = tmp_path / "run", str(Path(__file__).parent)
    code = CHILD.format(here=here, env=ENV, tasks=tasks, out=str(out))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    file, seen = out / "trajectories.jsonl.zst", [1]
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], env=environ)
        while process.poll() is None and not (file.exists() and file.stat().st_size > seen[-1]):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with file.open("ab") as stream:  # as if the kill had come in the middle of a frame
            stream.write(zstandard.ZstdCompressor().compress(b"half a line" * 9)[:-3])
        seen.append(file.stat().st_size)  # which is cut off, and passed by whole frames only
        assert len(list(Run.open(out))) == len(Run.open(out)) > 0
    play(out, tasks)
    play(tmp_path / "whole", tasks)
    assert content(out) == content(tmp_path / "whole")


def as_schema_2(folder: Path) -> None:
    """What an older version would have written."""
    rows = [
        t.to_row() | {"schema": 2}
        for t in (
            reading.parse_trajectory(raw, folder / "trajectories.jsonl", n)
            for n, _, raw in read_lines(folder / "trajectories.jsonl")
        )
    ]
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tools.jsonl").unlink()


def test_what_older_versions_recorded_is_read_gone_on_with_and_merged(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    recorded = list(read_trajectories(SCHEMA2))
    assert [len(t.tools) for t in recorded] == [3, 3, 3]
    raw = [row for _, row in read_rows(SCHEMA2)]
    assert [t.to_row() | {"schema": 2} for t in recorded] == raw
    whole = play(tmp_path / "whole", tasks)
    parts = [tmp_path / f"part-{n}" for n in range(3)]
    for n, part in enumerate(parts):
        play(part, tasks, shard=(n, 3), compress=n == 2)
    as_schema_2(parts[1])
    merge(parts, tmp_path / "merged")
    old = tmp_path / "old"
    play(old, tasks, episodes=15)
    as_schema_2(old)
    play(old, tasks)
    for folder in (tmp_path / "merged", old):
        episodes = {t.id: t.tools for t in Run.open(folder)}
        assert episodes == {t.id: t.tools for t in whole}
    assert evaluate(old).to_dict() == evaluate(whole).to_dict()


def test_selections_hold_their_tools_once_or_each_line_is_whole(
    tasks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(tmp_path / "run", tasks, compress=True)
    chosen = select(tmp_path / "run", where=None, dedupe=None)
    for name, compress in (("plain", False), ("packed", True), ("turned", False), ("turned", True)):
        chosen.write(tmp_path / name, compress)
        assert [t.to_row() for t in open_recording(tmp_path / name)] == [t.to_row() for t in chosen]
        assert len(names(tmp_path / name)) == 3
    for name in ("alone.jsonl", "alone.jsonl.zst"):
        chosen.write(tmp_path / "elsewhere" / name)
        rows = [row for _, row in read_rows(tmp_path / "elsewhere" / name)]
        assert [Trajectory.from_row(row) for row in rows] == list(chosen)
        (tmp_path / "elsewhere" / name).unlink()
    # Beyond so many different lists a line holds its own.
    monkeypatch.setattr(reading, "_MOST", 0)
    spool = EpisodeSpool()
    for trajectory in chosen:
        spool.append(trajectory)
    made = Selection(spool, {}).write(tmp_path / "own")
    assert list(read_trajectories(made)) == list(chosen)
    rows_of = export(tmp_path / "run", out=tmp_path / "rows.jsonl.zst")
    assert [row for _, row in read_rows(tmp_path / "rows.jsonl.zst")] == list(rows_of)
    assert (tmp_path / "rows.md").is_file()


def test_the_command_line_compresses_what_it_is_asked_to(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    def call(*words: Any) -> str:
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 0, done.output
        return done.output

    how = ["rollout", ENV, "--policy", "lookup", "--tasks", tasks["tasks"], "--compress"]
    parts = [tmp_path / "part-0", tmp_path / "part-1"]
    for n, part in enumerate(parts):
        call(*how, "--shard", f"{n}/2", "--out", part)
    packed, plain, whole, kept = (tmp_path / name for name in ("packed", "plain", "whole", "kept"))
    call("merge", *parts, "--out", packed)
    call("merge", *parts, "--no-compress", "--out", plain)
    call(*how, "--out", whole)
    assert content(packed) == content(plain) == content(whole)
    assert "trajectories.jsonl.zst" in names(packed) & names(whole)
    assert "trajectories.jsonl" in names(plain)
    call("filter", packed, "--where", "steps>=1", "--compress", "--out", kept)
    assert names(kept) == {"trajectories.jsonl.zst", "tools.jsonl.zst", "selection.json"}
    call("export", "sft", kept, "--out", tmp_path / "rows.jsonl.zst")
    for run in (packed, packed / "trajectories.jsonl.zst", kept):
        assert "What is" in call("view", run, "-n", "1")
    assert call("eval", packed, "--json") == call("eval", plain, "--json")


def long_run(folder: Path, episodes: int) -> Path:
    """A run of so many episodes, four a task, of which every other one is right."""
    made = next(iter(read_trajectories(SCHEMA2)))
    settings = {"env": {"id": made.env_id}, "episodes": episodes}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(settings))
    name = Documents.name_of(Documents.text_of(made.tools))
    (folder / "tools.jsonl").write_text(json.dumps({"id": name, "tools": made.tools}) + "\n")
    with (folder / "trajectories.jsonl").open("w") as stream:
        for number in range(episodes):
            row = made.to_row(name)
            task, sample = f"t{number // 4}", number % 4
            row |= {"id": f"{task}#{sample}", "sample": sample, "seed": None}
            row["task"] = row["task"] | {"id": task, "question": f"Question {task}?"}
            said = f"Answer: {'nobody' if sample % 2 else 'Irvin Kershner'}"
            row["steps"][-1] |= {"action": said, "answer": said[8:]}
            row["messages"][-1] = {"role": "assistant", "content": said}
            row["messages"][1] = {"role": "user", "content": f"{number}?"}
            stream.write(json.dumps(row) + "\n")
    return folder


def traced(run: Path) -> Any:
    """From a model of rows of a selection to the run."""
    file = select(run, where="reward>=0").write(run / "right")
    export(file, out=run / "rows.jsonl")
    record = {"method": "sft", "model": "hub/name"}
    seal(run, ancestry(run, run, record, run / "rows.jsonl"))
    return trace(run)


READERS: dict[str, Callable[[Path], Any]] = {
    "trace": traced,
    "evaluate": evaluate,
    "score": lambda run: score(run, {"a": "exact_match"}),
    "select": lambda run: select(run, where="reward>=0", best_of=3).write(run / "right"),
    "sft": lambda run: export(run, out=run / "sft"),
    "prefixes": lambda run: export(run, "prefixes", out=run / "prefixes"),
    "dpo": lambda run: export(run, "dpo", pairing="right_wrong", out=run / "dpo"),
    "read": lambda run: sum(1 for _ in open_recording(run)),
    "lines": lambda run: len(Lines(run / "trajectories.jsonl")),
}


def peak(read: Callable[[Path], Any], run: Path) -> int:
    gc.collect()
    tracemalloc.start()
    read(run)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("name", READERS)
def test_memory_grows_by_a_fraction_of_the_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(reading, "MOST_HELD", 50)
    monkeypatch.setattr(Spool.__init__, "__defaults__", (50,))
    monkeypatch.setattr(intervals, "_CHUNK", 2000)
    few, many = long_run(tmp_path / "few", 200), long_run(tmp_path / "many", 800)
    READERS[name](few)  # what is loaded once is loaded now
    grown = peak(READERS[name], many) - peak(READERS[name], few)
    line = (many / "trajectories.jsonl").stat().st_size / 800
    assert line > 2500
    assert grown / 600 < 900


def test_the_index_of_a_run_is_small_and_knows_every_line(tmp_path: Path) -> None:
    run = long_run(tmp_path / "run", 400)
    file = run / "trajectories.jsonl"
    lines = Lines(file)
    with LineFile(file) as source:
        for key, (position, number) in lines.items():
            assert json.loads(source.line(position))["id"] == f"{key[0]}#{key[1]}"
            assert lines.at(lines.row(key)) == (position, number)
    order = [lines.at(row) for row in map(lines.row, sorted(lines))]
    assert list(lines.in_order()) == order
    assert ("t0", 9) not in lines
    assert ("unknown", 0) not in lines

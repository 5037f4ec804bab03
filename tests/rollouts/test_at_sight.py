"""Runs by place and id, what objects show of themselves, frames, data sets, and progress."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toolgym
from toolgym import Run, Task, Trajectory, evaluate, export, rollout, sample_run, score, select
from toolgym import compare as compare_runs
from toolgym._util import progress
from toolgym.checks import probe_reward
from toolgym.data.export import Rows
from toolgym.envs.toolscenario.records import to_public
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.scenario import Scenario
from toolgym.trajectory import Step, parse_trajectory

PLAY: dict[str, Any] = {"episodes": 12, "samples_per_task": 2, "seed": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The same run in memory, as a folder, and compressed."""
    folder = tmp_path_factory.mktemp("runs")
    given = ("ToolQA-PopQA-v0", "random")
    return [
        rollout(*given, **PLAY),
        rollout(*given, **PLAY, out=folder / "plain"),
        rollout(*given, **PLAY, out=folder / "packed", compress=True),
    ]


@pytest.mark.parametrize("which", range(3))
def test_a_run_is_a_sequence_that_reads_what_is_asked(
    runs: list[Run], which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs[which]
    ids = [trajectory.id for trajectory in run.trajectories()]
    assert len(run) == len(ids) == 12
    read: list[str] = []
    real = parse_trajectory

    def counted(*given: Any, **named: Any) -> Trajectory:
        found = real(*given, **named)
        read.append(found.id)
        return found

    monkeypatch.setattr("toolgym.rollouts.runs.parse_trajectory", counted)
    scanned: list[Run] = []
    lines = Run.lines
    monkeypatch.setattr(Run, "lines", lambda self: scanned.append(self) or lines(self))
    assert [run[0].id, run[-1].id, run[ids[5]].id] == [ids[0], ids[-1], ids[5]]
    assert not which or read == [ids[0], ids[-1], ids[5]]
    assert len(scanned) <= 1  # the file is read through once, not for each
    part = run[2:9:3]
    assert len(part) == 3
    assert [t.id for t in part] == [t.id for t in part.trajectories()] == ids[2:9:3]
    assert [part[1].id, part[-1].id, part[1:][0].id] == [ids[5], ids[8], ids[5]]
    assert run[::-1][0].id == ids[-1]
    assert len(evaluate(part).rows) > 9
    with pytest.raises(IndexError):
        run[12]
    with pytest.raises(KeyError, match="did you mean"):
        run[ids[0].partition("#")[0] + "#7"]
    with pytest.raises(KeyError):
        run["nothing"]


def test_a_run_that_grows_is_indexed_anew(tmp_path: Path) -> None:
    given = ("ToolQA-PopQA-v0", "lookup")
    run = rollout(*given, episodes=2, seed=1, out=tmp_path / "run", shard=(0, 2))
    assert [t.id for t in run[:]] == [run[0].id]
    copy = Run.open(tmp_path / "run")
    assert copy[0].id == run[0].id
    other = rollout(*given, episodes=2, seed=1)
    line = next(t for t in other if t.id != run[0].id).to_line(None)
    with (tmp_path / "run" / "trajectories.jsonl").open("a") as file:
        file.write(line + "\n")
    assert {t.id for t in copy[:]} == {t.id for t in other}


def scenario() -> Scenario:
    """The first bundled one."""
    file = Path(toolgym.__file__).parent / "envs/toolscenario/samples/scenario_sample.jsonl"
    return Scenario.from_row(json.loads(file.read_text("utf-8").splitlines()[0]))


def shown() -> Iterator[Any]:
    """One of everything that a notebook may end a cell with."""
    spam, run = sample_run("spam"), sample_run()
    selection = select(run)
    rewards = {"ours": "accuracy", "f1": "token_f1"}
    yield from (run, run[0], run[:3], selection, selection[1:], export(run), scenario())
    yield from (evaluate(run), score(run, rewards), compare_runs(spam, run))
    yield from (to_public(scenario()), evaluate(run, by=["s_pop"]).groups["s_pop"])
    yield from (probe_reward("accuracy"), toolgym.ablate([run, spam], rewards))


def test_what_a_notebook_prints_is_short() -> None:
    for thing in shown():
        assert len(repr(thing)) < 200, repr(thing)
        page = thing._repr_html_()
        assert page.count("<div") == page.count("</div>") > 0, repr(thing)
        assert page.count("<details") == page.count("</details>"), repr(thing)
        assert len(page) < 20_000, repr(thing)


BAD = "<script>alert(1)</script>"


def hostile() -> Trajectory:
    call = ToolCall("call_0", BAD, {BAD: BAD})
    step = Step(BAD, (call,), (ToolResult("call_0", BAD, BAD),), observation=BAD, user=BAD)
    messages = [Message("user", BAD), Message("assistant", BAD), Message("user", BAD)]
    steps = [step, Step(BAD, answer=BAD)]
    return Trajectory(Task(BAD, BAD, (BAD,)), [*messages, Message("assistant", BAD)], steps)


def test_nothing_that_a_model_wrote_becomes_html() -> None:
    run = Run({"env": {"id": BAD}, "policy": {"policy": BAD}}, recorded=[hostile()])
    things = [run, run[0], run[:], select(run, where=None), export(run), scenario()]
    for thing in things:
        assert "<script" not in thing._repr_html_()
    assert "&lt;script&gt;" in run[0]._repr_html_()


def test_a_frame_has_a_row_an_episode() -> None:
    pytest.importorskip("pandas")
    run = sample_run("random")
    frame = run.to_pandas()
    assert list(frame["id"]) == [t.id for t in run]
    assert frame["reward"].sum() == frame["reward/accuracy"].sum() == 4
    assert len(run[:7].to_pandas()) == 7
    assert len(evaluate(run).to_pandas()) == len(evaluate(run).rows)
    assert list(score(run, {"a": "accuracy"}).to_pandas().columns) == ["id", "a"]
    assert len(compare_runs(run, sample_run()).to_pandas()) == 4
    assert len(export(run).to_pandas()) == 60


def test_a_data_set_has_a_card_that_the_hub_reads(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    yaml = pytest.importorskip("yaml")
    run = sample_run()
    made = run.to_dataset(tmp_path / "set")
    assert len(made) == 60
    back = Trajectory.from_row(json.loads(made[7]["trajectory"]))
    assert back == run[7]
    read = datasets.Dataset.from_parquet(
        str(tmp_path / "set" / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert read[0] == made[0]
    _, header, text = (tmp_path / "set" / "README.md").read_text("utf-8").split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["configs"] == [{"config_name": "default", "data_files": "train.parquet"}]
    assert card["size_categories"] == ["n<1K"]
    assert "not the benchmark itself" in text
    assert "| Episodes | 60 |" in text
    rows = export(run)
    assert rows.to_dataset()[3] == rows[3]
    assert isinstance(rows, Rows)
    assert len(select(run).to_dataset()) == 15


def test_figures_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    run, other = sample_run(), sample_run("spam")
    lab = toolgym.ablate([run, other], {"ours": "accuracy", "f1": "token_f1"}, probes=False)
    scored = score(run, {"ours": "accuracy", "f1": "token_f1"})
    for thing, axes in ((evaluate(run), 1), (scored, 1), (compare_runs(run, other), 1), (lab, 3)):
        figure = thing.plot()
        assert len(figure.axes) == axes
        assert figure.axes[0].get_yticklabels()
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg")
        assert drawn.getvalue()
        assert figure._repr_png_().startswith(b"\x89PNG")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        self.now += 0.5
        return self.now


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    tell = progress.shown(None, "episodes")
    assert tell is not None
    for count in range(1, 9):
        tell(count, 8)
    assert screen.getvalue().startswith("\r\x1b[2Kepisodes [")
    assert screen.getvalue().endswith("8/8 4 s\n")
    for count in (1, 2, 3, 4):
        tell("train", count, 0, "loss 1")
    tell("report", 1, 1, "done")
    assert "\r\x1b[2Ktrain 3 1 s loss 1" in screen.getvalue()


def test_what_is_done_at_once_shows_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    tell = progress.shown(None, "episodes")
    assert tell is not None
    tell(1, 2)
    tell(2, 2)
    assert screen.getvalue() == ""


def test_a_log_has_lines_only_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    assert progress.shown(None, "episodes") is None
    assert progress.shown(False, "episodes") is None
    assert progress.shown(print, "episodes") is print
    tell = progress.shown(True, "episodes")
    assert tell is not None
    for count in range(1, 200):
        tell(count, 200)
    assert log.getvalue().splitlines()[0] == "episodes: 3/200 1 s"
    assert 3 <= len(log.getvalue().splitlines()) <= 5


def test_a_notebook_has_a_bar_in_the_cell(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, text: str) -> None:
            drawn.append(text)

    def display(text: str, display_id: bool) -> Handle:
        drawn.append(text)
        return Handle()

    fake = types.ModuleType("IPython")
    fake.get_ipython = lambda: types.SimpleNamespace(kernel=1)  # type: ignore[attr-defined]
    parts = types.ModuleType("IPython.display")
    parts.HTML, parts.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", parts)
    tell = progress.shown(None, "<episodes>")
    assert tell is not None
    for count in range(1, 5):
        tell(count, 4)
    assert drawn[0].startswith('<div><progress value="3" max="4">')
    assert "&lt;episodes&gt; 4/4 2 s" in drawn[-1]


def test_rollout_tells_as_it_is_asked(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    rollout("ToolQA-PopQA-v0", "lookup", episodes=6, progress=False)
    assert screen.getvalue() == ""
    rollout("ToolQA-PopQA-v0", "lookup", episodes=6)
    assert "episodes" in screen.getvalue()
    told: list[tuple[int, int]] = []
    rollout("ToolQA-PopQA-v0", "lookup", episodes=2, progress=lambda *now: told.append(now))
    assert told == [(1, 2), (2, 2)]

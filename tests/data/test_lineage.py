"""From a model back to its rows, episodes and tasks; a broken link is an error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolgym import export, rollout
from toolgym._util.jsonl import read_rows, write_json, write_rows
from toolgym.cli import _app
from toolgym.data.lineage import LINEAGE, Origins
from toolgym.data.tracing import trace
from toolgym.errors import BadInputError, MissingFileError
from toolgym.rollouts.runs import Run
from toolgym.training.output import Outcome

WHO = "Thought: I know it.\nAnswer: politician"


def model_folder(folder: Path, words: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(words.encode())
    write_json(folder / "config.json", {"words": words})
    return folder


class Saved:
    """What a trained model and its tokenizer write."""

    def __init__(self, *files: tuple[str, str]) -> None:
        self.files = files

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name, text in self.files:
            (folder / name).write_text(text)


def trained(target: Path, begin: Path, source: Any, origins: Origins | None = None) -> Path:
    """A training without its steps."""
    record = {"method": "sft", "model": str(begin), "counts": {}, "trained_tokens": 1}
    outcome = Outcome(target, record, source, origins)
    with outcome.begin(resume=True):
        model = Saved(("model.safetensors", f"trained in {target}"), ("config.json", "{}"))
        outcome.finish(model, Saved(("tokenizer.json", "{}")), {"steps": 1, "loss": 0.0}, [])
    return target


def practise(folder: Path, tasks: Path, player: Path, seed: int, count: int) -> Run:
    run = rollout(
        "ToolQA-PopQA-v0",
        lambda messages, tools: WHO,
        env_args={"tasks": str(tasks)},
        episodes=count,
        seed=seed,
        out=folder,
    )
    told = json.loads((folder / "run.json").read_text())
    told["policy"] = {"policy": "transformers", "model": str(player)}  # as a real one says it
    write_json(folder / "run.json", told)
    return run


def learn(base: Path, place: Path, run: Run, begin: Path) -> Path:
    """One round of a training that writes what a real one writes."""
    export(run, out=place / "selection" / "rows.jsonl")
    return trained(place / "training" / "model", begin, place / "selection" / "rows.jsonl")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds: the second model begins with the first, which plays for it."""
    folder = tmp_path_factory.mktemp("work")
    tasks = folder / "tasks.jsonl"
    write_rows(tasks, [{"id": f"t{n}", "question": f"Q {n}?", "answers": ["a"]} for n in range(9)])
    base = model_folder(folder / "base" / "tiny", "from scratch")
    first = folder / "round-1"
    one = learn(folder, first, practise(first / "practice", tasks, base, 1, 4), base)
    second = folder / "round-2"
    learn(folder, second, practise(second / "practice", tasks, one, 2, 9), one)
    write_json(folder / "settings.json", {"model": "tiny", "seed": 3})
    return folder


@pytest.fixture
def copied(work: Path, tmp_path: Path) -> Path:
    """The same elsewhere: all places in a lineage are relative."""
    shutil.copytree(work, tmp_path / "moved")
    return tmp_path / "moved"


def test_every_row_reaches_its_episode_and_task(work: Path) -> None:
    found = trace(work)
    assert [Path(model.folder).parent.parent.name for model in found.models[1:]] == [
        "round-1",
        "round-2",
    ]
    last = found.models[-1]
    assert (last.begins, last.players, last.count) == (1, [1], 9)
    assert found.checked["rows"] == found.checked["episodes"] == found.checked["tasks"] == 13
    episodes = {
        row["id"]: row for _, row in read_rows(work / "round-2/practice/trajectories.jsonl")
    }
    for link in last.links():
        (episode,) = link.episodes
        assert episodes[episode["id"]]["task"]["id"] == episode["task"]
    assert "every hash is right" in str(found)
    assert "| model | method | rows |" in found.card()


def test_it_is_whole_in_another_place(copied: Path) -> None:
    assert trace(copied / "round-2" / "training" / "model").checked["rows"] == 13


def flip(path: Path) -> None:
    if path.name == "run.json":  # of its values some may change
        path.write_text(path.read_text().replace("ToolQA", "ToolQB"))
        return
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "round-2/training/model/model.safetensors",
        "round-2/selection/rows.jsonl",
        "round-2/selection/rows.links",
        "round-2/selection/rows.lineage",
        "round-2/practice/run.json",
        "round-2/practice/trajectories.jsonl",
        "round-1/practice/trajectories.jsonl",
        f"round-1/training/model/{LINEAGE}",
        "base/tiny/model.safetensors",
        "tasks.jsonl",
    ],
)
@pytest.mark.parametrize("break_it", [flip, os.remove])
def test_a_broken_link_is_an_error(
    copied: Path, name: str, break_it: Callable[[Path], None]
) -> None:
    break_it(copied / name)
    with pytest.raises((BadInputError, MissingFileError), match=r"broken link|line|no trajectory"):
        trace(copied)
    ran = CliRunner().invoke(_app(), ["lineage", str(copied)])
    assert ran.exit_code == 3, ran.output


def test_a_swapped_episode_is_found(copied: Path) -> None:
    file = copied / "round-1/practice/trajectories.jsonl"
    rows = [row for _, row in read_rows(file)]
    rows[0]["task"]["answers"] = ["another"]
    write_rows(file, rows)
    with pytest.raises(BadInputError, match="broken link: episode"):
        trace(copied)


def test_what_has_to_be_trained_again_without_a_task(work: Path) -> None:
    found = trace(work)
    early = next(iter(found.models[1].links())).episodes[0]["task"]
    again = found.without(early)
    assert [Path(each["model"]).parent.parent.name for each in again] == ["round-1", "round-2"]
    assert again[0]["rows"] == [1]
    assert "the model that it began with has to be trained again" in again[1]["why"]
    only_late = set(found.tasks()) - {
        e["task"] for x in found.models[1].links() for e in x.episodes
    }
    (last,) = found.without(only_late.pop())
    assert Path(last["model"]).parent.parent.name == "round-2"
    assert len(last["rows"]) == 1
    assert found.without("no such task") == []


def test_the_command_prints_json_rows_and_a_card(work: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(_app(), ["lineage", str(work), "--json", "--rows"])
    assert ran.exit_code == 0, ran.output
    assert len(json.loads(ran.stdout)["models"][-1]["rows"]) == 9
    card = tmp_path / "card.md"
    told = CliRunner().invoke(_app(), ["lineage", str(work), "--rows", "--card", str(card)])
    assert told.stdout.count(" <- ") == 26
    assert "13 rows of 9 tasks" in card.read_text()
    without = CliRunner().invoke(_app(), ["lineage", str(work), "--without", "t0"])
    assert "train again" in without.stdout


def test_a_model_without_a_lineage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has no lineage"):
        trace(model_folder(tmp_path / "model", "x"))
    with pytest.raises(MissingFileError):
        trace(tmp_path / "nowhere")

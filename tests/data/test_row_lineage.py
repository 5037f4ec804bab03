"""Rows of `export`, also of selections and of several runs, lead to their episodes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from toolgym import Run, export, rollout, select
from toolgym._util.hashes import file_hash, value_hash
from toolgym._util.jsonl import read_lines, read_rows, write_json, write_rows
from toolgym.cli import _app
from toolgym.data.export import Rows
from toolgym.data.lineage import LINEAGE, LINKS, Origins
from toolgym.data.tracing import Lineage, trace
from toolgym.errors import BadInputError
from toolgym.rollouts.lines import task_hash
from toolgym.rollouts.recording import open_recording
from toolgym.training.output import Outcome

RIGHT_WRONG: dict[str, Any] = {"pairing": "right_wrong"}


class Saved:
    """What a trained model and its tokenizer write."""

    def __init__(self, name: str) -> None:
        self.name = name

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / self.name).write_text("{}")


def trained(target: Path, source: Any, origins: Origins | None = None) -> Path:
    """A training without its steps."""
    record = {"method": "sft", "model": "hub/name", "counts": {}, "trained_tokens": 1}
    outcome = Outcome(target, record, source, origins)
    with outcome.begin(resume=True):
        outcome.finish(Saved("model.json"), Saved("words.json"), {"steps": 1, "loss": 0.0}, [])
    return target


def play(out: Path, tasks: Path, name: str, **more: Any) -> Run:
    """Each episode says whose it is; every other sample is wrong."""
    count = 0

    def policy(messages: Any, tools: Any) -> str:
        nonlocal count
        count += 1
        if len(messages) < 4:
            return f"Thought: {name} {count} computes.\nAction: Calculator[1+{count}]"
        return f"Thought: {name} {count}.\nAnswer: {42 if count % 4 else 41}"

    args = {"tasks": str(tasks), "tools": ["Calculator"]}
    more |= {"samples_per_task": 2, "seed": 1, "concurrency": 1}
    return rollout("ToolQA-GSM8K-v0", policy, env_args=args, out=out, **more)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over the same questions, so that their episodes have the same ids; selections."""
    folder = tmp_path_factory.mktemp("rows")
    tasks = folder / "tasks.jsonl"
    write_rows(tasks, [{"id": f"t{n}", "question": f"Q {n}?", "answers": ["42"]} for n in range(4)])
    play(folder / "one", tasks, "one")
    play(folder / "two", tasks, "two", compress=True)
    select(folder / "one").write(folder / "kept")
    select(folder / "two").write(folder / "kept.jsonl")
    select(folder / "kept", where="steps>=1", per_task=1).write(folder / "again", compress=True)
    select([folder / "one", folder / "two"]).write(folder / "both")
    return folder


@pytest.fixture
def copied(work: Path, tmp_path: Path) -> Path:
    shutil.copytree(work, tmp_path / "work")
    for file in (tmp_path / "work").rglob("*.json"):  # as if they were made there
        file.write_text(file.read_text().replace(str(work), str(tmp_path / "work")))
    return tmp_path / "work"


def lines(place: Path) -> dict[str, dict[str, Any]]:
    """Each line of a run or a selection by its hash."""
    file = next(place.glob("trajectories.jsonl*")) if place.is_dir() else place
    found = {hashlib.sha256(raw.strip()).hexdigest(): raw for _, _, raw in read_lines(file)}
    return {digest: json.loads(raw) for digest, raw in found.items()}


def require_right(found: Lineage, rows: list[dict[str, Any]]) -> set[str]:
    """Compare each link with what stands in the row; the runs that rows lead to."""
    (node,) = (node for node in found.models if node.method)
    links = list(node.links())
    assert len(links) == len(rows) == node.count > 0
    assert node.linked is not None
    places = set()
    for link, row in zip(links, rows, strict=True):
        pair = [row["id"], row["rejected_id"]] if "rejected_id" in row else [row["id"]]
        assert [each["id"] for each in link.episodes] == [name.partition("@")[0] for name in pair]
        sides = ("chosen", "rejected") if len(pair) > 1 else (None,)
        for side, each in zip(sides, link.episodes, strict=True):
            place = (node.linked.parent / each["run"]).resolve()
            episode = lines(place)[each["hash"]]
            assert episode["task"]["id"] == each["task"]
            assert value_hash(episode["task"]) == each["task_hash"]
            said = [step["action"] for step in episode["steps"]]
            chats = row[side] if side else row.get("completion") or row["messages"]
            mine = [chat["content"] for chat in chats if chat["role"] == "assistant"]
            assert mine
            assert set(mine) <= set(said)  # each reply names its run and its number
            if "selection" in each:
                copy = lines((node.linked.parent / each["selection"]).resolve())[each["selected"]]
                assert [step["action"] for step in copy["steps"]] == said
            places.add(place.name)
    assert found.checked["episodes"] == found.checked["tasks"] > 0
    assert sum(run["episodes"] for run in node.runs) == found.checked["episodes"]
    return places


ONE, TWO = {"one"}, {"two"}
CASES: dict[str, tuple[Callable[[Path], Any], str, dict[str, Any], set[str]]] = {
    "run": (lambda at: at / "one", "sft", {}, ONE),
    "opened": (lambda at: Run.open(at / "one"), "sft", {"where": "accuracy>=1"}, ONE),
    "part": (lambda at: Run.open(at / "two")[1:5], "sft", {}, TWO),
    "compressed": (lambda at: at / "two", "prefixes", {}, TWO),
    "learn-as": (lambda at: at / "one", "prefixes", {"learn_as": {"prompt": "bare"}}, ONE),
    "selection": (lambda at: at / "kept", "sft", {}, ONE),
    "selection-file": (lambda at: at / "kept.jsonl", "sft", {}, TWO),
    "selection-of-one": (lambda at: at / "again", "prefixes", {}, ONE),
    "selection-of-two": (lambda at: at / "both", "sft", {}, ONE | TWO),
    "chosen": (lambda at: select(at / "two", best_of=1), "sft", {}, TWO),
    "chosen-of-two": (lambda at: select([at / "one", at / "two"]), "sft", {}, ONE | TWO),
    "chosen-of-a-selection": (lambda at: select(at / "kept.jsonl"), "prefixes", {}, TWO),
    "several": (lambda at: [at / "one", at / "two"], "sft", {}, ONE | TWO),
    "several-selections": (lambda at: [at / "kept", at / "kept.jsonl"], "sft", {}, ONE | TWO),
    "pairs": (lambda at: at / "one", "dpo", RIGHT_WRONG, ONE),
    "pairs-of-several": (lambda at: [at / "one", at / "two"], "dpo", RIGHT_WRONG, ONE | TWO),
    "turns": (
        lambda at: [at / "two", at / "one"],
        "dpo",
        {"pairing": "first_divergence"},
        ONE | TWO,
    ),
}


@pytest.mark.parametrize("spilled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_exported_row_reaches_its_episode(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spilled: bool
) -> None:
    if spilled:  # rows and episodes lie on disk
        from toolgym._util.spool import Spool
        from toolgym.trajectory import reading

        monkeypatch.setattr(reading, "MOST_HELD", 1)
        monkeypatch.setattr(Spool.__init__, "__defaults__", (1,))
    source, kind, options, runs = CASES[name]
    made = export(source(work), kind, **options, out=tmp_path / "rows.jsonl")
    assert [row for _, row in read_rows(tmp_path / "rows.jsonl")] == list(made)
    found = trace(trained(tmp_path / "model", tmp_path / "rows.jsonl"))
    assert require_right(found, list(made)) == runs
    assert found.checked["rows"] == len(made)
    assert spilled or pickle.loads(pickle.dumps(made)) == made
    # The same rows without a file.
    direct = trace(trained(tmp_path / "direct", made, made.traced()))
    assert require_right(direct, list(made)) == runs
    assert (direct.models[-1].rows, direct.checked["rows"]) == (None, 0)
    assert direct.tasks() == found.tasks()


def test_exports_into_one_folder_do_not_collide(copied: Path) -> None:
    rows = copied / "rows"
    places = [rows / "a.jsonl", rows / "b.jsonl.zst", rows]
    sources: list[Any] = [copied / "one", [copied / "one", copied / "two"], copied / "kept"]
    for place, source, kind in zip(places, sources, ("sft", "prefixes", "sft"), strict=True):
        export(source, kind, out=place)
    names = {file.name for file in rows.iterdir()}
    assert names == {
        *("a.jsonl", "a.lineage", "a.links", "a.md"),
        *("b.jsonl.zst", "b.lineage", "b.links", "b.md"),
        *("train.jsonl", "train.lineage", "train.links", "README.md"),
    }
    counts = [
        trace(trained(copied / f"m{n}", place)).checked["rows"] for n, place in enumerate(places)
    ]
    assert counts == [8, 32, 4]
    assert "copies" in trace(copied / "m2").checked


def test_what_was_moved_together_is_whole_and_alone_is_not(copied: Path, tmp_path: Path) -> None:
    export(copied / "kept", out=copied / "rows" / "a.jsonl")
    trained(copied / "model", copied / "rows" / "a.jsonl")
    shutil.move(copied, tmp_path / "elsewhere")
    here = tmp_path / "elsewhere"
    assert trace(here / "model").checked["rows"] == 4
    shutil.copytree(here / "rows", tmp_path / "far" / "off" / "rows")
    trained(tmp_path / "far" / "off" / "model", tmp_path / "far" / "off" / "rows" / "a.jsonl")
    with pytest.raises(BadInputError, match=r"one/run\.json' is missing; restore it \(places are"):
        trace(tmp_path / "far" / "off" / "model")
    shutil.copy(here / "rows" / "a.jsonl", tmp_path / "a.jsonl")
    (node,) = trace(trained(tmp_path / "model", tmp_path / "a.jsonl")).models[1:]
    assert node.notes[0].startswith("trained on '../a.jsonl', whose rows have no links to episodes")


def first_line(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rows = [row for _, row in read_rows(file)]
    change(rows[0])
    write_rows(file, rows)


def without_a_row(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


BREAKS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "row deleted": ("a.jsonl", without_a_row, "a.jsonl' is not what"),
    "row changed": ("a.jsonl", lambda f: first_line(f, lambda r: r.update(id="x")), "a.jsonl' is"),
    "rows gone": ("a.jsonl", os.remove, "a.jsonl' is missing"),
    "link deleted": ("a.links", without_a_row, "a.links' is not what"),
    "links gone": ("a.links", os.remove, "a.links' is missing"),
    "lineage gone": ("a.lineage", os.remove, "a.lineage' is missing"),
    "exported anew": ("a.jsonl", lambda f: export(f.parent / "two", out=f), "a.lineage' is not"),
    "run changed": ("one/run.json", lambda f: f.write_text("{}"), "run.json' is not what"),
    "run gone": ("one", shutil.rmtree, "run.json' is missing"),
    "episodes gone": ("one/trajectories.jsonl", os.remove, "has no episodes"),
    "episode deleted": ("one/trajectories.jsonl", without_a_row, "episode .* is missing"),
    "episode changed": (
        "one/trajectories.jsonl",
        lambda f: first_line(f, lambda r: r["task"].update(answers=["43"])),
        "episode 't.#0' of .*one' is not what it was",
    ),
    "copy changed": (
        "kept/trajectories.jsonl",
        lambda f: first_line(f, lambda r: r.update(seed=0)),
        "episode .*kept/trajectories.jsonl' is not what",
    ),
    "copy deleted": ("kept/trajectories.jsonl", without_a_row, "episode .*kept.* is missing"),
    "selection gone": ("kept", shutil.rmtree, "kept/trajectories.jsonl' has no episodes"),
    "tasks changed": ("tasks.jsonl", without_a_row, "tasks.jsonl' is not what"),
}


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_link_is_an_error(copied: Path, name: str, written: bool) -> None:
    file, break_it, message = BREAKS[name]
    export(copied / "kept", out=copied / "a.jsonl")
    model = copied / "model"
    if written:
        trained(model, copied / "a.jsonl")
    else:
        rows = export(copied / "kept")
        trained(model, copied / "kept", rows.traced())
    trace(model)
    break_it(copied / file)
    if not written and file.startswith("a."):
        trace(model)  # these were another export
        return
    with pytest.raises(BadInputError, match=f"^broken link: .*{message}"):
        trace(model)
    ran = CliRunner().invoke(_app(), ["lineage", str(model)])
    assert ran.exit_code == 3


def test_a_task_is_taken_out_and_a_card_is_written(copied: Path) -> None:
    export([copied / "one", copied / "two"], "dpo", **RIGHT_WRONG, out=copied / "pairs.jsonl")
    found = trace(trained(copied / "model", copied / "pairs.jsonl"))
    (again,) = found.without("t1")
    ids = [row["id"] for _, row in read_rows(copied / "pairs.jsonl")]
    assert again["rows"] == [n for n, name in enumerate(ids, 1) if name.startswith("t1#")] != []
    assert again["file"] == str(copied / "pairs.jsonl")
    assert found.without("t9") == []
    assert found.card().count("| ToolQA-GSM8K-v0 |") == 2
    made = export(copied / "one")
    trained(copied / "direct", made, made.traced())
    told = CliRunner().invoke(_app(), ["lineage", str(copied / "direct"), "--without", "t0"])
    assert told.stdout.rstrip().endswith("2 of its 8 rows hold it: rows 1, 2")
    told = CliRunner().invoke(_app(), ["lineage", str(copied / "direct"), "--rows"])
    assert f"{copied / 'direct' / LINKS}:8 " in told.stdout
    assert "8 made of episodes" in told.stdout


def test_what_leads_nowhere_is_a_note_and_leaves_no_stale_links(copied: Path) -> None:
    file = copied / "rows.jsonl"
    export(copied / "one", out=file)
    made = export(copied / "one")
    for rows in (
        Rows([{**row, "id": "mine"} for row in made], "sft", made.about, {}, made.origins),
        export(list(Run.open(copied / "one"))),
        export("sample:lookup"),
    ):
        made.write(file)
        assert file.with_suffix(".lineage").is_file()
        rows.write(file)
        assert not file.with_suffix(".lineage").is_file()
        assert not file.with_suffix(".links").is_file()
    (node,) = trace(trained(copied / "model", file)).models[1:]
    assert node.notes == [
        "trained on '../rows.jsonl', whose rows have no links to episodes: the chain ends at this "
        "file"
    ]
    (node,) = trace(trained(copied / "other", [{"messages": []}])).models[1:]
    assert node.notes == ["trained on what was in memory alone: the chain ends here"]


def test_a_selection_without_its_run_leads_to_itself(copied: Path) -> None:
    shutil.rmtree(copied / "one")
    made = export(copied / "kept", out=copied / "rows.jsonl")
    found = trace(trained(copied / "model", copied / "rows.jsonl"))
    assert require_right(found, list(made)) == {"trajectories.jsonl"}
    (run,) = found.models[-1].runs
    assert (run["env"], run["seed"], run["episodes"]) == ("ToolQA-GSM8K-v0", 1, 4)
    assert "holds episodes without their run" in found.models[-1].notes[0]


@given(
    st.dictionaries(st.text(), st.text()),
    st.text(),
    st.lists(st.sampled_from(["id", "env_id", "format", "sample"]), unique=True),
    st.booleans(),
)
def test_a_task_is_found_in_its_line_as_if_all_of_it_were_read(
    task: dict[str, str], text: str, names: list[str], readable: bool
) -> None:
    row = {"schema": 3, **dict.fromkeys(names, text), "task": {**task, "id": text}, "steps": []}
    raw = json.dumps(row, ensure_ascii=not readable).encode("utf-8", "surrogatepass")
    assert task_hash(raw) == (text, value_hash(row["task"]))


def test_an_episode_that_was_changed_in_a_selection_is_not_that_of_the_run(copied: Path) -> None:
    file = copied / "kept" / "trajectories.jsonl"
    first_line(file, lambda row: row["steps"][0].update(observation="another"))
    export(copied / "kept", out=copied / "rows.jsonl")
    found = trace(trained(copied / "model", copied / "rows.jsonl"))
    by_run = {Path(run["folder"]).name: run["episodes"] for run in found.models[-1].runs}
    assert by_run == {"trajectories.jsonl": 1, "one": 3}
    # In memory nothing else is there that it could lead to.
    chosen = select(copied / "one")
    chosen.kept[0].steps[0].observation = "another"
    origins = export(chosen).traced()
    assert origins is not None
    assert not origins.known


def test_a_lineage_of_the_first_form_is_read(copied: Path) -> None:
    export(copied / "one", out=copied / "chosen" / "rows.jsonl")
    told = json.loads((copied / "chosen" / "rows.lineage").read_text())
    links = [row for _, row in read_rows(copied / "chosen" / "rows.links")]
    for link, (_, row) in zip(links, read_rows(copied / "chosen" / "rows.jsonl"), strict=True):
        link["hash"] = value_hash(row)
    write_rows(copied / "chosen" / LINKS, links)
    told["runs"][0]["hash"] = file_hash(copied / "one" / "run.json")
    old = {**told, "schema": 1, "links": file_hash(copied / "chosen" / LINKS)}
    write_json(copied / "chosen" / LINEAGE, old)
    for name in ("rows.lineage", "rows.links"):
        (copied / "chosen" / name).unlink()
    assert trace(trained(copied / "model", copied / "chosen" / "rows.jsonl")).checked["rows"] == 8
    sealed = json.loads((copied / "model" / LINEAGE).read_text())
    write_json(copied / "model" / LINEAGE, {**sealed, "rows": "../chosen"})
    assert trace(copied / "model").checked["rows"] == 8
    first_line(copied / "chosen" / "rows.jsonl", lambda row: row.update(id="x"))
    with pytest.raises(BadInputError, match="broken link"):
        trace(copied / "model")


def test_a_run_that_got_more_episodes_is_still_that_run(tmp_path: Path) -> None:
    def more(episodes: int) -> Run:
        return rollout("ToolQA-PopQA-v0", "lookup", episodes=episodes, seed=0, out=tmp_path / "run")

    export(more(3), out=tmp_path / "rows.jsonl")
    trained(tmp_path / "model", tmp_path / "rows.jsonl")
    assert len(more(5)) == 5
    assert trace(tmp_path / "model").checked["episodes"] == 3
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    write_json(tmp_path / "run" / "run.json", {**told, "seed": 1})
    with pytest.raises(BadInputError, match=r"broken link: .*run.json' is not what it was"):
        trace(tmp_path / "model")


def test_origins_are_noted_before_a_training_ends(copied: Path) -> None:
    """Hours later another export may stand in its place."""
    file = copied / "rows.jsonl"
    export(copied / "one", out=file)
    record = {"method": "sft", "model": "hub/name", "counts": {}, "trained_tokens": 1}
    outcome = Outcome(copied / "model", record, file)
    with outcome.begin(resume=True):
        export(copied / "two", out=file)
        outcome.finish(Saved("model.json"), Saved("words.json"), {"steps": 1, "loss": 0.0}, [])
    with pytest.raises(BadInputError, match=r"broken link: .*rows.lineage' is not what it was"):
        trace(copied / "model")
    export(copied / "one", out=file)
    assert trace(copied / "model").checked["rows"] == 8


def test_episodes_are_given_with_their_lines(work: Path) -> None:
    for place in ("one", "two", "kept", "kept.jsonl"):
        opened = open_recording(work / place)
        found = list(opened.with_lines())
        assert [each.id for _, _, each in found] == [each.id for each in opened]
        assert all(source is opened for source, _, _ in found)
        assert [json.loads(line or b"")["id"] for _, line, _ in found] == [t.id for t in opened]

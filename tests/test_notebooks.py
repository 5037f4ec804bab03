"""The notebooks run from top to bottom, and are kept as they were executed last."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.sources

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_five_and_the_docs_show_each() -> None:
    assert len(NOTEBOOKS) == 5
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    page = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
    for path in NOTEBOOKS:
        assert f" notebooks/{path.name}\n" in navigation
        assert f"(notebooks/{path.name})" in page
        assert (ROOT / "docs" / "notebooks" / path.name).samefile(path)


@each_notebook
def test_it_is_small_and_shows_what_it_gave(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("text/html" in output.get("data", {}) for output in outputs)


@each_notebook
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, 4)
    NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert not [o for o in outputs if o.get("name") == "stderr"], "a notebook is quiet"

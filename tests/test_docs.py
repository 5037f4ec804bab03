"""Every code block of README and docs runs; printed output shown on a page is the real one."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolgym.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

_BLOCK = re.compile(
    r"^(<!-- (?P<mark>[\w -]+) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass
class Block:
    """One fenced block: its language, the mark in the comment line above it, and its text."""

    kind: str
    mark: str
    code: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(found["kind"], found["mark"] or "", found["code"], line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_and_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        place = f"{page.name}:{block.line}"
        if block.mark == "output":
            assert printed.rstrip() == block.code.rstrip(), f"{place} shows another output"
        elif block.kind == "python" and block.mark != "no test":
            source = "\n" * (block.line - 1) + block.code  # so that a traceback names the line
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(source, str(page), "exec"), namespace)
            printed = output.getvalue()
        elif block.kind == "bash" and block.mark == "test":
            printed = "".join(run_line(line, place) for line in commands(block.code))


def commands(code: str) -> list[str]:
    joined = code.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def run_line(line: str, place: str) -> str:
    """Run one ``toolgym ...`` line in this process."""
    name, *arguments = shlex.split(line, comments=True)
    assert name == "toolgym", f"{place}: only toolgym's own commands are tested, not {name!r}"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{place}: {line}\n{result.output}"
    return result.stdout


def prose(page: Path) -> str:
    """A page without its code, in which brackets mean something else."""
    return re.sub(
        r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as mkdocs and GitHub make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!\w+:)([^)\s]+)[^)]*\)", prose(page)):
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        if page.parent.name == "docs":
            # The site holds the folder docs and nothing else.
            inside = (page.parent, ROOT / "examples" / "notebooks")  # which docs/notebooks shows
            assert set(inside) & set(there.parents), f"{page.name} links to {link}, out of docs"
        # Where the wheel is tested, files outside README and docs are not at hand.
        assert there.exists() or not (ROOT / "toolgym").exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {link}: no such heading"


@pytest.mark.sources
def test_a_dead_link_would_be_seen(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# One two\n[a](b.md) `[x](y.md)`\n", encoding="utf-8")
    (docs / "b.md").write_text("## It's *here*\n", encoding="utf-8")
    test_links_lead_somewhere(docs / "a.md")
    assert anchors(docs / "b.md") == {"its-here"}
    (tmp_path / "out.md").touch()
    for dead in ("c.md", "../out.md", "#two", "b.md#there"):
        (docs / "c-page.md").write_text(f"[dead]({dead})\n", encoding="utf-8")
        with pytest.raises(AssertionError, match=re.escape(dead)):
            test_links_lead_somewhere(docs / "c-page.md")


@pytest.mark.sources
def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f" {page.name}\n" in navigation, f"{page.name} is not in mkdocs.yml"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_run(
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example prints what it found"


def test_readme_shows_the_way_in_its_first_lines() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines[2]) > 40, "line 3 says what it is"
    assert any("pip install" in line for line in lines[:15])
    assert any(line == "```python" for line in lines[:25])

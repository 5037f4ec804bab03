"""What an installation holds, and what importing it costs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "pandas", "ray"),
    *("sympy", "numba", "bm25s", "openai", "aiohttp", "matplotlib", "rich"),
}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.sources
def test_every_package_on_disk_is_listed() -> None:
    def below(folder: Path, name: str) -> set[str]:
        found = {name} if (folder / "__init__.py").is_file() else set()
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink() and path.name != "__pycache__":
                found |= below(path, f"{name}.{path.name}")
        return found

    on_disk = below(ROOT / "toolgym", "toolgym")
    on_disk |= below(ROOT / "envs", "toolgym.envs") | below(ROOT / "rewards", "toolgym.rewards")
    assert sorted(project()["tool"]["setuptools"]["packages"]) == sorted(on_disk)


@pytest.mark.sources
@pytest.mark.parametrize("name", ["envs", "rewards"])
def test_the_links_point_to_the_root_folders(name: str) -> None:
    link = ROOT / "toolgym" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}", "relative, so that a clone has it too"
    assert link.resolve() == ROOT / name


@pytest.mark.sources
def test_the_licence_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    assert "9. Accepting Warranty or Additional Liability" in text
    assert "APPENDIX: How to apply the Apache License to your work" in text


def wheel_names(folder: Path) -> list[str]:
    (wheel,) = folder.glob("toolgym-*.whl")
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel: the one under test, or one built from a copy of the sources."""
    if "TOOLGYM_WHEELS" in os.environ:
        return wheel_names(Path(os.environ["TOOLGYM_WHEELS"]))
    import shutil

    copy = tmp_path_factory.mktemp("sources") / "toolgym"
    copy.mkdir()
    for name in ("toolgym", "envs", "rewards"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return wheel_names(copy / "out")


def test_the_wheel_has_one_package_at_top_level(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"toolgym"}
    assert len(tops) == 2


def test_the_wheel_holds_environments_rewards_samples_and_types(wheel: list[str]) -> None:
    for name in ("__init__.py", "py.typed", "cli/__init__.py", "envs/toolqa/families.py"):
        assert f"toolgym/{name}" in wheel
    assert "toolgym/rewards/answer.py" in wheel
    samples = {Path(name).name for name in wheel if name.startswith("toolgym/envs/")}
    assert {
        "popqa_sample.jsonl",
        "triviaqa_sample.jsonl",
        "gsm8k_sample.jsonl",
        "nqopen_sample.jsonl",
        "encyclopedia_sample.jsonl",
        "phrasebook_sample.jsonl",
    } <= samples
    assert any(name.endswith("LICENSE") for name in wheel)


@pytest.mark.sources
def test_the_wheel_holds_whatever_a_module_reads_beside_it(wheel: list[str]) -> None:
    beside = [
        str(Path("toolgym") / path.relative_to(ROOT)).replace("toolgym/toolgym/", "toolgym/")
        for folder in ("toolgym", "envs", "rewards")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl", ".txt", ".html", ".css", ".js")
    ]
    assert len(beside) > 10
    assert set(beside) <= set(wheel), "data files are listed one by one in pyproject.toml"


def test_the_installation_says_that_it_is_typed() -> None:
    assert (files("toolgym") / "py.typed").is_file()


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter loads, as ``-X importtime`` lists them."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "code",
    [
        "import toolgym",
        "import gymnasium, toolgym; assert 'ToolQA-PopQA-v0' in gymnasium.registry",
        "import toolgym.cli",
    ],
)
def test_importing_loads_nothing_heavy(code: str) -> None:
    loaded = loaded_by(code)
    assert "toolgym" in loaded
    assert not loaded & HEAVY


def test_the_core_needs_few_packages() -> None:
    always = [line for line in requires("toolgym") or [] if "extra ==" not in line]
    assert len(always) <= 10
    assert not [line for line in always if line.split(">")[0].strip() in {"torch", "transformers"}]


# What a requirement is imported as, where that is not its own name.
IMPORTED_AS = {"pystemmer": "Stemmer", "pyyaml": "yaml"}
# Imported by nobody here, and needed nevertheless.
NEEDED_UNSEEN = {
    "accelerate": "transformers' Trainer asks for it",
    "agilerl": "its harness takes our environments as they are",
    "sentencepiece": "transformers reads NLLB's vocabulary with it",
    "build": "the Makefile runs it",
    "mypy": "the Makefile runs it",
    "ruff": "the Makefile runs it",
    "pytest-xdist": "pytest takes its options",
    "ipykernel": "notebooks run in it",
    "mkdocs-jupyter": "mkdocs names it as a plugin",
    "mkdocstrings": "mkdocs names it as a plugin",
    "mkdocs-material": "mkdocs names it as its theme",
    "deepspeed": "transformers' Trainer imports it",
}


def imported_by(*folders: str) -> set[str]:
    """Top-level modules that sources import, at any depth, or ask `require_extra` for."""
    found: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        siblings = {other.stem for other in path.parent.glob("*.py")}
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Call) and node.args:
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                called = node.func.attr if isinstance(node.func, ast.Attribute) else called
                first = node.args[0]
                if called in ("require_extra", "importorskip") and isinstance(first, ast.Constant):
                    names = [str(first.value)]
            tops = {name.split(".")[0] for name in names}
            # Child scripts are run by path, and import the modules beside them.
            found |= tops if not path.stem.startswith("_") else tops - siblings
    ours = {"toolgym", "tests", "benchmarks", "__future__", "no_such_library"}
    return found - ours - set(sys.stdlib_module_names)


def declared(*extras: str) -> set[str]:
    """Module names of what pyproject.toml names for an installation with these extras."""
    table = project()["project"]
    lines = [*table["dependencies"]]
    for extra in extras:
        lines += table["optional-dependencies"][extra]
    names = {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in lines} - {"toolgym"}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


@pytest.mark.sources
def test_every_import_is_declared_and_every_declaration_imported() -> None:
    extras = list(project()["project"]["optional-dependencies"])
    for_users = [extra for extra in extras if extra not in ("dev", "docs")]
    unseen = {name.replace("-", "_") for name in NEEDED_UNSEEN}
    package = imported_by("toolgym", "envs", "rewards")
    assert package - declared(*for_users) == set(), "imported, not declared"
    assert declared(*for_users) - package - unseen == set(), "declared, not imported"
    beside = {path.stem for path in (ROOT / "tests" / "helpers").glob("*.py")}
    beside |= {path.parent.name for path in (ROOT / "tests" / "plugin").glob("*/__init__.py")}
    tests = imported_by("tests") - beside
    assert tests - declared(*extras) == set(), "imported by the tests, not declared"
    assert declared(*extras) - package - tests - unseen == set(), "declared, not imported"
    assert unseen <= declared(*extras), "no longer declared"


@pytest.mark.sources
def test_what_is_declared_is_constrained() -> None:
    extras = list(project()["project"]["optional-dependencies"])
    pinned = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    named = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in pinned}
    # The bridge to lm-eval brings a whole stack of its own, and is tested where it is installed.
    assert declared(*extras) - named == {"lm_eval"}

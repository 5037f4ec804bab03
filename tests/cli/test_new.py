"""`toolgym new env`: a package that passes its own test, and one line for what cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolgym.cli import new
from toolgym.cli.new import write_package
from toolgym.errors import BadInputError
from toolgym.registry import ENVIRONMENTS


@pytest.mark.skipif(sys.platform != "linux", reason="sessions are forked")
def test_a_new_package_passes_its_own_test_and_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(new.new_app, ["env", "corner_shop"])
    assert said.exit_code == 0, said.output
    assert "cd corner_shop && pip install -e . && pytest" in said.output
    package = tmp_path / "corner_shop"
    assert [path.name for path in tmp_path.iterdir()] == ["corner_shop"]
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index"]
    install += ["--quiet", "--disable-pip-version-check", "--target", "site", "."]
    policy = "corner_shop.policy:shopper"
    play = ["-m", "toolgym.cli", "rollout", "CornerShop-v0", "--policy", policy, "--out", "run"]
    path = [str(package / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    for command in (install, ["-W", "error", "-m", "pytest", "-q", "tests"], play):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=package,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "mean reward  1.000" in done.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Shop", "cannot be the name of a package"),
        ("2shop", "small letters, digits and _"),
        ("../shop", "cannot be the name"),
        ("class", "no word of Python itself"),
        ("json", "a module 'json' can be imported already"),
        ("toolgym", "a module 'toolgym' can be imported already"),
        ("there", "exists: choose another name"),
        ("taken", "environment 'Taken-v0' is there already"),
    ],
)
def test_names_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.setitem(ENVIRONMENTS._entries, "Taken-v0", None)
    with pytest.raises(BadInputError, match=why):
        write_package(name, tmp_path)
    with pytest.raises(BadInputError, match="there is no folder"):
        write_package("shop", tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]

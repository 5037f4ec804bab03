"""Small things: signals, scarce threads, documents without docstrings, typed lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CLI = [sys.executable, "-m", "toolgym.cli"]
PLAY = ["rollout", "ToolQA-PopQA-v0", "--policy", "lookup", "--episodes", "2", "--out"]


def run(*words: str, cwd: Path, before: Callable[[], None] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [*CLI, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        preexec_fn=before,
        check=False,
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_first_moment_is_one_line(number: int, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef wait(messages, tools):\n    time.sleep(20)\n    return 'Answer: 1'\n"
    )
    words = [*PLAY, "run"]
    words[words.index("lookup")] = "slow:wait"
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"}
    started = subprocess.Popen(
        [*CLI, *words], stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    time.sleep(1.5)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 128 + number
    lines = [line for line in said.strip().splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "Traceback" not in said


def test_tools_without_docstrings_are_told_of(tmp_path: Path) -> None:
    code = (
        "import gymnasium, toolgym\nenv = gymnasium.make('ToolQA-GSM8K-v0')\nenv.reset(seed=1)\n"
        "print(env.step('Action: Calculator[1+1]')[0])"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "2" in done.stdout


@pytest.mark.parametrize("name", ["a file", "a/file/below", "/dev/null", "/proc/x", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "a").write_text("")
    code, said = run(*PLAY, name, cwd=tmp_path)
    assert code == 3
    assert said.count("\n") == 0
    assert "bug" not in said


SETTINGS = {
    "no text": b"\xff\xfe",
    "a key twice": b"rounds: 1\nrounds: 2\n",
    "a key twice within": b"sampling: {top_p: 1, top_p: 0.5}\n",
    "an endless alias": b"environments: &a [*a]\n",
    "two documents": b"---\nrounds: 1\n---\nrounds: 2\n",
    "a typing error": b"mdoel: x\n",
    "a list": b"- 1\n",
    "a tag": b"model: !!python/name:os.system\n",
    "a count in words": b"rounds: two\n",
    "no finite number": b"sampling: {temperature: .nan}\n",
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_cannot_be_meant_are_named_in_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes(SETTINGS[kind])
    code, said = run("selftrain", "settings.yaml", cwd=tmp_path)
    assert code == 3
    assert said.startswith("error: settings file 'settings.yaml'")
    assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["rolout", "x"], "rollout"),
        ([*PLAY, "run", "--fromat", "tags"], "--format"),
        (["scenarios", "chek", "x"], "check"),
        (["filter", "run", "--where", "accurcy>0", "--out", "x"], "accuracy"),
    ],
)
def test_a_typing_error_gets_the_near_name(words: list[str], near: str, tmp_path: Path) -> None:
    if words[0] == "filter":
        run(*PLAY, "run", cwd=tmp_path)
    code, said = run(*words, cwd=tmp_path)
    assert code in (2, 3)
    assert near in said

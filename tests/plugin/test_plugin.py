"""A package of other people: installed, found, listed, played, measured and planned with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent
NAMES = {
    "environment": "Planets-v0",
    "tool": "Moons",
    "format": "hushed",
    "reward": "short",
    "policy": "astronomer",
    "tasks": "giants",
    "corpus": "orbits",
    "author": "planetary",
    "preset": "stargazing",
    "model": "orrery",
    "maker": "conjunctions",
    "command": "planets",
    "viewer": "planet",
    "server": "probe",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, as from a copy of its repository."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PACKAGE, work / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(work / "site"), str(work / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return work / "site"


def run(installed: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which finds the package."""
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def fine(installed: Path, *arguments: str) -> str:
    done = run(installed, "-m", "toolgym.cli", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def refused(installed: Path, *arguments: str) -> str:
    done = run(installed, "-m", "toolgym.cli", *arguments)
    assert done.returncode in (2, 3), done.stderr[-2000:]
    (line,) = done.stderr.strip().splitlines()
    return line


def test_every_kind_of_name_is_listed_with_what_it_is(installed: Path) -> None:
    listed = json.loads(fine(installed, "envs", "--json"))
    assert set(NAMES) | {"prompt"} == set(listed), "a new kind of name is tried here, too"
    for kind, name in NAMES.items():
        assert listed[kind][name], f"{kind} {name!r} says in a line what it is"
    text = fine(installed, "envs")
    for kind, name in NAMES.items():
        assert any(name in line and listed[kind][name] in line for line in text.splitlines())


def test_its_server_has_tools(installed: Path) -> None:
    said = fine(installed, "tool", "probe:Mars", "--call", "look", "true")
    assert "Phobos" in said


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["Planet-v0"], "Planets-v0"),
        (["toolgym_planets:Planet-v0"], "Planets-v0"),
        (["Planets-v0", "--format", "hush"], "hushed"),
        (["Planets-v0", "--tool", "Moon"], "Moons"),
        (["Planets-v0", "--reward", "shorts"], "short"),
        (["Planets-v0", "--tasks", "giant"], "giants"),
        (["ToolQA-PopQA-v0", "--corpus", "orbit"], "orbits"),
        (["Planets-v0", "--policy", "astronomr"], "astronomer"),
    ],
)
def test_near_names_know_plug_ins(
    installed: Path, tmp_path: Path, arguments: list[str], near: str
) -> None:
    policy = [] if "--policy" in arguments else ["--policy", "astronomer"]
    line = refused(installed, "rollout", *arguments, *policy, "--out", str(tmp_path / "run"))
    assert f"{near!r}" in line
    assert "did you mean" in line


def test_its_environment_is_played_resumed_measured_and_shown(
    installed: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    command = ["rollout", "Planets-v0", "--policy", "astronomer", "--out", out, "--json"]
    for _ in range(2):  # the second time there is nothing left to play
        facts = json.loads(fine(installed, *command))
        assert (facts["finished"], facts["mean_reward"]) == (4, 1.0)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recorded["env"] == {"id": "Planets-v0", "args": {}}
    assert recorded["task_family"] == "Planets"
    assert "accuracy" in fine(installed, "eval", out)
    other = ["--format", "hushed", "--tasks", "giants", "--reward", "accuracy"]
    facts = json.loads(
        fine(installed, *command[:4], *other, "--out", str(tmp_path / "giants"), "--json")
    )
    assert (facts["finished"], facts["mean_reward"]) == (2, 1.0)
    (rows,) = installed.glob("toolgym_planets/giants.jsonl")
    assert "Saturn: Which is the largest moon" in fine(installed, "view", str(rows))
    assert "Saturn" in fine(installed, "planets", "list")


IN_PYTHON = """
import warnings
import gymnasium as gym
import toolgym
from toolgym.checks import check_env, check_format, check_reward, check_tool
from toolgym.tools.toolset import make_toolset

envs = gym.make_vec("Planets-v0", num_envs=2, tools=["Moons", "WikipediaSearch"], corpus="orbits")
envs.reset(seed=1)
action = "Thought: I look it up.\\nAction: WikipediaSearch[Neptune]\\nRationale:\\nAnswer:"
seen, *_ = envs.step((action, action))
assert all("165 years" in text for text in seen), seen
check_env(gym.make("Planets-v0").unwrapped)
check_env(gym.make("Planets-v0", format="hushed").unwrapped)
check_tool(make_toolset(["Moons"])["Moons"], {"planet": "Mars"})
check_reward("short")
check_format("hushed")
made = gym.make("toolgym_planets:Planets-v0", tasks="giants")
_, info = made.reset(seed=1, options={"task": "saturn"})
print(info["messages"][-1]["content"])
"""


def test_it_passes_the_checks_and_plays_in_vectors(installed: Path) -> None:
    done = run(installed, "-c", IN_PYTHON)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "moon of Saturn" in done.stdout


def test_self_training_plans_with_it(installed: Path, tmp_path: Path) -> None:
    plan = json.loads(fine(installed, "selftrain", "--preset", "stargazing", "--dry-run", "--json"))
    (place,) = plan["places"]
    assert place["id"] == "Planets-v0"
    assert place["practise"] == {"tasks": 4, "source": "sample"}
    assert place["evaluate"] == {"tasks": 2, "source": "giants"}
    file = tmp_path / "job.json"
    settings = {"model": "some/model", "environments": [{"id": "Planet-v0"}], "rounds": 1}
    file.write_text(json.dumps(settings))
    line = refused(installed, "selftrain", str(file), "--dry-run")
    assert "did you mean 'Planets-v0'" in line


def test_without_the_package_its_names_are_gone() -> None:
    code = (
        "import json, toolgym; from toolgym.registry import KINDS; "
        "print(json.dumps({kind.kind: list(kind) for kind in KINDS}))"
    )
    command = [sys.executable, "-c", code]
    here = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert not [name for kind, name in NAMES.items() if name in here[kind]]

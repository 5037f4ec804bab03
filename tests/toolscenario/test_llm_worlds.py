"""Worlds by a model: one reply, what the proof finds as feedback, and a build."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from scripted_model import Model, says
from typer.testing import CliRunner

from toolgym._util.jsonl import read_rows, write_rows
from toolgym.cli import app
from toolgym.envs.toolscenario.compiler.checking import check_file
from toolgym.envs.toolscenario.files import open_scenarios

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")

TEXT = {"type": "string"}
FIND = """def find(state, name):
    rows = state['lamps'].items()
    return [{'id': key} for key, row in rows if row['name'] == name]
"""
PRESS = """def press(state, lamp_id):
    if lamp_id not in state['lamps']:
        raise ValueError('there is no such lamp')
    state['lamps'][lamp_id]['on'] = 1
    return {'done': True}
"""


def tool(name: str, source: str, parameter: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {parameter: TEXT}, "required": [parameter]}
    said = {"description": f"The tool {name}.", "parameters": parameters}
    return {"name": name, "source": source, **said}


def reply(question: str = "Switch the red lamp on.") -> dict[str, Any]:
    lamp = {"$from": "s1", "path": [0, "id"]}
    names = ("red", "blue", "green", "white")
    return {
        "plan": "two lamps would do",
        "question": question,
        "domain": "lamps",
        "state": {"lamps": {f"L-{n}7": {"name": c, "on": 0} for n, c in enumerate(names, 3)}},
        "tools": [tool("find", FIND, "name"), tool("press", PRESS, "lamp_id")],
        "goal": [{"table": "lamps", "where": {"id": "L-37", "on": 1}}],
        "steps": [
            {"id": "s1", "tool": "find", "arguments": {"name": "red"}},
            {"id": "s2", "tool": "press", "arguments": {"lamp_id": lamp}},
        ],
    }


def build(model: Model, tmp_path: Path, *replies: Any) -> tuple[Any, Path]:
    waiting = [says(item) for item in replies]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(handler)

    model.always = answer
    wishes, out = tmp_path / "wishes.jsonl", tmp_path / "worlds.jsonl"
    write_rows(wishes, [{"id": "lamps", "question": "Somebody switches lamps.", "split": "train"}])
    command = ["scenarios", "build", "--author", "endpoint", "--kind", "stateful", "--json"]
    command += ["--base-url", model.url, "--model", "scripted", "--questions", str(wishes)]
    result = CliRunner().invoke(app, [*command, "--out", str(out), "--count", "1"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), out


def test_a_world_is_written_proved_and_kept(model: Model, tmp_path: Path) -> None:
    report, out = build(model, tmp_path, reply())
    assert report["scenarios"] == 1
    assert report["shapes"] == {"lamps": 1}
    assert report["author"]["requests"] == 1
    (row,) = [row for _, row in read_rows(out)]
    assert row["author"] == "endpoint:scripted"
    assert row["split"] == "train"
    assert row["proof"]["writes"] == 1
    assert [finding.reason for finding in check_file(out)] == [""]
    assert open_scenarios(out)["lamps"].world is not None
    asked = model.bodies[0]["messages"][0]["content"]
    assert "Somebody switches lamps." in asked


def test_what_the_proof_finds_goes_back_to_the_model(model: Model, tmp_path: Path) -> None:
    leaked = reply("Switch the red lamp L-37 on.")
    report, _ = build(model, tmp_path, {**reply(), "steps": []}, leaked, reply())
    assert report["scenarios"] == 1
    told = [body["messages"][-1]["content"] for body in model.bodies]
    assert "cannot be used" in told[1]
    assert "leaked_id" in told[2]
    assert report["author"]["retries"] == 2


def test_a_model_that_does_not_mend_it_is_rejected_with_the_reason(
    model: Model, tmp_path: Path
) -> None:
    report, _ = build(model, tmp_path, reply("Switch the red lamp L-37 on."))
    assert report["scenarios"] == 0
    assert report["rejected"] == {"verification/leaked_id": 1}
    other = tmp_path / "other"
    other.mkdir()
    report, _ = build(model, other, "I would rather not.")
    assert next(iter(report["rejected"])).startswith("deployment/")

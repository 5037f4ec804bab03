"""``toolgym scenarios`` and ``toolgym view``: what is printed, and bad input as one clear line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolgym._util.jsonl import read_rows, write_rows
from toolgym.cli import app
from toolgym.envs.toolscenario.compiler.pipeline import build_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")

COUNT = 8  # two of each shape


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def fine(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("built") / "made.jsonl"
    arguments = ("--author", "offline", "--count", str(COUNT), "--seed", "5", "--json")
    return out, json.loads(fine("scenarios", "build", *arguments, "--out", str(out)))


def test_build_reports_what_it_made(built: tuple[Path, dict[str, Any]]) -> None:
    out, report = built
    assert report["scenarios"] == COUNT == len(rows(out))
    assert sum(report["shapes"].values()) == COUNT
    assert set(report["levels"]) == set(rows(out)[0]["levels"])
    assert report["tried"] - report["scenarios"] == sum(report["rejected"].values())
    assert report["seconds"] > 0


def test_build_again_makes_nothing_new_and_prints_a_table(
    built: tuple[Path, dict[str, Any]],
) -> None:
    out, _ = built
    before = out.read_bytes()
    text = fine(
        *("scenarios", "build", "--author", "offline", "--count", str(COUNT)),
        *("--seed", "5", "--out", str(out), "--workers", "2"),
    )
    assert "none new" in text
    assert "shape parallel multi-hop" in text
    assert "level of toolset extension" in text
    assert out.read_bytes() == before


def test_check_says_that_all_hold(built: tuple[Path, dict[str, Any]]) -> None:
    assert fine("scenarios", "check", str(built[0])) == f"all {COUNT} scenarios hold\n"


def test_check_names_each_failure_on_a_line(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    bad = rows(built[0])[:4]
    bad[0]["sub_questions"][0]["answer"] += " and more"
    bad[1]["question"] += f" Is it {bad[1]['sub_questions'][0]['answer']}?"
    bad[3] = {**bad[2], "id": "copy"}
    name = next(iter(bad[2]["functions"]))
    path = tmp_path / "bad.jsonl"
    write_rows(path, bad)
    result = run("scenarios", "check", str(path))
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["line 1", "line 2", "line 4"]
    assert "answer_in_question" in lines[1]
    assert "duplicate: it asks the same as" in lines[2]
    assert "error: 3 of 4 scenarios in" in result.stderr
    bad[2]["functions"][name] = f"import os\ndef {name}():\n    os.system('true')"
    write_rows(path, bad[2:3])
    report = run("scenarios", "check", str(path), "--json")
    assert report.exit_code == 3
    assert json.loads(report.stdout)["failures"][0]["reason"] == "bad_function"


def test_convert_there_and_back(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    there, back = tmp_path / "public.jsonl", tmp_path / "ours.jsonl"
    fine("scenarios", "convert", str(built[0]), "--to", "public", "--out", str(there))
    row = rows(there)[0]
    assert {"messages", "tools", "codes", "unsolved_set", "answer", "solve_rate"} < set(row)
    assert isinstance(json.loads(row["tools"])[0]["function"]["parameters"], dict)
    assert fine("scenarios", "check", str(there)).startswith(f"all {COUNT} scenarios hold")
    fine("scenarios", "convert", str(there), "--to", "ours", "--out", str(back))
    assert back.read_bytes() == built[0].read_bytes()
    foreign = {key: value for key, value in row.items() if key != "toolgym"}
    write_rows(there, [foreign])
    assert "1 hold no reference calls" in fine("scenarios", "check", str(there))
    result = run("scenarios", "convert", str(there), "--to", "ours", "--out", str(back))
    assert result.exit_code == 3
    assert "neither sub-questions nor reference calls" in result.stderr


def test_a_row_that_was_changed_beside_our_record_fails(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "public.jsonl"
    fine("scenarios", "convert", str(built[0]), "--to", "public", "--out", str(path))
    row = rows(path)[0]
    write_rows(path, [row | {"answer": "something else"}])
    result = run("scenarios", "check", str(path))
    assert result.exit_code == 3
    assert "record_differs" in result.stdout


def test_view_shows_graph_tools_and_calls(built: tuple[Path, dict[str, Any]]) -> None:
    made = next(row for row in rows(built[0]) if row["shape"] == "multi-hop")
    text = fine("view", str(built[0]), "--id", made["id"])
    assert made["question"] in text
    assert "q2  <- q1" in text
    for document in made["documents"]:
        assert f"{document['name']}(" in text
    for item in made["sub_questions"]:
        assert f"  == {item['answer']}" in text
    for call in made["calls"]:
        assert f"  -> {call['tool']}(" in text
    shown = json.loads(fine("view", str(built[0]), "-n", "1", "--json"))
    assert shown[0] == rows(built[0])[0]


def test_view_shows_stages_and_rejections(
    built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = build_folder(built[0])
    assert "--- sub-questions" in fine("view", str(folder / "decomposition.jsonl"), "-n", "1")
    record = rows(folder / "scaling.jsonl")[0]
    why = {"stage": "deployment", "reason": "bad_function", "message": "it\x1b[31m is bad"}
    write_rows(tmp_path / "rejected.jsonl", [{"id": "x", **why, "record": record}])
    text = fine("view", str(tmp_path / "rejected.jsonl"))
    assert "rejected in deployment: bad_function" in text
    assert record["question"] in text
    assert "\x1b" not in text
    public = tmp_path / "public.jsonl"
    fine("scenarios", "convert", str(built[0]), "--to", "public", "--out", str(public))
    assert "--- sub-questions" in fine("view", str(public), "-n", "1")
    write_rows(public, [{k: v for k, v in rows(public)[0].items() if k != "toolgym"}])
    assert "the format names no sub-questions" in fine("view", str(public))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("build --author ofline --out o.jsonl", 2, "did you mean 'offline'"),
        ("build --author offline --out o.jsonl --model x", 3, "has no option 'model'"),
        ("build --author offline --out o.jsonl --option sede=1", 3, "did you mean 'seed'"),
        ("build --author offline --out o.jsonl --knowledge no.jsonl", 3, "does not exist"),
        ("build --author offline --out o.jsonl --count 0", 3, "count must be a whole number"),
        ("build --author offline --out o.jsonl --level 4", 2, "numbers from 0 to 3"),
        ("build --author offline --out o.jsonl --levels 1,2", 2, "numbers from 0 to 3"),
        ("build --author offline --out o.jsonl --level 1 --levels 1,2,3,0", 2, "not both"),
        ("build --author offline --out o.jsonl --from-stage scal", 3, "did you mean 'scaling'"),
        ("build --author offline --out folder", 3, "is a folder"),
        ("build --author offline --out kept.jsonl", 3, "exists, and no build of it"),
        ("build --out o.jsonl", 2, "Missing option '--author'"),
        ("check kep.jsonl", 3, "did you mean 'kept.jsonl'"),
        ("check empty.jsonl", 3, "is empty"),
        ("check kept.jsonl", 3, "line 1: it is not a scenario"),
        ("check broken.jsonl", 3, "line 1: not valid JSON"),
        ("check folder", 3, "is a folder"),
        ("convert kept.jsonl --to ours --out o.jsonl", 3, "line 1: it is not a scenario"),
        ("convert kept.jsonl --to ours --out kept.jsonl", 2, "is the file that is read"),
        ("convert kept.jsonl --to theirs --out o.jsonl", 2, "'theirs' is not one of"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: str, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text("{'a': 1}\n")
    (tmp_path / "kept.jsonl").write_text('{"question": "6*7?", "answers": ["42"]}\n')
    result = run("scenarios", *arguments.split())
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o.jsonl").exists()


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "made.jsonl"
    command = [sys.executable, "-m", "toolgym.cli", "scenarios", "build", "--author", "offline"]
    command += ["--count", "500", "--out", str(out), "--workers", "2"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    finished = build_folder(out) / "verification.jsonl"
    end = time.monotonic() + 60
    while not (finished.is_file() and finished.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert said.decode().count("\n") == 1
    count = len(rows(finished))
    assert count
    report = json.loads(
        fine(
            *("scenarios", "build", "--author", "offline", "--count", str(count)),
            *("--out", str(out), "--json"),
        )
    )
    assert (report["scenarios"], report["made"]) == (count, 0)

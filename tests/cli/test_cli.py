"""The command line on real runs: happy paths, and bad input as one clear line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolgym import cli
from toolgym.cli import app, options, shell
from toolgym.registry import COMMANDS

POLICIES = """
import time

calls = 0


def guess(messages, tools):
    return "Thought: a guess.\\nAnswer: politician"


def huge(messages, tools):
    return "Answer: " + "x" * 2_000_000


def nul(messages, tools):
    return "Answer: a\\x00b"


def broken(messages, tools):
    raise RuntimeError("no luck\\nat all")


def sometimes(messages, tools):
    global calls
    calls += 1
    if calls % 5 == 0:
        raise ConnectionError("gone")
    return "Answer: a"


def slow(messages, tools):
    time.sleep(0.1)
    return "Answer: a"
"""

TASKS = """{"id": "a", "question": "6 times 7?", "answers": ["42"], "split": "test"}
{"id": "b", "question": "2 plus 2?", "answers": ["4"], "split": "train"}
"""


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with policies, in which all commands of this file are typed."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "cli_policies.py").write_text(POLICIES)
    (folder / "tasks.jsonl").write_text(TASKS)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def toolgym(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def fine(*arguments: str) -> str:
    result = toolgym(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(code: int, *arguments: str) -> str:
    """The one error line of a command that must fail with this code."""
    result = toolgym(*arguments)
    assert result.exit_code == code, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def roll(policy: str, out: str, *more: str) -> list[str]:
    return ["rollout", "ToolQA-PopQA-v0", "--policy", policy, "--out", out, *more]


@pytest.fixture(scope="module")
def run(place: Path) -> str:
    """A run of the baseline, two samples of each of thirty tasks."""
    few = ("--episodes", "60", "--samples-per-task", "2")
    fine(*roll("lookup", "runs/lookup", *few))
    return "runs/lookup"


def test_envs_lists_every_kind_of_name() -> None:
    text = fine("envs")
    for name in ("ToolQA-NQOpen-v0", "Calculator", "hermes", "no_tool_cot", "token_f1", "lookup"):
        assert name in text
    assert "ToolQA-PopQA-v0" in json.loads(fine("envs", "--json"))["environment"]


def test_commands_of_a_broken_plug_in_leave_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    COMMANDS.add("out-of-order", "no.such.module:app")
    try:
        made = cli._app.__wrapped__()
    finally:
        del COMMANDS._entries["out-of-order"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the commands 'out-of-order' of a plug-in cannot be loaded")
    groups = {group.name for group in made.registered_groups}
    assert groups == {"index", "export", "train", "model", "serve", "new", *COMMANDS}


def test_help_and_version() -> None:
    assert "rollout" in fine("--help")
    assert fine() == fine("--help")
    assert fine("--version").startswith("toolgym ")
    assert "--samples-per-task" in fine("rollout", "--help")


def test_tool_prints_what_a_policy_would_read() -> None:
    assert fine("tool", "Calculator", "2*(3+4)") == "14\n"
    assert fine("tool", "Calculator", "--arg", "expression=12*12") == "144\n"
    found = fine("tool", "WikipediaSearch", "--corpus", "sample", "--k", "3", "Marie Antoinette")
    assert [line[:3] for line in found.splitlines()] == ["1. ", "2. ", "3. "]
    told = json.loads(fine("tool", "Calculator", "--schema"))
    assert told["function"]["name"] == "Calculator"
    assert json.loads(fine("tool", "Calculator", "6*7", "--json"))["content"] == "42"


def test_a_tool_is_recorded_and_replayed_without_being_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calculate = ("tool", "Calculator", "2*(3+4)", "--cassette", "tapes/one.jsonl")
    assert fine(*calculate, "--record") == "14\n"
    monkeypatch.setattr("toolgym.tools.base.Tool.answer", lambda *_: pytest.fail("it was called"))
    assert fine(*calculate, "--replay") == "14\n"
    other = ("tool", "Calculator", "2*5", "--cassette", "tapes/one.jsonl", "--replay")
    assert "has no answer to Calculator" in refused(3, *other)
    search = ("tool", "WikipediaSearch", "x", "--cassette", "tapes/one.jsonl", "--replay")
    assert "was begun with options" in refused(3, *search)


def test_a_tool_meets_the_faults_of_its_seed() -> None:
    call = ("tool", "Calculator", "6*7", "--fault")
    assert "injected_timeout" in refused(3, *call, "timeout=1")
    empty = json.loads(fine(*call, "empty=1", "--json"))
    assert (empty["content"], empty["error"], empty["fault"]) == ("", None, "empty")
    half = (*call, "tool_error=0.5", "--json", "--fault")
    codes = {toolgym(*half, f"seed={seed}").exit_code for seed in range(12)}
    assert codes == {0, 3}
    assert {toolgym(*half, "seed=3").exit_code for _ in range(3)} != codes
    met = json.loads(toolgym(*half, "seed=0").stdout)
    assert met["fault"] in ("tool_error", None)


def test_service_options_of_a_tool_that_make_no_sense_are_refused() -> None:
    assert "a mode" in refused(3, "tool", "Calculator", "1", "--cassette", "c.jsonl")
    assert "path of a cassette" in refused(3, "tool", "Calculator", "1", "--replay")
    assert "did you mean 'timeout'" in refused(3, "tool", "Calculator", "1", "--fault", "timout=1")
    schema = toolgym("tool", "Calculator", "--schema", "--fault", "timeout=1")
    assert schema.exit_code == 2
    assert "calls nothing" in schema.stderr


def test_rollout_writes_a_run_and_goes_on_with_it() -> None:
    file = Path("runs/longer/trajectories.jsonl")
    assert "10/10" in fine(*roll("lookup", "runs/longer", "--episodes", "10"))
    rows = file.read_text().splitlines()
    assert len(rows) == 10
    more = fine(*roll("lookup", "runs/longer", "--episodes", "14", "--json"))
    assert json.loads(more)["finished"] == 14
    assert file.read_text().splitlines()[:10] == rows


def test_rollout_passes_every_option_on() -> None:
    Path("script.jsonl").write_text(
        '{"question": "6 times 7?", "replies": ["<calculator>6*7</calculator>", '
        '"<answer>42</answer>"]}\n'
    )
    out = fine(
        *("rollout", "ToolQA-GSM8K-v0", "--tasks", "tasks.jsonl", "--split", "test"),
        *("--tool", "Calculator", "--format", "tags", "--prompt", "tools_single_step"),
        *("--reward", "accuracy=2", "--reward", "execution_precision=0.5", "--max-steps", "3"),
        *("--env-arg", "max_result_chars=50", "--policy", "scripted"),
        *("--policy-arg", "replies=script.jsonl", "--seed", "4", "--out", "runs/options", "--json"),
    )
    assert json.loads(out)["mean_reward"] == 2.5
    settings = json.loads(Path("runs/options/run.json").read_text())
    assert settings["env"]["args"] == {
        "max_result_chars": 50,
        "tasks": "tasks.jsonl",
        "split": "test",
        "format": "tags",
        "prompt": "tools_single_step",
        "max_steps": 3,
        "tools": ["Calculator"],
        "reward": {"accuracy": 2.0, "execution_precision": 0.5},
    }
    assert settings["seed"] == 4


def test_a_tool_option_may_carry_options() -> None:
    out = fine(
        *roll("lookup", "runs/k", "--episodes", "2", "--tool", '{"name": "WikipediaSearch","k": 2}')
    )
    assert "2/2" in out


def test_eval_prints_figures_and_a_comparison(run: str) -> None:
    text = fine("eval", run)
    assert "WARNING: the bundled sample" in text
    assert "exact_match" in text
    fine(*roll("cli_policies:guess", "runs/guess", "--episodes", "30"))
    figures = json.loads(fine("eval", run, "--against", "runs/guess", "--json"))
    assert {"rows", "change", "task_source"} <= set(figures)
    assert "Against runs/guess" in fine("eval", run, "--against", "runs/guess")


def test_view_shows_episodes_as_a_person_reads_them(run: str) -> None:
    text = fine("view", run, "-n", "2")
    assert text.count("=== ") == 2
    assert "-> WikipediaSearch(" in text
    (row,) = json.loads(fine("view", run, "-n", "1", "--json"))
    assert fine("view", run, "--episode", row["id"]).startswith(f"=== {row['id']}")
    assert fine("view", f"{run}/trajectories.jsonl", "-n", "1").startswith("=== ")


def test_conditions_choose_what_is_viewed_and_exported(run: str) -> None:
    where = "exact_match>=1 and copied_passage==0 and answer_words<=5"
    shown = json.loads(fine("view", run, "--where", where, "-n", "99", "--json"))
    assert shown
    assert all(row["reward"] == 1 for row in shown)
    made = json.loads(
        fine("export", "sft", run, "--where", where, "--out", "rows/some.jsonl", "--json")
    )
    assert made["rows"] == len(shown)
    assert set(made["dropped"]) <= {f"not {where}"}
    assert "with 'steps>=99'" in refused(3, "view", run, "--where", "steps>=99")
    none = refused(3, "export", "prefixes", run, "--where", "steps>=99", "--out", "rows/no.jsonl")
    assert "episodes is 'steps>=99'" in none
    near = refused(2, "view", run, "--where", "answer_word<=5")
    assert "did you mean 'answer_words'" in near


def test_view_writes_a_page_of_what_was_asked_for(run: str) -> None:
    text = fine("view", run, "--html", "pages/all.html")
    assert "items  60" in text
    assert Path("pages/all.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    some = ("--where", "accuracy>=1", "-n", "5", "--html", "pages/some.html", "--json")
    made = json.loads(fine("view", run, *some))
    assert made == {
        "file": "pages/some.html",
        "items": 5,
        "bytes": Path("pages/some.html").stat().st_size,
    }
    (row,) = json.loads(fine("view", run, "-n", "1", "--json"))
    one = ("--id", row["task"]["id"], "--html", "pages/one.html", "--json")
    assert json.loads(fine("view", run, *one))["items"] == 2
    assert "holds no episode" in refused(3, "view", run, "--where", "steps>=99", "--html", "n.html")
    assert not Path("n.html").exists()
    assert "goes with --html" in refused(2, "view", run, "--tokenizer", "any")


def test_view_puts_two_runs_side_by_side(run: str) -> None:
    fine(*roll("cli_policies:guess", "runs/guessed", "--episodes", "30"))
    text = fine("view", run, "--against", "runs/guessed", "-n", "2")
    figures = json.loads(fine("eval", run, "--against", "runs/guessed", "--json"))["change"]
    shown = json.loads(fine("view", run, "--against", "runs/guessed", "-n", "99", "--json"))
    assert shown["test"] == figures
    changes = [task["change"] for task in shown["tasks"]]
    assert len(changes) == 30
    assert [abs(change) for change in changes] == sorted(map(abs, changes), reverse=True)
    assert any(changes)
    assert all(len(task["before"]) == 1 and len(task["after"]) == 2 for task in shown["tasks"])
    assert text.count("##### ") == 2
    assert text.count("(before) === ") == 2
    assert text.count("(after) === ") == 4
    right = ("--where", "accuracy>=1", "-n", "99", "--json")
    some = json.loads(fine("view", run, "--against", "runs/guessed", *right))
    assert 0 < len(some["tasks"]) < 30
    page = ("--against", "runs/guessed", "--html", "pages/two.html", "--json")
    assert json.loads(fine("view", run, *page))["items"] == 90
    assert "accuracy>=9" in refused(3, "view", run, "--against", run, "--where", "accuracy>=9")


@pytest.mark.parametrize("name", ["kept", "kept.jsonl", "kept.jsonl.zst"])
def test_view_reads_whatever_filter_wrote(run: str, name: str) -> None:
    fine("filter", run, "--out", f"kept-{name}/{name}")
    kept = json.loads(fine("view", f"kept-{name}/{name}", "-n", "99", "--json"))
    assert kept
    assert all(row["reward"] == 1 for row in kept)
    some = fine("view", f"kept-{name}/{name}", "--where", "calls>=1", "-n", "1")
    assert some.startswith("=== ")


def test_view_shows_training_rows(run: str) -> None:
    fine("export", "sft", run, "--out", "rows/seen")
    text = fine("view", "rows/seen", "-n", "1")
    assert text.startswith("=== popqa")
    assert "+ assistant: " in text
    assert "+ user" not in text
    assert json.loads(fine("view", "rows/seen", "--html", "rows.html", "--json"))["items"] == 60
    assert "for episodes" in refused(3, "view", "rows/seen", "--where", "calls>=1")
    assert "for episodes" in refused(3, "view", "rows/seen", "--against", run)
    assert "leave out" in refused(2, "view", "rows/seen", "-n", "1", "--html", "rows.html")


def test_view_never_drives_the_terminal() -> None:
    fine(*roll("cli_policies:nul", "runs/nul", "--episodes", "1"))
    text = fine("view", "runs/nul")
    assert "\x00" not in text
    assert "a\ufffdb" in text


def test_score_tries_rewards_on_the_recording(run: str) -> None:
    Path("cli_rewards.py").write_text(
        "def one(task, trajectory):\n    return [1.0] + [0.0] * (len(trajectory.steps) - 1)\n"
    )
    out = fine(
        *("score", run, "--reward", "exact_match", "--reward", "cli_rewards:one"),
        *("--rubric", "mixed:accuracy=1,token_f1=0.5", "--json"),
    )
    rows = {row["rubric"]: row["mean"] for row in json.loads(out)["rows"]}
    assert set(rows) == {"exact_match", "cli_rewards:one", "mixed"}
    assert rows["cli_rewards:one"] == 1.0
    assert "cli_rewards:one" in fine("score", run, "--reward", "cli_rewards:one")


def test_filter_and_export_make_rows(run: str) -> None:
    kept = json.loads(fine("filter", run, "--tools", "only", "--out", "runs/right", "--json"))
    assert kept["kept"] + sum(kept["dropped"].values()) == kept["total"]
    made = json.loads(fine("export", "sft", "runs/right", "--out", "rows/sft.jsonl", "--json"))
    rows = [json.loads(line) for line in Path("rows/sft.jsonl").read_text().splitlines()]
    assert made["rows"] == len(rows) == kept["kept"]
    assert rows[0]["messages"][-1]["role"] == "assistant"
    assert Path("rows/sft.md").is_file()
    assert "rows" in fine("export", "sft", run, "--out", "rows/all.jsonl")


def test_examples_are_shown_and_learned_without() -> None:
    fine(*roll("lookup", "shown", "--examples", "2", "--episodes", "4"))
    assert "examples: 2 worked ones" in fine("view", "shown", "-n", "1")
    fine("export", "sft", "shown", "-o", "kept.jsonl")
    made = fine("export", "sft", "shown", "-o", "plain.jsonl", "--learn-as", "examples=0")
    assert "re-rendered from examples=2 to examples=0 (4 of 4 rows)" in made
    kept, plain = (json.loads(Path(f"{n}.jsonl").read_text().splitlines()[0])
                   for n in ("kept", "plain"))  # fmt: skip
    assert kept["prompt"][-1] == plain["messages"][1]
    for count, says in (("-1", "at least 0"), ("99", "11 bundled"), ("no.jsonl", "no.jsonl")):
        assert says in refused(3, *roll("lookup", "bad", "--examples", count))
    assert "did you mean 'examples'" in refused(
        3, "export", "sft", "shown", "--learn-as", "example=0"
    )


def test_export_dpo_says_what_is_missing(run: str) -> None:
    assert "no pair can be made" in refused(3, "export", "dpo", run, "--out", "rows/dpo.jsonl")


def test_export_dpo_pairs_a_run_with_tools_and_one_without(run: str) -> None:
    fine(*roll("lookup", "runs/plain", "--prompt", "no_tool", "--episodes", "20"))
    out = fine("export", "dpo", run, "runs/plain", "--out", "rows/pairs.jsonl", "--json")
    rows = [json.loads(line) for line in Path("rows/pairs.jsonl").read_text().splitlines()]
    assert json.loads(out)["rows"] == len(rows) > 0
    assert all("Action: " in row["chosen"][0]["content"] for row in rows)
    assert all("Action: " not in row["rejected"][0]["content"] for row in rows)


def test_report_is_one_page(run: str) -> None:
    text = fine("report", run, "--examples", "1")
    assert text.startswith("# ToolQA-PopQA-v0")
    assert "## Episodes" in text
    fine("report", run, "--out", "page/report.md")
    assert Path("page/report.md").read_text().startswith("# ToolQA-PopQA-v0")
    assert json.loads(fine("report", run, "--json"))["run"]["env"]["id"] == "ToolQA-PopQA-v0"


def test_index_build_and_search_in_it() -> None:
    Path("passages.jsonl").write_text(
        '{"id": "1", "title": "Lamp", "text": "A lamp gives light."}\n'
        '{"id": "2", "title": "Chair", "text": "One sits on a chair."}\n'
    )
    built = json.loads(fine("index", "build", "passages.jsonl", "idx", "--json"))
    assert built["passages"] == 2
    assert "light" in fine("tool", "WikipediaSearch", "--corpus", "idx", "lamp")
    assert "passages" in fine("index", "build", "passages.jsonl", "idx")


def test_selftrain_shows_its_settings() -> None:
    chosen = json.loads(fine("selftrain", "--show-settings", "--rounds", "1", "--seed", "5"))
    assert (chosen["model"], chosen["rounds"], chosen["seed"]) == ("miniature", 1, 5)
    paper = json.loads(fine("selftrain", "--model", "some/llama", "--show-settings"))
    assert paper["model"] == "some/llama"
    assert paper["environments"]
    (searched,) = {environment["args"].get("corpus") for environment in paper["environments"]}
    assert searched is None
    searching = ("selftrain", "--model", "some/llama", "--corpus", "idx", "--show-settings")
    assert json.loads(fine(*searching))["environments"][0]["args"]["corpus"] == "idx"
    assert "makes its model and its corpus itself" in refused(3, "selftrain", "--corpus", "idx")
    Path("settings.json").write_text(json.dumps(chosen | {"samples_per_task": 3}))
    told = json.loads(fine("selftrain", "settings.json", "--rounds", "2", "--show-settings"))
    assert (told["rounds"], told["samples_per_task"], told["seed"]) == (2, 3, 5)


TINY = {
    "rounds": 1,
    "samples_per_task": 2,
    "filter": {"where": "reward>=0"},
    "train": {"max_updates": 2, "batch_size": 4, "max_length": 512},
    "sampling": {"max_new_tokens": 8},
    "build": {"train": 10, "test": 10, "base": {"tiny": True}},
}


@pytest.mark.slow
def test_selftrain_train_and_report_on_a_tiny_model() -> None:
    Path("tiny.json").write_text(json.dumps(TINY))
    command = ("selftrain", "tiny.json", "--out", "runs/tiny")
    first = toolgym(*command)
    assert first.exit_code == 0, first.output
    assert "before and after" in first.stdout.lower()
    # A stage that takes long says so again.
    stages = list(dict.fromkeys(line.partition(": ")[0] for line in first.stderr.splitlines()))
    assert stages[:4] == ["base", "evaluation-0", "no-tools", "round-1/practice"]
    assert re.search(r"^evaluation-1: \d+ of \d+ right \(\d", first.stderr, re.M)
    again = toolgym(*command, "--json")  # everything is done: only the report is made
    data = json.loads(again.stdout)
    assert data == json.loads(fine("report", "runs/tiny", "--json"))
    page = fine("report", "runs/tiny")
    assert page.startswith("# Self-training report")
    assert page.strip() == Path("runs/tiny/report.md").read_text().strip()
    assert "seed" in refused(3, *command, "--seed", "9")
    (model,) = Path("runs/tiny/base").glob("miniature-*")
    rows = "runs/tiny/round-1/selection/rows.jsonl"
    limits = ("--max-updates", "1", "--batch-size", "4", "--max-length", "512")
    out = ("--model", str(model), "--out", "trained", "--json")
    trained = json.loads(fine("train", "sft", rows, *limits, *out))
    assert trained["steps"] == 1
    assert (Path("trained") / "config.json").is_file()


def test_train_says_what_is_missing() -> None:
    missing = ("--model", "nowhere", "--out", "trained-not")
    assert "nowhere" in refused(3, "train", "sft", "nowhere.jsonl", *missing)
    assert "--model" in refused(2, "train", "sft", "rows.jsonl")


# Bad input: each one clear line and the documented exit code.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rolout",), "'rollout'"),
        (("export", "sdt"), "'sft'"),
        (("rollout", "ToolQA-PopQA-v0"), "--policy"),
        (("rollout", "ToolQA-PopQA-v0", "--polcy", "x"), "--policy"),
        (("filter", "x", "--out", "y", "--tools", "none"), "only"),
        (("rollout", "ToolQA-PopQ-v0", "--policy", "lookup", "--out", "r"), "ToolQA-PopQA-v0"),
        (roll("lokup", "r"), "'lookup'"),
        (roll("lookup", "r", "--tool", "Calculater"), "'Calculator'"),
        (roll("lookup", "r", "--format", "raect"), "'react'"),
        (roll("lookup", "r", "--prompt", "no_tools"), "'no_tool'"),
        (roll("lookup", "r", "--reward", "acuracy"), "'accuracy'"),
        (roll("lookup", "r", "--reward", "accuracy=much"), "NAME=WEIGHT"),
        (roll("lookup", "r", "--env-arg", "split"), "KEY=VALUE"),
        (roll("lookup", "r", "--tool", '{"k": 3}'), "name"),
        (("tool", "Calculator"), "--arg"),
        (("tool", "Calclator", "1"), "'Calculator'"),
    ],
)
def test_usage_and_unknown_names_end_with_2(arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(2, *arguments)
    assert not Path("r").exists(), "nothing is begun for a command that cannot run"


def test_score_and_filter_name_near_rewards(run: str) -> None:
    assert "'exact_match'" in refused(2, "score", run, "--reward", "exact_mach")
    assert "'accuracy'" in refused(2, "filter", run, "--where", "acuracy>=1", "--out", "x")
    assert "--reward" in refused(2, "score", run)
    assert "NAME:reward=weight" in refused(2, "score", run, "--rubric", "accuracy")


def test_broken_files_end_with_3_and_name_the_line(run: str) -> None:
    Path("broken.jsonl").write_text('{"question": "a?", "answers": ["b"]}\n\n{"question": \n')
    Path("empty.jsonl").write_text("\n")
    line = refused(3, *roll("lookup", "r", "--tasks", "broken.jsonl"))
    assert "line 3" in line
    assert "no tasks" in refused(3, *roll("lookup", "r", "--tasks", "empty.jsonl"))
    assert "tasks.jsonl" in refused(3, *roll("lookup", "r", "--tasks", "taks.jsonl"))
    assert "does not exist" in refused(3, *roll("lookup", "r", "--corpus", "nowhere"))
    line = refused(3, *roll("lookup", "r", "--tasks", "tasks.jsonl", "--split", "dev"))
    assert "splits there: test, train" in line
    assert "does not exist" in refused(3, "eval", "runs/lokup")
    assert "holds no run.json" in refused(3, "eval", ".")
    assert "line 1" in refused(3, "view", "broken.jsonl")
    assert "did you mean" in refused(3, "view", run, "--episode", "popqa-sampl-001#0")
    assert "does not exist" in refused(3, "index", "build", "nowhere.jsonl", "i")
    assert "does not exist" in refused(3, "selftrain", "nowhere.yaml")
    assert "none of 60 episodes" in refused(3, "filter", run, "--where", "accuracy>5", "-o", "x")


def test_bad_numbers_are_one_line() -> None:
    assert "from 1 to" in refused(3, *roll("lookup", "r", "--episodes", "100000"))
    assert "max_steps" in refused(3, *roll("lookup", "r", "--max-steps", "0"))
    assert "samples_per_task" in refused(3, *roll("lookup", "r", "--samples-per-task", "0"))
    assert "concurrency is a whole number" in refused(3, *roll("lookup", "r", "--concurrency", "0"))
    assert "maxsteps" in refused(3, *roll("lookup", "r", "--env-arg", "maxsteps=3"))
    assert "its arguments" in refused(3, *roll("scripted", "r"))


def test_a_failing_tool_call_ends_with_3() -> None:
    result = toolgym("tool", "Calculator", "2*(3+")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "failed to calculate" in result.stderr


def test_a_run_with_other_settings_is_left_alone(run: str) -> None:
    before = (Path(run) / "trajectories.jsonl").read_bytes()
    line = refused(3, *roll("lookup", run, "--episodes", "60", "--seed", "1"))
    assert "was begun with" in line
    assert "another folder" in line
    assert (Path(run) / "trajectories.jsonl").read_bytes() == before


def test_a_huge_reply_is_recorded_and_read_in_part() -> None:
    out = json.loads(fine(*roll("cli_policies:huge", "runs/huge", "--episodes", "1", "--json")))
    assert out["finished"] == 1
    (line,) = Path("runs/huge/trajectories.jsonl").read_text().splitlines()
    step = json.loads(line)["steps"][0]
    assert len(step["action"]) == 2_000_008
    assert step["problems"][0]["kind"] == "too_long"
    assert len(fine("view", "runs/huge")) < 250_000


def test_a_policy_that_raises_ends_with_5_and_is_never_scored() -> None:
    result = toolgym(*roll("cli_policies:broken", "runs/broken", "--episodes", "3"))
    assert result.exit_code == 5
    assert result.stderr.startswith("warning: 3 of 3 episodes failed (RuntimeError 3)")
    assert "no luck at all" in result.stderr
    assert result.stderr.count("\n") == 1
    assert Path("runs/broken/trajectories.jsonl").read_text() == ""
    assert refused(3, "eval", "runs/broken").startswith("error: no finished episode")


def test_failed_episodes_are_counted_by_kind_and_retried() -> None:
    some = roll("cli_policies:sometimes", "runs/some", "--episodes", "10", "--concurrency", "1")
    result = toolgym(*some, "--json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["failures"] == {"ConnectionError": 2}
    assert "ConnectionError 2" in result.stderr
    assert json.loads(fine(*some, "--json"))["finished"] == 10


def test_too_many_failures_in_a_row_stop_the_run() -> None:
    line = refused(5, *roll("cli_policies:broken", "runs/stopped"))
    assert "in a row failed" in line
    assert "run the same again" in line


def test_a_policy_that_cannot_be_found() -> None:
    assert "no module" in refused(3, *roll("nowhere:policy", "r"))
    assert "no callable" in refused(3, *roll("cli_policies:nobody", "r"))


def test_a_bug_is_one_line_that_says_how_to_see_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr(options, "named_weights", explode)
    line = refused(1, *roll("lookup", "r", "--reward", "accuracy"))
    assert "ZeroDivisionError: of our own" in line
    assert f"{shell.TRACEBACK}=1" in line
    monkeypatch.setenv(shell.TRACEBACK, "1")
    result = toolgym(*roll("lookup", "r", "--reward", "accuracy"))
    assert "Traceback" in result.stderr


# What only a process of its own can show.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "toolgym.cli", *arguments]


def test_a_closed_pipe_is_silent(run: str) -> None:
    line = f"{' '.join(command('view', run, '-n', '60', '--width', '5000'))} | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("=== ")
    assert done.stderr == ""


def test_json_stays_clean_and_progress_quiet_without_a_terminal(run: str) -> None:
    done = subprocess.run(
        command("eval", run, "--json"), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["episodes"] == 60
    assert done.stderr == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_rollout_tells_turns_and_tokens_while_it_goes_on(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shell, "QUIET", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with shell.playing_bar("rollout X") as (episodes, pulse):
        pulse(1, 0)
        pulse(2, 2000)  # before any episode has ended
        episodes(1, 3)
    said = capsys.readouterr().err
    assert "2 turns, 2,000 tokens (" in said
    assert "1/3" in said
    if not terminal:
        assert said.splitlines()[1] == "rollout X: 0, 1 turn"


def test_without_a_terminal_a_line_comes_twice_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(shell.time, "monotonic", lambda: now[0])
    with shell.stage_bars() as tell:
        for second in range(1, 100):
            now[0] = float(second)
            tell("practice", second, 200, "some note")
        tell("practice", 1, 1, "90 of 200 right")
    lines = capsys.readouterr().err.splitlines()
    counted = [f"practice: {second}/200, some note" for second in (30, 60, 90)]
    assert lines == [*counted, "practice: 90 of 200 right"]


def finished(folder: str) -> int:
    file = Path(folder) / "trajectories.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def test_ctrl_c_keeps_finished_episodes_and_says_how_to_go_on() -> None:
    arguments = roll("cli_policies:slow", "runs/slow", "--episodes", "40", "--concurrency", "2")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while finished("runs/slow") < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    kept = finished("runs/slow")
    assert 4 <= kept < 40
    assert errors == (
        f"error: stopped: {kept} finished episodes are kept in 'runs/slow'; "
        "run the same command again to go on\n"
    )
    assert json.loads(fine(*arguments, "--json"))["finished"] == 40
    rows = Path("runs/slow/trajectories.jsonl").read_text().splitlines()
    assert len({json.loads(row)["id"] for row in rows}) == len(rows) == 40


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_stopped_while_it_is_imported_says_one_line(number: int, code: int) -> None:
    program = (
        "import os, sys; sys.orig_argv = ['python', '-m', 'toolgym.cli']\n"
        f"import builtins; real = builtins.__import__; number = {int(number)}\n"
        "def slow(name, *rest):\n"
        "    if name == 'numpy': os.kill(os.getpid(), number)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = slow\n"
        "from toolgym.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "error: stopped; run the same command again\n"
    assert done.returncode == code


def test_sigterm_keeps_finished_episodes_and_says_how_to_go_on() -> None:
    arguments = roll("cli_policies:slow", "runs/ended", "--episodes", "40", "--concurrency", "2")
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while finished("runs/ended") < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors == (
        f"error: stopped: {finished('runs/ended')} finished episodes are kept in 'runs/ended'; "
        "run the same command again to go on\n"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), MemoryError(), BlockingIOError(11, "again")]
)
def test_what_the_system_does_not_give_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("toolgym.rollouts.engine.rollout", scarce)
    result = toolgym(*roll("lookup", "runs/scarce"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the system gives no more threads")
    assert result.stderr.count("\n") == 1
    assert "--concurrency" in result.stderr

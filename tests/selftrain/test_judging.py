"""Whether a round was a gain: the verdict on evaluations written by hand, and its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgym
from toolgym.errors import BadInputError, RunMismatchError, UnknownNameError
from toolgym.evaluation.intervals import mcnemar
from toolgym.messages import ToolCall, ToolResult
from toolgym.rollouts.runs import Run
from toolgym.rollouts.writing import RunWriter
from toolgym.selftrain import preflight
from toolgym.selftrain.environments import used
from toolgym.selftrain.judging import WAYS, Change, Evaluations, check_judge, fell
from toolgym.selftrain.report import write_report
from toolgym.selftrain.settings import EnvironmentSettings, SelfTrainSettings, load_settings
from toolgym.selftrain.stages import Work
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

PASSAGE = "Ann Smith was an English painter who belonged to the Bloomsbury Group of artists."
ENV = {"id": "ToolQA-PopQA-v0", "name": "facts"}


def write(folder: Path, answers: Sequence[str], metadata: dict[str, Any] | None = None) -> None:
    """A recorded evaluation: every answer after one search that found the passage."""
    settings = {
        "env": {"id": ENV["id"], "args": {"split": "test"}},
        "task_source": "sample",
        "task_family": "PopQA",
        "episodes": len(answers),
        "samples_per_task": 1,
        "hashes": {"tasks": "ab" * 32, "tools": "cd" * 32},
    }
    writer = RunWriter(Run(settings, folder))
    for number, answer in enumerate(answers):
        task = Task(f"t{number:03}", f"Occupation {number}?", ("painter",), metadata or {})
        call = ToolCall("c0", "WikipediaSearch", {"query": "Ann Smith"})
        writer.add(
            Trajectory(
                task,
                steps=[
                    Step("look", (call,), (ToolResult("c0", PASSAGE),)),
                    Step(answer, answer=answer),
                ],
                env_id=ENV["id"],
                terminated=True,
            )
        )
    writer.close()


def made(out: Path, *evaluations: Sequence[str], **changes: Any) -> Work:
    """A run of self-training whose evaluations gave these answers."""
    settings = load_settings(
        {"model": "some/model", "environments": [ENV], "rounds": len(evaluations) - 1, **changes}
    )
    for number, answers in enumerate(evaluations):
        for way in WAYS:
            write(out / f"evaluation-{number}" / f"facts-{way}", answers)
    return Work(settings, list(settings.environments), out)


# As measured with a real model: EM rose from 8 to 32 %, while pasted passages fell away.
BEFORE = ["painter"] * 8 + [PASSAGE] * 45 + ["a poet"] * 47
AFTER = ["painter"] * 32 + [PASSAGE] * 5 + ["a poet"] * 63


def test_a_round_that_answers_instead_of_pasting_is_a_gain(tmp_path: Path) -> None:
    work = made(tmp_path, BEFORE, AFTER)
    found = Evaluations(work, 1)
    assert found.judge() == "exact_match"
    change = found.change(0, 1)
    assert (change.gained, change.lost, change.verdict) == (24, 0, "better")
    assert change.p == mcnemar(0, 24)
    assert found.change(0, 1, metric="accuracy_paper").verdict == "worse"
    assert not fell(work, 1)
    assert fell(made(tmp_path, BEFORE, AFTER, judge_by="accuracy_paper"), 1)


def report(work: Work, rounds: int) -> tuple[str, dict[str, Any]]:
    counts = {"facts": {"episodes": 100, "right": 10, "task_source": "sample", "failures": 0}}
    history = [dict.fromkeys(WAYS, counts)] * (rounds + 1)
    trained = {"steps": 3, "loss": 0.5, "warnings": []}
    done = [{"method": "sft", "training": trained} for _ in range(rounds)]
    text = write_report(work, history, done).read_text(encoding="utf-8")
    return text, json.loads((work.out / "report.json").read_text(encoding="utf-8"))


def test_the_report_says_at_once_whether_it_got_better(tmp_path: Path) -> None:
    text, facts = report(made(tmp_path, BEFORE, AFTER), 1)
    first, beside = text.split("\n\n")[1:3]
    assert first.startswith("Verdict: better. By exact_match on 100 held-out questions")
    assert "24 questions got better and 0 worse (exact McNemar test: p = 1.2e-07)" in first
    assert "accuracy_paper -16.0 points, which says worse" in beside
    assert "answers that copy a passage 45.0 % to 5.0 %" in beside
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "8.0 % [4.1, 15.0] | 32.0 %" in rows["| exact_match (judges)"]
    assert "45.0 % [35.6, 54.8] | 5.0 %" in rows["| copied_passage"]
    for name in ("accuracy_paper", "invoke_rate", "malformed_rate", "answer_words_median"):
        assert f"| {name}" in rows
    assert facts["judged_by"] == {"facts": "exact_match"}
    assert facts["change"]["verdict"] == "better"
    assert facts["figures"][0]["facts"]["sampled"]["copied_passage"][0] == 0.45
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("Verdict: better") == 1


def test_several_rounds_are_corrected_for_their_number(tmp_path: Path) -> None:
    middle = ["painter"] * 15 + BEFORE[15:]
    text, facts = report(made(tmp_path, BEFORE, middle, AFTER), 2)
    section = text.partition("## Rounds against each other")[2]
    assert "| 1 against 0 | 7 | 0 | +7.0 [+2.0, +12.0] | 0.016 | 0.016 |" in section
    assert "| 2 against 1 | 17 | 0 | +17.0" in section
    assert "1.5e-05 | 3.1e-05 |" in section
    assert "the model after 2 rounds against the base" in text
    assert [change["gained"] for change in facts["changes"]] == [7, 17]


def test_a_run_that_was_ended_says_by_what(tmp_path: Path) -> None:
    work = made(tmp_path, AFTER, ["a poet"] * 100)
    assert fell(work, 1)
    work.settings = work.settings.model_copy(update={"rounds": 3})
    text, _ = report(work, 1)
    assert "Verdict: worse." in text
    assert "ended after round 1 of 3: by exact_match the held-out answers had become worse" in text


def test_no_difference_is_not_called_equal(tmp_path: Path) -> None:
    text, _ = report(made(tmp_path, BEFORE, [*BEFORE[:-2], "painter", "painter"]), 1)
    assert "Verdict: no difference shown." in text
    assert "does not say that there is none" in text


def test_an_evaluation_without_training_has_no_verdict(tmp_path: Path) -> None:
    text, facts = report(made(tmp_path, BEFORE), 0)
    assert "Nothing was trained. exact_match on 100 held-out questions, sampled: 8.0 %" in text
    assert "Verdict" not in text
    assert "change" not in facts


def test_scores_between_0_and_1_are_tested_by_their_signs(tmp_path: Path) -> None:
    better = ["a painter of birds"] * 47 + BEFORE[47:]
    found = Evaluations(made(tmp_path, BEFORE, better, judge_by="token_f1"), 1)
    change = found.change(0, 1)
    assert change.test == "exact sign test"
    assert change.p == mcnemar(change.lost, change.gained)


def test_scenarios_are_judged_by_what_their_calls_solve(tmp_path: Path) -> None:
    parts = {"sub_answers": [{"id": "q0", "tool": "WikipediaSearch", "answer": PASSAGE}]}
    for way in WAYS:
        write(tmp_path / "evaluation-0" / f"facts-{way}", ["painter"] * 3, parts)
    work = Work(load_settings({"model": "m/m", "environments": [ENV]}), [], tmp_path)
    work.environments = list(work.settings.environments)
    assert Evaluations(work).judge() == "Solve-F1"
    assert set(Evaluations(work).of(0, "facts").scores.values()) == {1.0}


def test_a_judge_that_does_not_fit_is_refused_before_the_rounds(tmp_path: Path) -> None:
    work = made(tmp_path, BEFORE, judge_by="Solve-F1")
    with pytest.raises(BadInputError, match=r"needs tasks with sub-answers.*'exact_match' judges"):
        Evaluations(work).judge()
    with pytest.raises(UnknownNameError, match="did you mean 'exact_match'"):
        check_judge("exact_matches")
    for name in (None, "token_f1", "accuracy_paper", "Solve-F1", "task_completion"):
        check_judge(name)


_SCORES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


@given(_SCORES)
def test_a_verdict_turns_round_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    there = Change([b - a for a, b in pairs], False, 0)
    back = Change([a - b for a, b in pairs], False, 0)
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.p == back.p
    other = {"better": "worse", "worse": "better"}
    assert back.verdict == other.get(there.verdict, there.verdict)
    assert there.gained + there.lost <= len(pairs)
    if there.verdict != "no difference shown":
        assert there.p < 0.05


def test_a_filter_may_be_one_a_round() -> None:
    base = {"model": "some/model", "environments": [ENV]}
    two = [{"where": "accuracy_paper>=1"}, {"where": "exact_match>=1 and copied_passage==0"}]
    settings = load_settings({**base, "filter": two})
    wheres = [settings.filters(number).where for number in (1, 2, 3)]
    assert wheres == [two[0]["where"], two[1]["where"], two[1]["where"]]
    assert SelfTrainSettings.model_validate(settings.model_dump(mode="json")) == settings
    one = load_settings({**base, "filter": two[0]})
    assert {one.filters(number).where for number in (1, 9)} == {two[0]["where"]}
    with pytest.raises(BadInputError, match=r"unknown key 'filter.1.wher' \(did you mean 'where'"):
        load_settings({**base, "filter": [{}, {"wher": "x"}]})
    with pytest.raises(BadInputError, match=r"filter.1.tools must be one of any, only"):
        load_settings({**base, "filter": [{}, {"tools": "none"}]})
    with pytest.raises(BadInputError, match="'filter' is an empty list"):
        load_settings({**base, "filter": []})


def test_a_filter_may_change_until_its_round_has_chosen(tmp_path: Path) -> None:
    first, second = {"where": "accuracy>=1"}, {"where": "exact_match>=1"}
    base = {"model": "some/model", "environments": [ENV], "rounds": 2, "judge_by": "accuracy"}
    preflight.remember(load_settings({**base, "filter": first}), tmp_path)
    (tmp_path / "round-1" / "selection").mkdir(parents=True)
    (tmp_path / "round-1" / "selection" / "done.json").write_text("{}", encoding="utf-8")
    later = load_settings({**base, "filter": [first, second], "judge_by": None})
    preflight.remember(later, tmp_path)
    with pytest.raises(RunMismatchError, match="begun with filter"):
        preflight.remember(load_settings({**base, "filter": [second, second]}), tmp_path)


def test_sources_are_those_that_the_runs_recorded(tmp_path: Path) -> None:
    args = {"split": "test"}
    run = toolgym.rollout(
        ENV["id"], "lookup", env_args=args, episodes=4, samples_per_task=2, out=tmp_path / "run"
    )
    environment = EnvironmentSettings(id=ENV["id"], args={"corpus": "sample"})
    (recorded,) = used(environment, "test", [tmp_path / "run"])
    assert (recorded.source, recorded.tasks, recorded.corpus) == ("sample", 2, "sample")
    assert recorded.tasks_hash == run.settings["hashes"]["tasks"]
    assert recorded.corpus_hash == run.settings["hashes"]["WikipediaSearch"]
    (opened,) = used(environment, "test", [])
    assert opened.passages == recorded.passages
    assert recorded.passages is not None
    assert (opened.tasks, opened.tasks_hash) == (None, recorded.tasks_hash)
    bare = EnvironmentSettings(id=ENV["id"], train={"prompt": "no_tool"})
    assert used(bare, "train", [])[0].corpus == ""


def test_a_corpus_that_is_gone_or_another_has_no_size(tmp_path: Path) -> None:
    corpus = tmp_path / "passages.jsonl"
    corpus.write_text('{"title": "A", "text": "Ann is a painter."}\n', encoding="utf-8")
    environment = EnvironmentSettings(id=ENV["id"], args={"corpus": str(corpus)})
    folder = tmp_path / "run"
    toolgym.rollout(ENV["id"], "lookup", env_args=environment.args, episodes=1, out=folder)
    assert used(environment, "test", [folder])[0].passages == 1
    corpus.write_text('{"title": "B", "text": "Bob is a poet."}\n', encoding="utf-8")
    assert used(environment, "test", [folder])[0].passages is None
    corpus.unlink()
    assert used(environment, "test", [folder])[0].passages is None

"""Self-training end to end on a tiny model with real environments; its settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from toolgym._util.jsonl import read_rows
from toolgym._util.workfolder import hold
from toolgym.data.conditions import condition
from toolgym.errors import BadInputError, MissingFileError, RunMismatchError
from toolgym.evaluation.document import Heading, Paragraph, Quote, Table, to_html, to_markdown
from toolgym.grading.rubric import Rubric
from toolgym.registry import REWARDS
from toolgym.rollouts.runs import Run
from toolgym.selftrain.environments import learning
from toolgym.selftrain.report import Accuracy
from toolgym.selftrain.settings import SelfTrainSettings, load_settings, own_model, preset
from toolgym.task import AnswerType, Task
from toolgym.trajectory import Step, Trajectory


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seconds: an untrained model, four questions, everything kept."""
    pytest.importorskip("trl")
    from toolgym._util.optional import quiet
    from toolgym.miniature.model import BaseSettings
    from toolgym.miniature.preset import build_base
    from toolgym.miniature.world import World

    folder = tmp_path_factory.mktemp("selftrain")
    with quiet():
        model = build_base(folder, settings=BaseSettings.tiny())
    World(0).write(folder / "world", train=20, test=10)
    environments = [
        {**e.model_dump(), "train_tasks": 3, "test_tasks": 2}
        for e in own_model("miniature").environments(folder / "world")
        if e.label in ("arithmetic", "entities")
    ]
    settings = {
        "model": str(model),
        "environments": environments,
        "rounds": 2,
        "samples_per_task": 2,
        "sampling": {"max_new_tokens": 16, "concurrency": 2},
        "filter": {"where": None},
        "train": {"epochs": 2, "batch_size": 2, "learning_rate": 1e-3, "save_every": 2},
    }
    file = folder / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return file


def results(out: Path) -> dict[str, Any]:
    """All figures, without what names the folder."""
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    for done in found["rounds"]:
        for counts in done.get("selection", {}).values():
            counts.pop("origin", None)
    return {key: found[key] for key in ("settings", "evaluations", "rounds", "intervals_overlap")}


def replies(out: Path, run: str) -> list[tuple[str, list[str]]]:
    text = (out / run / "trajectories.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return sorted((row["id"], [step["action"] for step in row["steps"]]) for row in rows)


@pytest.fixture(scope="module")
def whole(settings_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toolgym.selftrain.loop import selftrain

    out = tmp_path_factory.mktemp("whole") / "run"
    seen: list[str] = []
    report = selftrain(settings_file, out=out, progress=lambda name, *_: seen.append(name))
    assert report == out.resolve() / "report.md"
    assert {"evaluation-0", "round-1/practice", "round-2/training", "evaluation-2"} <= set(seen)
    return out


def test_two_rounds_leave_a_report_and_everything_they_made(whole: Path) -> None:
    text = (whole / "report.md").read_text(encoding="utf-8")
    for part in ("Before and after", "Rounds", "What was filtered", "Three episodes", "versions"):
        assert f"## {part}" in text or part == "versions"
    for part in ("Verdict: no difference shown", "| answer_words_median", "| copied_passage"):
        assert part in text
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<h2>") == text.count("\n## ")
    sources = text.partition("## Tasks and corpora, as they were used")[2]
    for part in ("arithmetic, practice", "arithmetic, evaluation", "entities, practice"):
        assert f"| {part} | the file `" in sources
    found = results(whole)
    assert [set(e) for e in found["evaluations"]] == [{"sampled", "greedy"}] * 3
    assert found["evaluations"][0]["sampled"]["all"]["n"] == 4
    for done in found["rounds"]:
        for name, counts in done["selection"].items():
            assert counts["kept"] + sum(counts["dropped"].values()) == counts["total"] == 6, name
        assert done["training"]["counts"]["token_exact"] >= 1
    assert (whole / "round-2" / "training" / "model" / "model.safetensors").is_file()


def test_both_evaluations_ask_the_same_questions(whole: Path) -> None:
    for environment in ("arithmetic", "entities"):
        asked = {
            tuple(name for name, _ in replies(whole, f"evaluation-{n}/{environment}-sampled"))
            for n in (0, 1, 2)
        }
        assert len(asked) == 1
    practised = [{i for i, _ in replies(whole, f"round-{n}/practice/entities")} for n in (1, 2)]
    assert all(len(ids) == 6 for ids in practised)


def test_every_round_may_learn_by_another_method(
    settings_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolgym.selftrain.loop import selftrain

    def first_sample(task: Any, trajectory: Any) -> list[float]:
        return [float(trajectory.sample == 0)] + [0.0] * (len(trajectory.steps) - 1)

    monkeypatch.setitem(REWARDS._entries, "first_sample", first_sample)
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    shared = {"batch_size": 4, "learning_rate": 1e-3, "save_every": 1, "max_updates": 2}
    settings |= {
        "methods": ["grpo", "dpo"],
        "begin_with": "base",
        "stop_when_worse": False,
        # An untrained model has nothing right: let the first of two replies be the better one.
        "filter": [{"where": None}, {"where": "first_sample>=1 and answer_words<=50"}],
        "dpo": {**shared, "pairing": "right_wrong", "beta": 0.1},
        "grpo": {**shared, "generations": 2, "record_episodes": True, "max_length": 400},
    }
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    selftrain(file, out=tmp_path / "run")
    first, second = results(tmp_path / "run")["rounds"]
    assert first["method"] == "grpo"
    assert first["training"]["counts"] == {"episodes": 8}
    assert len(list((tmp_path / "run/round-1/training/model/episodes").iterdir())) == 2
    assert second["method"] == "dpo"
    assert second["selection"]["entities"]["kept"] >= 1
    facts = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    drawn = {(s["environment"], s["part"]): s["tasks"] for s in facts["sources"]}
    assert drawn["entities", "practice"] == 3
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "played while it trained" in text
    for heading in ("Rounds against each other", "Practice", "When a tool was worth it"):
        assert f"## {heading}" in text
    assert "No held-out question was practised." in text


def test_practice_with_examples_is_learned_without_them(
    settings_file: Path, tmp_path: Path
) -> None:
    from toolgym.selftrain.loop import selftrain

    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    (entities,) = [e for e in settings["environments"] if e["name"] == "entities"]
    entities["train"] = [entities["train"] | {"examples": 1}, entities["train"]]
    settings |= {"environments": [entities], "samples_per_task": 1, "baseline": False}
    out = tmp_path / "run"
    selftrain(settings, out=out)
    run = Run.open(out / "round-1/practice/entities")
    shown = {trajectory.id: trajectory for trajectory in run.trajectories()}
    assert {trajectory.examples for trajectory in shown.values()} == {1}
    played = Run.open(out / "evaluation-1/entities-greedy").trajectories()
    assert {trajectory.examples for trajectory in played} == {0}
    rows = [row for _, row in read_rows(out / "round-1/selection/rows.jsonl")]
    assert len(rows) >= 1
    for row in rows:
        assert row["learn_as"] == "re-rendered from examples=1 to examples=0"
        said = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        assert said == [step.action for step in shown[row["id"]].steps]
    (done, later) = results(out)["rounds"]
    assert done["training"]["counts"] == {"re-rendered": len(rows)}
    plain = Run.open(out / "round-2/practice/entities").trajectories()
    assert {trajectory.examples for trajectory in plain} == {0}
    assert later["training"]["counts"].get("re-rendered", 0) == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "| learned from entities in round 1 | re-rendered with examples=0 |" in report
    assert "| practised in entities from round 2 on | " in report
    assert "learned from entities from" not in report


def test_what_is_learned_is_the_evaluations_prompt_unless_the_settings_say_it() -> None:
    def anew(**given: Any) -> str:
        learn_as = {"learn_as": given.pop("learn_as")} if "learn_as" in given else {}
        settings = SelfTrainSettings(
            model="some/model", environments=[{"id": "ToolQA-PopQA-v0", **given}], **learn_as
        )
        return str(learning(settings, settings.environments[0], 2))

    assert anew() == "None"
    assert anew(args={"examples": 2, "prompt": "bare"}) == "None"
    assert anew(train={"examples": 2}) == "examples=0"
    assert anew(train={"examples": 2}, learn_as={}) == "None"
    assert anew(train=[{"examples": 2}, {}]) == "None"
    assert anew(train=[{}, {"examples": 2}]) == "examples=0"
    assert anew(train={"prompt": "bare"}) == "prompt=tools_multi_step"
    assert anew(train={"examples": [], "prompt": "bare"}, test={"prompt": "bare"}) == "examples=0"
    assert anew(train={}, learn_as={"prompt": "bare"}) == "prompt=bare"
    with pytest.raises(BadInputError, match=r"examples=3 and is evaluated with 2"):
        anew(train={"examples": 3}, test={"examples": 2})
    for prompt in ({"prompt": "bear"}, {"examples": 1}):
        with pytest.raises((ValueError, LookupError)):
            anew(learn_as=prompt)


def test_practice_is_guided_and_evaluation_is_not(settings_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    from toolgym.selftrain.loop import selftrain

    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    settings |= {"rounds": 1, "baseline": False, "environments": settings["environments"][:1]}
    narrow = {"answer_words": 5}
    sampling = {**settings["sampling"], "guided": True, "max_new_tokens": 200, "narrow": narrow}
    selftrain({**settings, "sampling": sampling}, out=tmp_path / "run")
    guided = {
        str(file.parent.relative_to(tmp_path / "run")): "guided"
        in (policy := json.loads(file.read_text())["policy"])
        and policy["narrow"] == narrow
        for file in (tmp_path / "run").rglob("run.json")
    }
    assert guided.pop("round-1/practice/arithmetic")
    assert guided
    assert not any(guided.values())
    rows = (tmp_path / "run/round-1/practice/arithmetic/trajectories.jsonl").read_text()
    steps = [step for line in rows.splitlines() for step in json.loads(line)["steps"]]
    assert steps
    assert not any(step.get("problems") for step in steps if not step.get("cut"))
    report = (tmp_path / "run/report.md").read_text(encoding="utf-8")
    assert "guided by the format" in report
    assert "answer_words=5" in report


@pytest.mark.parametrize(
    ("sampling", "steps", "match"),
    [
        ({"narrow": {"quoted": True}}, 3, "set sampling.guided"),
        ({"guided": True, "narrow": {"quoted": True}}, 1, "max_steps=1"),
        ({"guided": True, "narrow": {"call_first": True}}, 1, "max_steps=1"),
        ({"guided": True, "narrow": {"quotes": True}}, 3, "did you mean 'quoted'"),
    ],
)
def test_what_narrows_nothing_is_refused(
    settings_file: Path, sampling: dict[str, Any], steps: int, match: str
) -> None:
    from toolgym.selftrain.preflight import check

    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    for environment in settings["environments"]:
        environment["args"] = {**environment.get("args", {}), "max_steps": steps}
    settings["sampling"] = {**settings["sampling"], **sampling}
    with pytest.raises(BadInputError, match=match):
        check(load_settings(settings))


@pytest.mark.parametrize(
    ("said", "meant"), [(True, "practice"), (False, "never"), ("always", "always")]
)
def test_guided_is_read_from_what_yaml_makes_of_it(said: Any, meant: str) -> None:
    assert load_settings({"sampling": {"guided": said}}).sampling.guided == meant


def test_a_finished_run_takes_more_rounds(whole: Path, settings_file: Path, tmp_path: Path) -> None:
    from toolgym.selftrain.loop import selftrain

    longer = tmp_path / "longer"
    shutil.copytree(whole, longer)
    settings = json.loads(settings_file.read_text(encoding="utf-8")) | {"rounds": 3}
    stages_run: list[str] = []
    selftrain(settings, out=longer, progress=lambda name, *rest: stages_run.append(name))
    assert not any(name.startswith("round-1: ") for name in stages_run)
    assert len(results(longer)["rounds"]) == 3
    assert results(longer)["rounds"][:2] == results(whole)["rounds"]


def test_a_finished_run_is_read_and_other_settings_are_refused(
    whole: Path, settings_file: Path
) -> None:
    from toolgym.selftrain.loop import selftrain

    before = results(whole)
    selftrain(settings_file, out=whole)
    assert results(whole) == before
    other = json.loads(settings_file.read_text(encoding="utf-8")) | {"rounds": 1}
    with pytest.raises(RunMismatchError, match="begun with rounds = 2, now it is 1"):
        selftrain(other, out=whole)
    with hold(whole, "self-training"), pytest.raises(RunMismatchError, match="another process"):
        selftrain(settings_file, out=whole)


def test_nothing_right_is_one_clear_line(settings_file: Path, tmp_path: Path) -> None:
    from toolgym.selftrain.loop import selftrain

    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    settings |= {"filter": {"where": "accuracy>=2"}, "samples_per_task": 1}
    with pytest.raises(BadInputError, match=r"nothing to train on: arithmetic: none of 3 episodes"):
        selftrain(settings, out=tmp_path / "run")
    with pytest.raises(MissingFileError, match=r"model .* does not exist"):
        selftrain(settings | {"model": str(tmp_path / "nothing")}, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round": 2}, r"unknown key 'round' \(did you mean 'rounds'\?\)"),
        ({"train": {"epoch": 2}}, r"unknown key 'train.epoch' \(did you mean 'epochs'\?\)"),
        ({"environments": [{"id": "a", "tests": {}}]}, "environments.0.tests.*did you mean 'test'"),
        ({"rounds": -1}, "rounds must be at least 0, not -1"),
        ({"filter": {"tools": "none"}}, "filter.tools must be one of any, only, not 'none'"),
        ({"environments": [{"id": "a"}, {"id": "a"}]}, "two environments are named 'a'"),
        ({"environments": [{"id": "a", "name": "x/y"}]}, "cannot be the name of a folder"),
        ({"environments": [{"id": "a", "train": None}]}, "no environment to practise in"),
        ({"model": "some/model"}, "no environment to practise in"),
        ({"learn_as": {"example": 0}}, r"learn_as.example' \(did you mean 'examples'\?\)"),
        ({"learn_as": {"examples": 2}}, "learn_as.examples must be"),
        ({"learn_as": {"examples": 0}, "methods": ["grpo"]}, "GRPO plays live"),
    ],
)
def test_wrong_settings_are_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        load_settings(change)


def test_settings_are_read_from_yaml_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rounds: 5\ntrain:\n  lora: 16\n", encoding="utf-8")
    read = load_settings(tmp_path / "a.yaml")
    assert (read.rounds, read.train.lora) == (5, 16)
    (tmp_path / "a.json").write_text(read.model_dump_json(), encoding="utf-8")
    assert load_settings(tmp_path / "a.json") == read
    (tmp_path / "bad.yaml").write_text("rounds: [", encoding="utf-8")
    with pytest.raises(BadInputError, match="not valid YAML"):
        load_settings(tmp_path / "bad.yaml")
    with pytest.raises(MissingFileError, match=r"did you mean .*'a\.yaml'"):
        load_settings(tmp_path / "b.yaml")


def test_the_papers_job_practises_on_two_sets_and_is_evaluated_on_four() -> None:
    settings = preset("paper").settings("some/model")
    assert [e.id for e in settings.environments if e.train] == [
        "ToolQA-TriviaQA-v0",
        "ToolQA-GSM8K-v0",
    ]
    assert len([e for e in settings.environments if e.test]) == 4
    assert (settings.sampling.temperature, settings.sampling.top_p) == (0.6, 0.9)
    assert SelfTrainSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "paper", "ours"),
    [
        ("text", "Paris", "Paris, Rome or Oslo", True, False),
        ("text", "art", "a party", True, False),
        ("text", "Paris", "Rome", False, False),
        ("number", "990", "It is 990.00", False, True),  # compared raw, as published
        ("number", "7", "5 or 6 or 7", True, False),
        ("number", "7", "7", True, True),
    ],
)
def test_the_papers_job_filters_by_the_papers_rule(
    kind: AnswerType, gold: str, answer: str, paper: bool, ours: bool
) -> None:
    task = Task("t", "q?", (gold,), answer_type=kind)
    record = Trajectory(task, steps=[Step("hm"), Step(answer, answer=answer)])
    for name, right in (("paper", paper), ("miniature", ours)):
        where = preset(name).settings("some/model" if name == "paper" else None).filter.where
        assert where is not None
        assert condition(where)(record) is right
    options = {"preset": "paper", "numbers": "paper_filter", "weight": 1.0}
    rubric = Rubric({"accuracy": options})
    assert rubric.parts(task, record)["accuracy"][-1] == float(paper)


def test_intervals_decide_whether_before_and_after_are_told_apart() -> None:
    # Wilson's interval for 50 of 100, as textbooks give it: 40.4 to 59.6 %.
    assert str(Accuracy(50, 100)) == "50.0 % [40.4, 59.6]"
    assert Accuracy(50, 100).overlaps(Accuracy(65, 100))
    assert not Accuracy(50, 100).overlaps(Accuracy(75, 100))
    assert (Accuracy(0, 0).low, Accuracy(0, 0).high) == (0.0, 1.0)


def test_a_models_text_can_break_neither_page() -> None:
    text = "<script>alert(1)</script> ``` | [x](y)"
    blocks = [Heading("Title", 1), Paragraph("a & b"), Quote(text), Table(["h"], [["a|b"]])]
    page = to_html(blocks, "Title & more")
    assert "<script>" not in page
    assert "<title>Title &amp; more</title>" in page
    markdown = to_markdown(blocks)
    assert f"````text\n{text}\n````" in markdown
    assert "a\\|b" in markdown

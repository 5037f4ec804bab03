"""The study of the real model: every arm is a job that can run, and the page counts rightly."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("yaml")
pytestmark = pytest.mark.sources

from toolgym._util.jsonl import read_json, write_json  # noqa: E402
from toolgym.evaluation.document import to_markdown  # noqa: E402
from toolgym.rollouts.playing import make_env  # noqa: E402
from toolgym.selftrain.settings import SelfTrainSettings, load_settings  # noqa: E402

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("study_real")


def options(study: ModuleType, smoke: bool) -> argparse.Namespace:
    return argparse.Namespace(
        model="smollm2",
        data=Path("data"),
        sets=list(study.SETS),
        questions=500,
        between=100,
        practice=None,
        smoke=smoke,
    )


@pytest.mark.parametrize("smoke", [False, True])
def test_every_arm_is_a_job(study: ModuleType, smoke: bool) -> None:
    for name, arm in study.ARMS.items():
        change = arm | (study._smoke(arm) if smoke else {})
        made = load_settings(study._settings(options(study, smoke), change, 3))
        assert made.seed == 3
        assert [place.label for place in made.environments] == list(study.SETS)
        for place in made.environments:
            assert place.train is not None
            assert place.test is not None
            assert "data" not in str(place.train), "practice sees bundled questions alone"
            assert ("examples" in place.test) == (name == "two examples, untrained")
            guided = name.removeprefix("control: ").startswith("guided, ")
            assert ("examples" in place.practice(1)) != guided
            at_first = name == "examples at first, then SFT"
            assert ("examples" in place.practice(3)) != (guided or at_first)
        assert made.sampling.narrow.quoted == guided
        assert made.rounds == (min(1, arm["rounds"]) if smoke else arm["rounds"])
        if smoke:
            assert made.sampling.max_new_tokens == 24
            assert made.filters(1).where == "reply_words>=0"


def facts(before: tuple[float, int], after: tuple[float, int], **more: Any) -> dict[str, Any]:
    rounds = [
        {
            "popqa-sampled": {"exact_match": 1.0, "accuracy": 1.0, "questions": count},
            "popqa-greedy": {"exact_match": share, "accuracy": share, "questions": count},
            "scenarios-greedy": {"exact_match": None, "Solve-F1": 0.5, "questions": 7},
        }
        for share, count in (before, after)
    ]
    return {"rounds": rounds, "seconds": 60, "perplexity": 20.0, "changed": {}, **more}


def test_the_page_pools_questions_and_not_shares(study: ModuleType) -> None:
    changed = {"lower attention": 0.01, "lower mlp": 0.02}
    arms = {
        "zero-shot": {"0": facts((0.0, 10), (0.0, 10))},
        "guided, then SFT": {
            "0": facts((0.0, 10), (0.5, 10), changed=changed),
            "1": facts((0.0, 30), (0.1, 30), changed=changed),
        },
    }
    pooled = importlib.import_module("study.real_page").pooled
    found = {"questions": 30, "model": "m", "arms": arms}
    page = to_markdown(study.page(found, list(study.SETS), ["zero-shot", "one", "two"]))
    assert "have not been run yet: one; two." in page
    assert pooled(list(arms["guided, then SFT"].values()), -1, "exact_match") == (8, 40)
    row = next(line for line in page.splitlines() if line.startswith("| guided"))
    assert "20.0 [" in row
    assert "50.0, 10.0" in row
    assert "| guided, then SFT | 1.00 % | 2.00 % |" in page
    assert pooled(list(arms["zero-shot"].values()), 0, "exact_match", "scenarios") == (0, 0)


def test_what_was_found_is_not_run_again(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []

    def arm(given: argparse.Namespace, name: str, seed: int, settings: Any) -> dict[str, Any]:
        assert load_settings(settings).seed == seed
        ran.append((name, seed))
        return facts((0.0, 10), (0.5, 10))

    monkeypatch.setattr(study, "_arm", arm)
    told = ["--data", "data", "--page", str(tmp_path), "--out", str(tmp_path / "runs")]
    told += ["--sets", "popqa", "--arms", "guided, then SFT", "zero-shot"]
    study.main([*told, "--seeds", "1"])
    study.main([*told, "--seeds", "0", "1"])
    assert ran == [
        *(("guided, then SFT", 1), ("zero-shot", 1)),
        *(("guided, then SFT", 0), ("zero-shot", 0)),
    ]
    page = (tmp_path / "real-model-study.md").read_text(encoding="utf-8")
    assert "50.0, 50.0" in page
    kept = tmp_path / "real-model-study.json"
    found = read_json(kept)
    found["arms"] = {"of another version": found["arms"]["zero-shot"], **found["arms"]}
    write_json(kept, found)
    study.main([*told, "--seeds", "2"])
    assert list(read_json(kept)["arms"]) == ["zero-shot", "guided, then SFT", "of another version"]
    del ran[4:]
    study.main([*told, "--seeds", "1", "--data", "elsewhere"])
    assert len(ran) == 4, "figures are the same wherever the data lie"
    study.main([*told, "--seeds", "1", "--questions", "7"])
    assert ran[4:] == [("guided, then SFT", 1), ("zero-shot", 1)], "other settings are run again"


def test_a_last_model_is_asked_elsewhere_once(
    study: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str, str]] = []

    def ask(settings: SelfTrainSettings, model: str, most: int, out: Path) -> None:
        (place,) = settings.environments
        assert place.test is not None
        assert most == 5
        assert out.parts[-2:] == ("elsewhere", "5-questions")
        if place.label == "closed-book":
            assert make_env(place.id, place.args | {"tasks": "sample"}).toolset.names == []
        asked.append((Path(model).parts[-3] if "/" in model else model, place.label))

    def figures(sets: Sequence[str], _folder: Path, ways: Sequence[str]) -> dict[str, Any]:
        assert list(ways) == ["greedy"]
        more = {"exact_match": 0.4, "accuracy": 0.4, "Solve-F1": 0.25, "invoke_rate": 1.5}
        return {f"{name}-greedy": {**more, "questions": 5} for name in sets}

    monkeypatch.setattr(study, "_arm", lambda *_: facts((0.0, 10), (0.5, 10)))
    monkeypatch.setattr(study, "_ask_all", ask)
    monkeypatch.setattr(study, "_figures", figures)
    told = ["--data", "data", "--page", str(tmp_path), "--out", str(tmp_path / "runs")]
    told += ["--sets", "popqa", "--seeds", "0", "--elsewhere-questions", "5"]
    several = [*told, "--arms", "zero-shot", "guided, then SFT"]
    for number in (1, 2, 3):
        (tmp_path / f"runs/seed-0/guided--then-SFT/round-{number}/training/model").mkdir(
            parents=True
        )
    study.main([*several, "--elsewhere", "popqa", "nq"])
    assert asked == [("smollm2", "nq"), ("round-3", "nq")], "popqa was practised"
    study.main([*several, "--elsewhere", "nq", "gsm8k", "scenarios", "closed-book"])
    for_each = ["gsm8k", "scenarios", "closed-book"]
    assert asked[2:] == [(m, name) for m in ("smollm2", "round-3") for name in for_each]
    study.main([*several, "--elsewhere", "nq", "--data", "other"])
    assert len(asked) == 8, "what is known is not asked again"
    page = (tmp_path / "real-model-study.md").read_text(encoding="utf-8")
    assert "nq: exact_match / calls | gsm8k: accuracy / calls | scenarios: Solve-F1 /" in page
    assert "| 40.0 [11.8, 76.9] of 5 / 1.50 | 0.25 of 5 / 1.50 |" in page
    with pytest.raises(SystemExit) as stopped:
        study.main([*told, "--arms", "SFT, then DPO", "--elsewhere", "nq"])
    assert stopped.value.code == 2
    assert "holds no model of it" in capsys.readouterr().err
    assert len(asked) == 8


def test_a_page_without_such_questions_has_no_such_section(study: ModuleType) -> None:
    found = {"questions": 1, "model": "m", "arms": {"zero-shot": {"0": facts((0, 1), (0, 1))}}}
    page = to_markdown(study.page(found, list(study.SETS), ["zero-shot"]))
    assert "never practised" not in page


def keys(study: ModuleType, of: str, name: str, seed: int = 0, *number: int) -> str:
    settings = load_settings(study._settings(options(study, False), study.ARMS[name], seed))
    found: str = getattr(importlib.import_module("study.sharing"), of)(settings, *number)
    return found


def test_arms_share_the_evaluation_of_the_base(study: ModuleType) -> None:
    def key(name: str, seed: int = 0) -> str:
        return keys(study, "evaluated", name, seed)

    plain = key("examples, then SFT")
    assert plain == key("zero-shot") == key("SFT, then GRPO")
    others = ["two examples, untrained", "guided, untrained", "guided, then SFT"]
    assert len({plain, *map(key, others), key("zero-shot", 1)}) == 5


def test_arms_that_begin_alike_share_their_first_practice(study: ModuleType) -> None:
    def key(name: str, seed: int = 0) -> str:
        return keys(study, "practised", name, seed, 1)

    shown = key("examples and guide, then SFT")
    assert shown == key("SFT, then DPO") == key("control: copied answers")
    alone = key("guided, then SFT")
    assert alone == key("guided, then SFT once") == key("control: guided, unfiltered")
    assert len({shown, alone, key("examples, then SFT"), key("guided, then SFT", 1)}) == 4


def test_arms_share_a_round_as_long_as_both_practise_alike(study: ModuleType) -> None:
    always, at_first = "examples, then SFT", "examples at first, then SFT"
    for of, number, same in (
        *(("practised", 1, True), ("trained", 1, True)),
        *(("practised", 2, False), ("trained", 2, False)),
    ):
        found = {keys(study, of, name, 0, number) for name in (always, at_first)}
        assert (len(found) == 1) == same, (of, number)


def begun(study: ModuleType, folder: Path, arm: str, stages: Sequence[str], **more: Any) -> Any:
    """The folder of an arm that has been through some stages."""
    settings = load_settings(study._settings(options(study, False), study.ARMS[arm], 0) | more)
    write_json(folder / "settings.json", settings.model_dump(mode="json"))
    for stage in stages:
        (folder / stage).mkdir(parents=True)
        (folder / stage / "made").write_text(f"{folder.name} {stage}", encoding="utf-8")
        (folder / stage / "done.json").write_text("{}", encoding="utf-8")
    return settings


ROUND = ["practice", "selection", "training"]
THROUGH = [
    "evaluation-0",
    *(f"round-{number}/{stage}" for number in (1, 2, 3) for stage in ROUND),
    *(f"evaluation-{number}" for number in (1, 2, 3)),
]


@pytest.mark.parametrize(
    ("arm", "more", "whole", "beside"),
    [
        ("SFT, then DPO", {}, 2, ["round-3/practice"]),
        ("SFT, then GRPO", {}, 2, []),
        ("examples and guide, then SFT", {"rounds": 2}, 2, []),
        ("control: unfiltered", {}, 0, ["round-1/practice"]),
        ("examples, then SFT", {}, 0, []),
    ],
)
def test_an_arm_takes_over_what_another_has_been_through(
    study: ModuleType,
    tmp_path: Path,
    arm: str,
    more: dict[str, Any],
    whole: int,
    beside: list[str],
) -> None:
    take_over = importlib.import_module("study.sharing").take_over
    begun(study, tmp_path / "first", "examples and guide, then SFT", THROUGH)
    mine = begun(study, tmp_path / "mine", arm, [], **more)
    taken = take_over(tmp_path / "mine", mine)
    rounds = [f"round-{n}/{stage}" for n in range(1, whole + 1) for stage in ROUND]
    evaluations = [f"evaluation-{n}" for n in range(whole + 1)]
    assert sorted(taken) == sorted([*rounds, *evaluations, *beside])
    for stage in taken:
        assert (tmp_path / "mine" / stage / "made").read_text() == f"first {stage}"
        # A later round's practice is by a model of another folder: it could not be gone on with.
        assert (tmp_path / "mine" / stage / "done.json").is_file()
    assert take_over(tmp_path / "mine", mine) == [], "nothing is copied twice"
    assert not list((tmp_path / "mine").rglob(".*")), "no half of a copy is left"


def test_what_is_not_done_or_was_begun_here_is_not_taken_over(
    study: ModuleType, tmp_path: Path
) -> None:
    take_over = importlib.import_module("study.sharing").take_over
    begun(study, tmp_path / "first", "examples and guide, then SFT", THROUGH[:5])
    (tmp_path / "first" / "round-1" / "training" / "done.json").unlink()
    mine = begun(study, tmp_path / "mine", "SFT, then DPO", ["evaluation-0"])
    assert take_over(tmp_path / "mine", mine) == [
        *("round-1/practice", "round-1/selection", "round-2/practice")
    ]
    assert (tmp_path / "mine" / "evaluation-0" / "made").read_text() == "mine evaluation-0"

"""The study of the real model: every arm is a job that can run, and the page counts rightly."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("yaml")
pytestmark = pytest.mark.sources

from toolgym.evaluation.document import to_markdown  # noqa: E402
from toolgym.selftrain.settings import load_settings  # noqa: E402

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
            assert ("examples" in place.train) == ("guided, " not in name)
        assert made.sampling.narrow.quoted == ("guided, " in name)
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
    study.main([*told, "--seeds", "1", "--data", "elsewhere"])
    assert len(ran) == 4, "figures are the same wherever the data lie"
    study.main([*told, "--seeds", "1", "--questions", "7"])
    assert ran[4:] == [("guided, then SFT", 1), ("zero-shot", 1)], "other settings are run again"


def test_arms_share_the_evaluation_of_the_base(study: ModuleType) -> None:
    def folder(name: str, seed: int = 0) -> Path:
        change = study.ARMS[name]
        settings = load_settings(study._settings(options(study, False), change, seed))
        found: Path = study._before(Path("s"), settings)
        return found

    plain = folder("examples, then SFT")
    assert plain == folder("zero-shot") == folder("SFT, then GRPO")
    others = ["two examples, untrained", "guided, untrained", "guided, then SFT"]
    assert len({plain, *map(folder, others), folder("zero-shot", 1)}) == 5


def test_arms_that_begin_alike_share_their_first_practice(study: ModuleType) -> None:
    def folder(name: str, seed: int = 0) -> Path:
        settings = load_settings(study._settings(options(study, False), study.ARMS[name], seed))
        found: Path = study._first(Path("s"), settings)
        return found

    shown = folder("examples and guide, then SFT")
    assert shown == folder("SFT, then DPO") == folder("control: copied answers")
    alone = folder("guided, then SFT")
    assert alone == folder("guided, then SFT once") == folder("control: guided, unfiltered")
    assert len({shown, alone, folder("examples, then SFT"), folder("guided, then SFT", 1)}) == 4

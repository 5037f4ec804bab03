"""The study of the miniature in the small: every arm runs, from one base, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolgym.errors import UnknownNameError

pytest.importorskip("trl")
pytestmark = pytest.mark.sources

ROOT = Path(__file__).parents[2]
WAYS = ("sampled", "greedy")


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study is not installed; it is run from the root of a checkout."""
    monkeypatch.syspath_prepend(str(ROOT))


def test_every_arm_runs_and_a_second_call_reads_what_is_there(tmp_path: Path) -> None:
    from benchmarks.study.arms import ARMS, run_study
    from benchmarks.study.page import write_page
    from toolgym.miniature.model import BaseSettings

    lines: list[str] = []
    quick = {"batch_size": 4, "device_batch_size": 4, "max_updates": 1}
    changes = {
        "samples_per_task": 2,
        "rounds": 1,
        "sampling": {"max_new_tokens": 12, "concurrency": 4},
        "train": quick,
        "grpo": {**quick, "generations": 2, "max_length": 300},
        # An untrained model is never right.
        "filter": {"where": None},
    }
    arms = [arm for arm in ARMS if "DPO" not in arm]

    def study() -> dict[str, object]:
        return run_study(
            tmp_path,
            seeds=[0],
            arms=arms,
            train=6,
            test=5,
            base=BaseSettings.tiny(),
            changes=changes,
            tell=lines.append,
        )

    found = study()
    assert len(lines) == len(arms)
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert all(f"| {arm} |" in text for arm in arms)
    assert study() == found

    page = write_page(found, tmp_path / "page").read_text(encoding="utf-8")
    page = page.replace("\n", " ")
    assert "1 seed, each with a world" in page
    assert "6 practice questions and 5 held-out ones a seed" in page
    # Nothing was learned in a step or two: the page must not say that something was.
    assert "They overlap for: SFT (in 1 of 1 seeds alone); GRPO (in 1 of 1 seeds alone)" in page
    assert "before and after lie apart" not in page
    assert page.count("0.0 [0.0,") > 10
    drawing = (tmp_path / "page" / "miniature-accuracy.svg").read_text(encoding="utf-8")
    assert all(f">{arm}</text>" in drawing for arm in arms)
    assert ">seed 0</text>" in (tmp_path / "page" / "miniature-reward.svg").read_text()


def test_an_unknown_arm_names_near_ones(tmp_path: Path) -> None:
    from benchmarks.study.arms import run_study

    with pytest.raises(UnknownNameError, match="did you mean 'GRPO'"):
        run_study(tmp_path, arms=["GRP0"])


def test_the_page_says_what_the_figures_say(tmp_path: Path) -> None:
    from benchmarks.study.page import KINDS, blocks
    from toolgym.evaluation.document import to_markdown

    def measured(right: int) -> dict[str, dict[str, dict[str, int]]]:
        labels = [f"{kind}{ending}" for kind in KINDS for ending in ("", "-heldout")]
        return {way: {label: {"right": right, "n": 100} for label in labels} for way in WAYS}

    def arm(*rights: int) -> dict[str, object]:
        rounds = [measured(right) for right in rights]
        return {str(seed): {"rounds": rounds, "rewards": [], "seconds": 60.0} for seed in (4, 2)}

    found = {
        "arms": {"SFT": arm(30, 60, 90), "control: unfiltered episodes": arm(30, 31)},
        "train": 10,
        "test": 300,
        "base_seconds": {"2": 60.0, "4": 120.0},
        "machine": "2 CPU cores",
        "versions": "toolgym 1",
    }
    page = to_markdown(blocks(found))
    assert "--seeds 2 4 --out" in page
    assert "took 7 minutes on 2 CPU cores, with toolgym 1" in page
    assert "| SFT | 30.0 [26.5, 33.8] | 90.0 [87.3, 92.2] | 90.0, 90.0 |" in page
    assert "before and after lie apart for: SFT (in 2 of 2 seeds alone). They overlap" in page
    assert "overlap for: control: unfiltered episodes (in 2 of 2 seeds alone)." in page
    assert "the base goes from 30.0 [26.5, 33.8] to 31.0" in page
    assert "One round of SFT on right episodes alone ends at 60.0" in page
    assert "miniature-reward.svg" not in page

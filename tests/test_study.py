"""The study of the miniature in the small: every arm runs, from one base, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolgym.errors import UnknownNameError

pytest.importorskip("trl")


def test_every_arm_runs_and_a_second_call_reads_what_is_there(tmp_path: Path) -> None:
    from toolgym.miniature.settings import BaseSettings
    from toolgym.miniature.study import ARMS, run_study

    lines: list[str] = []
    quick = {"batch_size": 4, "device_batch_size": 4, "max_steps": 1}
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
    assert "5 held-out questions a seed, 1 seeds" in text
    assert study() == found


def test_an_unknown_arm_names_near_ones(tmp_path: Path) -> None:
    from toolgym.miniature.study import run_study

    with pytest.raises(UnknownNameError, match="did you mean 'GRPO'"):
        run_study(tmp_path, arms=["GRP0"])

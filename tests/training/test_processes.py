"""Several processes that train one model together: one of them writes, and batches are shared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolgym.errors import BadInputError
from toolgym.training.config import SftConfig
from toolgym.training.output import Outcome

pytest.importorskip("trl")


def test_two_processes_share_the_batch_and_leave_one_model(tiny_base: Path, tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n}+1?"},
                {"role": "assistant", "content": f"Answer: {n + 1}"},
            ]
        }
        for n in range(8)
    ]
    source, out = tmp_path / "rows.jsonl", tmp_path / "model"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "toolgym.cli", "train", "sft", str(source), "--model", str(tiny_base)]
    command += ["--out", str(out), "--batch-size", "4", "--epochs", "1", "--save-every", "1"]
    done = subprocess.run(
        [*command, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)  # once, not once a process
    assert (said["steps"], said["counts"]) == (2, {"retokenised": 8})
    assert (out / "model.safetensors").is_file()
    assert not out.with_name("model.partial").exists()


def test_batches_are_counted_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert SftConfig(batch_size=16).resolve().device_batch_size == 4
    with pytest.raises(BadInputError, match=r"batch_size 6 is not .* times 4 processes"):
        SftConfig(batch_size=6).resolve()


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    outcome = Outcome(tmp_path / "model", {"counts": {"rows": 3}, "trained_tokens": 7})
    outcome.begin(resume=False)
    made = outcome.finish(None, None, {"steps": 2, "loss": 0.5}, [])
    assert (made.steps, made.counts, list(tmp_path.iterdir())) == (2, {"rows": 3}, [])


def test_weights_spread_over_processes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3}}), encoding="utf-8")
    with pytest.raises(BadInputError, match=r"stage 3.*use stage 2"):
        SftConfig(deepspeed=str(file)).resolve()


def test_self_training_runs_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from toolgym.selftrain.loop import selftrain

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInputError, match="runs in one process, not in 2"):
        selftrain({}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

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


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten conversations: the third batch of four is not full."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{n}+1?"},
                {"role": "assistant", "content": f"Answer: {n + 1}" + " again" * (n % 3)},
            ]
        }
        for n in range(10)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def execute(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python ...`` in a process of its own, without this one's place in any launch."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
    )


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes", "2")
TRAIN = ("-m", "toolgym.cli", "train")


def test_two_processes_take_the_updates_of_one(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    given = (rows, "--model", tiny_base, "--batch-size", 4, "--epochs", 2, "--save-every", 4)
    given += ("--device-batch-size", 2, "--learning-rate", 1e-3, "--json", "--out")
    logs, said = {}, {}
    for name, start in (("one", ()), ("two", TORCHRUN)):
        done = execute(*start, *TRAIN, "sft", *given, tmp_path / name)
        assert done.returncode == 0, done.stderr[-2000:]
        said[name] = json.loads(done.stdout)  # once, not once a process
        log = (tmp_path / name / "training_log.jsonl").read_text(encoding="utf-8")
        logs[name] = [json.loads(line)["loss"] for line in log.splitlines()]
    assert (said["two"]["steps"], said["two"]["counts"]) == (6, {"retokenised": 10})
    assert logs["two"] == pytest.approx(logs["one"], abs=2e-4)
    assert (tmp_path / "two" / "model.safetensors").is_file()
    assert not (tmp_path / "two.partial").exists()


def test_pairs_that_are_repeated_are_told(tiny_base: Path, tmp_path: Path) -> None:
    sides = {"chosen_ids": [5, 6], "chosen_mask": [1, 1]}
    sides |= {"rejected_ids": [7, 8], "rejected_mask": [1, 1]}
    file = tmp_path / "pairs.jsonl"
    line = json.dumps({"id": "a", "prompt_ids": [1, 2, 3], **sides}) + "\n"
    file.write_text(line * 5, encoding="utf-8")
    given = (file, "--model", tiny_base, "--batch-size", 4, "--epochs", 1, "--out")
    done = execute(*TORCHRUN, *TRAIN, "dpo", *given, tmp_path / "model")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("2 processes take equally many pairs, so that 3 of the 5 were") == 1


FSDP = """compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP}
mixed_precision: "no"
num_machines: 1
num_processes: 2
"""


def test_what_a_launcher_would_quietly_do_otherwise_is_refused(
    tiny_base: Path, rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "fsdp.yaml").write_text(FSDP, encoding="utf-8")
    named = ("-m", "accelerate.commands.launch", "--config_file", tmp_path / "fsdp.yaml")
    given = ("sft", rows, "--model", tiny_base, "--out", tmp_path / "model")
    for start, message in (
        ((*ACCELERATE, "--cpu"), "was asked for several processes and started one"),
        (ACCELERATE, "use torchrun --nproc_per_node N -m toolgym.cli train"),
        (named, "FSDP spreads the weights over processes"),
    ):
        # The launcher takes a module's name where Python has -m.
        module = ("--module", *TRAIN[1:])
        done = execute(*start, *module, *given, CUDA_VISIBLE_DEVICES="")
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert done.returncode != 0
        assert message in errors[0], done.stderr[-2000:]
        assert not (tmp_path / "model.partial").exists()


def test_deepspeed_says_where_it_comes_from(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "zero2.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}), encoding="utf-8")
    given = ("sft", rows, "--model", tiny_base, "--out", tmp_path / "model", "--deepspeed", file)
    done = execute(*TRAIN, *given)
    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    assert "the extra 'train' does not bring it: pip install deepspeed; or leave" in line


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

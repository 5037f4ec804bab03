"""Several processes that train one model together: one of them writes, and batches are shared."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import wait_for

from toolgym.errors import BadInputError, MissingExtraError
from toolgym.training.config import SftConfig
from toolgym.training.output import Outcome
from toolgym.trajectory import read_trajectories

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


def environment(**more: str) -> dict[str, str]:
    """Ours without this process's place in any launch."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "MASTER_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def execute(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``python ...`` in a process of its own."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**more),
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


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven pairs of tokens: the third batch of four lacks one, and so does a process."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = []
    for n in range(11):
        sides = {"chosen_ids": list(range(9 + n, 12 + n + n % 4)), "rejected_ids": [5 + n, 7 + n]}
        masks = {f"{side}_mask": [1] * len(sides[f"{side}_ids"]) for side in ("chosen", "rejected")}
        lines.append(json.dumps({"id": str(n), "prompt_ids": [1, n + 3], **sides, **masks}) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def log_of(folder: Path, name: str = "loss") -> list[float]:
    log = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[name] for line in log]


def test_pairs_on_two_processes_one_of_which_dies(
    tiny_base: Path, pairs: Path, tmp_path: Path
) -> None:
    given = (pairs, "--model", tiny_base, "--batch-size", 4, "--epochs", 20, "--save-every", 2)
    given += ("--sft-weight", 0.3, "--learning-rate", 1e-3, "--out")
    alone = execute(*TRAIN, "dpo", *given, tmp_path / "one")
    assert alone.returncode == 0, alone.stderr[-2000:]
    asked = [*TORCHRUN, *TRAIN, "dpo", *given, tmp_path / "two"]
    launched = subprocess.Popen(
        [sys.executable, *map(str, asked)], stderr=subprocess.PIPE, text=True, env=environment()
    )
    work = tmp_path / "two.partial"
    wait_for(lambda: [*work.glob("checkpoint-*/complete")] or launched.poll() is not None, 200)
    os.kill(process_of_rank(1, launched.pid), signal.SIGKILL)
    said = launched.communicate(timeout=120)[1]
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert launched.returncode != 0
    assert len(errors) == 1, said[-2000:]
    assert "run the same command again to go on" in errors[0]  # whichever it notices first
    done = execute(*asked)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("loss", "rewards/margins", "rewards/accuracies"):
        assert log_of(tmp_path / "two", name) == pytest.approx(
            log_of(tmp_path / "one", name), abs=2e-4
        )
    assert len(log_of(tmp_path / "two")) == 60


def process_of_rank(number: int, launcher: int) -> int:
    """The process that a launcher has given a rank."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            told = (process / "environ").read_bytes().split(b"\0")
            if parent == launcher and f"RANK={number}".encode() in told:
                return int(process.name)
    raise AssertionError(f"no process of rank {number}")


GROUPS = """
import sys
from toolgym.training.grpo import train_grpo
def wordy(task, trajectory):
    return [sum(map(ord, step.action)) % 17 / 17 for step in trajectory.steps]
train_grpo(
    "ToolQA-GSM8K-v0", sys.argv[1], sys.argv[2], generations=4, batch_size=4, max_updates=4,
    max_new_tokens=6, learning_rate=1e-3, branch_after=1, record_episodes=True,
    env_args={"reward": {"wordy": (wordy, 1.0)}, "max_steps": 2},
)
"""


def test_a_group_spread_over_processes_plays_as_in_one(tiny_base: Path, tmp_path: Path) -> None:
    script = tmp_path / "groups.py"
    script.write_text(GROUPS, encoding="utf-8")
    played = {}
    for name, start in (("one", ()), ("two", TORCHRUN)):
        done = execute(*start, script, tiny_base, tmp_path / name)
        assert done.returncode == 0, done.stderr[-2000:]
        rows = [
            (file.name[:11], episode.id, [step.action for step in episode.steps])
            for file in (tmp_path / name / "episodes").iterdir()
            for episode in read_trajectories(file)
        ]
        played[name] = sorted(rows)
    assert played["two"] == played["one"]
    assert len({row[:2] for row in played["two"]}) == 16
    assert log_of(tmp_path / "two") == pytest.approx(log_of(tmp_path / "one"), abs=2e-4)


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
        ((*ACCELERATE, "--use_fsdp"), "FSDP spreads the weights over processes"),
    ):
        # The launcher takes a module's name where Python has -m.
        module = ("--module", *TRAIN[1:])
        done = execute(*start, *module, *given, CUDA_VISIBLE_DEVICES="")
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert done.returncode != 0
        assert len(errors) == 1, done.stderr[-2000:]
        assert message in errors[0]
        assert not (tmp_path / "model.partial").exists()


def test_deepspeed_says_where_it_comes_from(tiny_base: Path, rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "zero2.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}), encoding="utf-8")
    given = ("sft", rows, "--model", tiny_base, "--out", tmp_path / "model", "--deepspeed", file)
    done = execute(*TRAIN, *given)
    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    assert "pip install 'toolgym[deepspeed]', or leave the option deepspeed out" in line


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


@pytest.mark.parametrize("stage", [3, "3", 3.0])
def test_weights_spread_over_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: object
) -> None:
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": stage}}), encoding="utf-8")
    with pytest.raises(BadInputError, match=r"stage 3.*use stage 2"):
        SftConfig(deepspeed=str(file)).resolve()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with pytest.raises(BadInputError, match=r"stage 3.*use stage 2"):
        SftConfig().resolve()
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(BadInputError, match=r"stage 3 \(accelerate launch\)"):
        SftConfig().resolve()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[deepspeed\]'"):
        SftConfig().resolve()


def test_self_training_runs_in_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from toolgym.selftrain.loop import selftrain

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInputError, match="runs in one process, not in 2"):
        selftrain({}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""What toolgym writes is used without toolgym, by plain TRL and transformers.

They run in an environment of their own (``python -m venv``) that holds every installed distribution
but toolgym.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolgym import Run, export, rollout, select
from toolgym.data.pairs import PAIRINGS
from toolgym.training.sft import train_sft

pytest.importorskip("trl")

PAGE = Path(__file__).parents[2] / "docs" / "export.md"

TRAININGS = """
import json, math, sys
import datasets, torch, transformers, trl

def load(name):
    return datasets.load_dataset("json", data_files=f"{name}.jsonl", split="train")

def options(kind, name, **more):
    return kind(
        output_dir=f"out-{name}", max_steps=1, per_device_train_batch_size=2, learning_rate=1e-3,
        logging_steps=1, save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, report_to="none", **more,
    )

def trained(name, trainer):
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.train()
    loss = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    after = trainer.model.parameters()
    moved = any(not torch.equal(one, two) for one, two in zip(before, after))
    found[name] = {"loss": loss, "finite": math.isfinite(loss), "moved": moved}

found = {}
for name in ("played", "native"):
    config = options(trl.SFTConfig, name, assistant_only_loss=True)
    trained(name, trl.SFTTrainer("model", args=config, train_dataset=load(name)))
for name in sys.argv[1:]:
    config = options(trl.DPOConfig, name)
    trained(name, trl.DPOTrainer("model", args=config, train_dataset=load(name)))
prefixes = load("prefixes")
turns = prefixes.filter(lambda row: row["reward"] > 0).select_columns(["prompt", "completion"])
trained("turns", trl.SFTTrainer("model", args=options(trl.SFTConfig, "turns"), train_dataset=turns))

def lengths(completions, answer, **_):
    assert all(isinstance(each, (str, list)) for each in answer)
    return [float(len(each[0]["content"])) for each in completions]

config = options(trl.GRPOConfig, "grpo", num_generations=2, max_completion_length=8)
prompts = prefixes.remove_columns(["completion", "reward"])
trained("prompts", trl.GRPOTrainer("model", lengths, args=config, train_dataset=prompts))

tokenizer = transformers.AutoTokenizer.from_pretrained("trained")
model = transformers.AutoModelForCausalLM.from_pretrained("trained")
asked = [{"role": "user", "content": "What is 6*7?"}]
prompt = tokenizer.apply_chat_template(
    asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
written = model.generate(**prompt, max_new_tokens=8, min_new_tokens=8)
found["generated"] = {"tokens": int(written.shape[1] - prompt["input_ids"].shape[1])}
print(json.dumps(found))
"""

Plain = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """Runs ``python ARGUMENTS`` where toolgym is not installed."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = folder / "lib" / version / "site-packages"
    # All folders of packages: an environment may borrow those of another one.
    for here in (Path(place) for place in sys.path if Path(place).name.endswith("-packages")):
        for entry in here.iterdir():
            # Start-up files are left out, too: an editable install puts toolgym there.
            ours = "toolgym" in entry.name or entry.suffix == ".pth"
            if not ours and not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TOOLGYM"))}

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(folder / "bin" / "python"), *arguments],
            cwd=cwd,
            env=environment | {"HF_DATASETS_CACHE": str(folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def native(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """A call and an answer in the words of the format hermes."""
    number = int(re.findall(r"6\*(\d+)\?", str(messages))[0])
    if sum(message["role"] == "assistant" for message in messages) == 0:
        call = {"name": "Calculator", "arguments": {"expression": f"6*{number}"}}
        return f"I compute.<tool_call>{json.dumps(call)}</tool_call>"
    return f"The answer is <answer>{6 * number}</answer>"


def replies(*said: str) -> Callable[..., str]:
    """A policy that says the same in every episode, turn by turn."""

    def policy(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        number = int(re.findall(r"6\*(\d+)\?", str(messages))[0])
        turn = sum(message["role"] == "assistant" for message in messages)
        return said[turn].format(right=6 * number, wrong=6 * number + 1, n=number)

    return policy


CALL = "Thought: I compute.\nAction: Calculator[6*{n}]"
POLICIES = {
    "right": (CALL, "Thought: I read it.\nAnswer: {right}"),
    "longer": (CALL, "Thought: I check.\nAction: Calculator[{n}*6]", "Answer: {right}"),
    "misread": (CALL, "Thought: I misread it.\nAnswer: {wrong}"),
    "guess": ("Thought: I guess.\nAnswer: {wrong}",),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A folder with a model, exported rows of every kind, and a model that toolgym trained."""
    folder = tmp_path_factory.mktemp("work")
    tasks = folder / "tasks.jsonl"
    rows = [
        {"id": f"q{n}", "question": f"What is 6*{n}?", "answers": [str(6 * n)]} for n in range(4)
    ]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shared: dict[str, Any] = {"tasks": str(tasks), "tools": ["Calculator"]}

    def record(name: str, **args: Any) -> Run:
        policy = replies(*POLICIES[name])
        return rollout(
            "ToolQA-GSM8K-v0", policy, env_args=shared | args, out=folder / "runs" / name
        )

    runs = [record(name) for name in POLICIES]
    right = select(runs[0], tools="only")
    assert len(right) == 4
    export(right, "sft", out=folder / "played.jsonl")
    export(runs[0], "prefixes", out=folder / "prefixes.jsonl")
    for pairing in PAIRINGS:
        # Two right episodes for those that prefer the shorter of them, else right and wrong ones.
        some = runs[:2] if pairing == "fewer_calls" else [runs[0], *runs[2:]]
        export(some, "dpo", pairing=pairing, out=folder / f"{pairing}.jsonl")
    called = rollout(
        "ToolQA-GSM8K-v0", native, env_args={**shared, "format": "hermes"}, out=folder / "hermes"
    )
    assert export(select(called), "sft", out=folder / "native.jsonl")[0]["tools"]
    shutil.copytree(tiny_base, folder / "model")
    train_sft(right, tiny_base, folder / "trained", max_updates=1, batch_size=4)
    return folder


def test_toolgym_is_not_there(plain: Plain, tmp_path: Path) -> None:
    done = plain("-c", "import trl, toolgym", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ModuleNotFoundError: No module named 'toolgym'")


def test_plain_trl_trains_on_every_export(plain: Plain, work: Path) -> None:
    (work / "train.py").write_text(TRAININGS, encoding="utf-8")
    done = plain("train.py", *PAIRINGS, cwd=work)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("generated") == {"tokens": 8}
    assert set(found) == {"played", "native", *PAIRINGS, "turns", "prompts"}
    for name, facts in found.items():
        assert facts["finite"], (name, facts)
        # Random replies may all be of one length: then GRPO has nothing to prefer.
        assert facts["moved"] or name == "prompts", name


def test_the_script_of_the_page_runs_there(plain: Plain, work: Path) -> None:
    code = re.search(r"```python\n(import datasets\n.*?)```", PAGE.read_text("utf-8"), re.S)
    assert code is not None
    for name, source in (("sft", "played"), ("pairs", "right_wrong")):
        (work / "rows").mkdir(exist_ok=True)
        shutil.copy(work / f"{source}.jsonl", work / "rows" / f"{name}.jsonl")
    shutil.copytree(work / "model", work / "path" / "to" / "model")
    (work / "page.py").write_text(code[1], encoding="utf-8")
    done = plain("page.py", cwd=work)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("sft", "dpo"):
        assert (work / "models" / name / "model.safetensors").is_file()

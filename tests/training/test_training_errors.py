"""What goes wrong in training is one clear line with the next step, and found before hours pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from typer.testing import CliRunner

from toolgym import Trajectory, export
from toolgym.cli import app
from toolgym.errors import BadInputError, MissingExtraError, RunMismatchError, UnknownNameError
from toolgym.selftrain import preflight
from toolgym.selftrain.settings import SelfTrainSettings, load_settings
from toolgym.training.config import SftConfig, configure
from toolgym.training.sft import prepare, train_sft
from toolgym.trajectory import Tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

STEPS: dict[str, Any] = {"batch_size": 4, "max_updates": 2, "save_every": 1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Tasks, and rows of both kinds from real episodes."""
    made = tmp_path_factory.mktemp("errors")
    rows = [
        {"id": f"q{n}", "question": f"What is 6*{n}?", "answers": [str(6 * n)]} for n in range(4)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (made / "tasks.jsonl").write_text(text, encoding="utf-8")
    played = episodes(made)
    export(played, out=made / "sft.jsonl")
    export(played, "dpo", out=made / "dpo.jsonl")
    (made / "empty.jsonl").touch()
    return made


def episodes(folder: Path) -> list[Trajectory]:
    env = gym.make("ToolQA-GSM8K-v0", tasks=str(folder / "tasks.jsonl"), prompt="bare").unwrapped
    played = []
    for n in range(4):
        for sample, replies in enumerate(
            ([f"Action: Calculator[6*{n}]", f"Answer: {6 * n}"], [f"Answer: {6 * n + 1}"])
        ):
            env.reset(options={"task": f"q{n}", "sample": sample})
            for reply in replies:
                env.step(reply)
            played.append(env.trajectory)  # type: ignore[attr-defined]
    return played


def refused(code: int, *command: object) -> str:
    """The one line on standard error of a command that ends with an exit code."""
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_rows_of_another_kind_name_the_right_command(folder: Path, tiny_base: Path) -> None:
    given = ("--model", tiny_base, "--out", folder / "out")
    line = refused(3, "train", "sft", folder / "dpo.jsonl", *given)
    assert "holds preference pairs: give it to `toolgym train dpo`" in line
    line = refused(3, "train", "dpo", folder / "sft.jsonl", *given)
    assert "holds no preference pairs" in line
    assert "give rows of `export sft` to `toolgym train sft`" in line
    for method in ("sft", "dpo"):
        assert "is empty" in refused(3, "train", method, folder / "empty.jsonl", *given)
    (folder / "broken.jsonl").write_text('{"messages": []}\n{"mess', encoding="utf-8")
    line = refused(3, "train", "sft", folder / "broken.jsonl", *given)
    assert "line 2: not valid JSON" in line
    assert not (folder / "out.partial").exists()


def test_models_that_are_none(folder: Path, tiny_base: Path) -> None:
    def line(model: Path | str) -> str:
        given = ("--model", model, "--out", folder / "out")
        return refused(3, "train", "sft", folder / "sft.jsonl", *given)

    near = str(tiny_base)[:-1]
    assert f"does not exist (did you mean '{tiny_base.name}'" in line(near)
    assert "there is no such folder" in line("nothing")
    adapters = folder / "adapters"
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "holds LoRA adapters without the model below them; merge them first" in line(adapters)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            {"bf16": "maybe"},
            BadInputError,
            "bf16 must be true or false, or one of fast, not 'maybe'",
        ),
        ({"save_every": "x"}, BadInputError, "save_every must be a whole number, not 'x'"),
        ({"batch_size": True}, BadInputError, "batch_size must be a whole number, not True"),
        ({"report_to": "tensorbord"}, BadInputError, "did you mean 'tensorboard'"),
        ({"report_to": ["clearml"]}, MissingExtraError, "pip install clearml; or leave report_to"),
    ],
)
def test_values_of_another_kind(
    wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        configure(SftConfig, None, wrong).resolve()


def no_memory(*_: Any) -> None:
    torch.empty(1 << 50)


def no_space(*_: Any) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        stream.write("x")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (no_memory, "out of memory .*set device_batch_size below 4 or gradient_checkpointing"),
        (no_space, "the disk is full .*make room and run the same again"),
    ],
)
def test_memory_and_disk_that_run_out_in_a_step(
    folder: Path, tiny_base: Path, tmp_path: Path, event: Callable[..., None], message: str
) -> None:
    def at_the_second(step: int, *_: Any) -> None:
        if step == 2:
            event()

    given: dict[str, Any] = {**STEPS, "max_updates": 3}
    rows, out = folder / "sft.jsonl", tmp_path / "model"
    with pytest.raises(BadInputError, match=message):
        train_sft(rows, tiny_base, out, **given, progress=at_the_second)
    # What the message says: smaller pieces of the same steps go on in the same folder.
    seen: list[int] = []
    lighter = {**given, "device_batch_size": 2, "gradient_checkpointing": True}
    train_sft(rows, tiny_base, out, **lighter, progress=lambda step, *_: seen.append(step))
    assert seen == [2, 3]
    with pytest.raises(RunMismatchError, match=r"options.max_updates = 3, now it is 4"):
        train_sft(rows, tiny_base, out, **{**given, "max_updates": 4})


def grpo(folder: Path, model: Path, *more: object) -> list[str]:
    given = ["train", "grpo", "ToolQA-GSM8K-v0", "--tasks", folder / "tasks.jsonl", "--prompt"]
    given += ["bare", "--tool", "Calculator", "--max-steps", 2, "--max-new-tokens", 8, "--model"]
    return [str(part) for part in (*given, model, "--max-updates", 1, *more)]


def test_a_training_that_teaches_nothing_says_so(
    folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    command = grpo(folder, tiny_base, "--out", out, "--batch-size", 4, "--generations", 2)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "warning: all rewards were equal in every group of all 1 steps" in result.stderr
    assert "take easier tasks or a better model" in result.stderr
    assert json.loads((out / "training.json").read_text())["warnings"]


def test_more_tasks_asked_than_there_are(folder: Path, tiny_base: Path) -> None:
    out = folder / "grpo"
    line = refused(3, *grpo(folder, tiny_base, "--out", out, "--batch-size", 80))
    assert "plays 10 tasks, and there are only 4: lower batch_size to at most 32" in line
    assert not out.with_suffix(".partial").exists()


def test_a_model_that_cannot_stop(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    cut = []
    for episode in episodes(folder)[1::2]:
        said = tokenizer(episode.steps[0].action, add_special_tokens=False)["input_ids"]
        episode.tokens = Tokens([1, 2], said, [1] * len(said), None, "t")
        cut.append(episode)
    (warning,) = prepare(cut, tokenizer, max_length=None).warnings
    assert "did not stop: none of them ends with its end token" in warning
    endless = tmp_path / "endless"
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(endless)
    transformers.AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(endless)
    line = refused(3, *grpo(folder, endless, "--out", tmp_path / "o", "--batch-size", 8))
    assert "cannot stop: neither its chat template nor its tokenizer has an end token" in line


def settings(folder: Path, model: Path, **more: Any) -> SelfTrainSettings:
    args = {"prompt": "bare", "tools": ["Calculator"]}
    tasks = {"tasks": str(folder / "tasks.jsonl")}
    environment = {"id": "ToolQA-GSM8K-v0", "args": args, "train": tasks, "test": tasks}
    return load_settings({"model": str(model), "environments": [environment], "rounds": 2, **more})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"filter": {"where": "acuracy>=1"}}, UnknownNameError, "did you mean 'accuracy'"),
        ({"train": {"report_to": "clearml"}}, MissingExtraError, "pip install clearml"),
        ({"grpo": {"reward": {"acuracy": 1}}}, UnknownNameError, "did you mean 'accuracy'"),
        ({"train": {"batch_size": 5, "device_batch_size": 2}}, BadInputError, "not a multiple of"),
        ({"dpo": {"pairing": "whol"}}, BadInputError, r"dpo.pairing.*did you mean 'whole'"),
        ({"methods": ["stf"]}, BadInputError, r"methods.0.*did you mean 'sft'"),
        ({"grpo": {"batch_size": 9}}, BadInputError, "grpo: batch_size 9 is not a multiple of"),
    ],
)
def test_a_later_stages_mistake_is_found_before_the_first_one(
    folder: Path, tiny_base: Path, wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        preflight.check(settings(folder, tiny_base, **wrong))


def test_what_no_stage_has_used_may_still_be_changed(
    folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    def begin(**changed: Any) -> None:
        preflight.remember(settings(folder, tiny_base, **changed), tmp_path)

    begin()
    begin(
        filter={"where": "token_f1>=0.5"},
        dpo={"beta": 0.1},
        sampling={"batch_size": 8, "cache_gib": 0},
    )
    (tmp_path / "round-1" / "selection").mkdir(parents=True)
    (tmp_path / "round-1" / "selection" / "done.json").touch()
    with pytest.raises(RunMismatchError, match=r'filter.where = "token_f1>=0.5", now it is "acc'):
        begin(dpo={"beta": 0.1})
    kept = {"filter": {"where": "token_f1>=0.5"}, "dpo": {"beta": 0.1}}
    begin(**kept, train={"epochs": 2})
    (tmp_path / "round-1" / "training").mkdir()
    begin(**kept, train={"epochs": 2, "device_batch_size": 1})
    with pytest.raises(RunMismatchError, match=r"train.epochs = 2.0, now it is 1.0"):
        begin(**kept, train={"epochs": 1})


def test_two_trainings_into_one_folder(folder: Path, tiny_base: Path, tmp_path: Path) -> None:
    rows, out = folder / "sft.jsonl", tmp_path / "model"

    def beside(step: int, *_: Any) -> None:
        given = ("--model", tiny_base, "--out", out)
        line = refused(3, "train", "sft", rows, *given)
        assert "another process is training into" in line

    train_sft(rows, tiny_base, out, **STEPS, progress=beside)
    assert not out.with_suffix(".partial").exists()

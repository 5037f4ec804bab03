"""What a training is told: the same fields in Python, in settings files and on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from toolgym.cli import app
from toolgym.errors import BadInputError
from toolgym.selftrain.settings import SelfTrainSettings, load_settings
from toolgym.training.config import (
    DpoConfig,
    GroupConfig,
    GrpoConfig,
    SftConfig,
    TrainConfig,
    configure,
    processes,
    rank,
)

KINDS: dict[str, type[TrainConfig]] = {"sft": SftConfig, "dpo": DpoConfig, "grpo": GrpoConfig}
each_kind = pytest.mark.parametrize("method", KINDS)

whole = st.integers(min_value=1, max_value=10**6)
positive = st.floats(min_value=1e-9, max_value=1e9)
fields = st.fixed_dictionaries(
    {},
    optional={
        "epochs": positive,
        "device_batch_size": st.none() | whole,
        "learning_rate": st.none() | positive,
        "max_length": whole,
        "lora": st.booleans() | st.integers(min_value=0, max_value=256),
        "bf16": st.none() | st.booleans() | st.just("fast"),
        "max_updates": st.none() | whole,
        "save_every": whole,
        "report_to": st.text() | st.lists(st.text()),
        "seed": st.none() | st.integers(),
    },
)


@each_kind
@given(given=fields)
def test_round_trip_through_json_and_plain_data(method: str, given: dict[str, Any]) -> None:
    kind = KINDS[method]
    made = configure(kind, None, given)
    assert kind.model_validate_json(made.model_dump_json()) == made
    assert configure(kind, json.loads(made.model_dump_json()), {}) == made
    assert configure(kind, made, {}) == made
    assert {name: getattr(made, name) for name in given} == given


@each_kind
def test_every_field_is_described_and_reached_from_everywhere(method: str) -> None:
    kind = KINDS[method]
    result = CliRunner().invoke(app, ["train", method, "--help"], terminal_width=400)
    shown = " ".join(result.output.split())
    section = {"sft": "train"}.get(method, method)
    own = kind if method != "grpo" else GroupConfig
    for name, field in kind.model_fields.items():
        assert field.description, name
        if name != "template":  # a mapping, which --set takes
            assert f"--{name.replace('_', '-')}" in shown
            assert " ".join(field.description.split()) in shown
        if name in own.model_fields:
            default = field.get_default(call_default_factory=True)
            assert getattr(load_settings({section: {name: default}}), section) is not None


def test_arguments_win_over_the_model_they_come_with() -> None:
    begun = SftConfig(epochs=2, lora=8)
    assert configure(SftConfig, begun, {"lora": 16}) == SftConfig(epochs=2, lora=16)
    settings = load_settings({"dpo": {"without_tools": 1, "beta": 0.1}})
    assert configure(DpoConfig, settings.dpo, {}) == DpoConfig(beta=0.1)


@pytest.mark.parametrize(
    ("kind", "config", "wrong", "message"),
    [
        (SftConfig, None, {"max_step": 3}, r"unknown option 'max_step'.*max_updates"),
        (SftConfig, None, {"beta": 0.1}, "unknown option 'beta'"),
        (SftConfig, {"epochs": "3"}, {}, "epochs must be a number, not '3'"),
        (SftConfig, 7, {}, "config must be a SftConfig or a mapping, not 7"),
        (SftConfig, None, {"report_to": 3}, "report_to must be a string or a list, not 3"),
        (SftConfig, None, {"report_to": ["a", 3]}, "report_to.* must be a string"),
        (SftConfig, None, {"lora": "x"}, "lora must be true or false or a whole number, not 'x'"),
        (DpoConfig, SftConfig(), {}, "config must be of the kind DpoConfig, not SftConfig"),
        (DpoConfig, None, {"beta": 0}, "beta must be above 0, not 0"),
        (DpoConfig, None, {"sft_weight": -1.0}, "sft_weight must be at least 0, not -1"),
        (DpoConfig, None, {"sft_weight": float("inf")}, "sft_weight must be a finite number"),
        (GrpoConfig, None, {"top_p": 2.0}, "top_p must be at most 1, not 2.0"),
        (GrpoConfig, None, {"loss": "grp"}, "one of dapo, grpo, dr_grpo, bnpo, not 'grp' .did you"),
        (GrpoConfig, None, {"template": 3}, "template must be a mapping, not 3"),
    ],
)
def test_what_does_not_fit_is_one_line(
    kind: type[TrainConfig], config: Any, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        configure(kind, config, wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--epochs", "0"), 3, "epochs must be above 0"),
        (("--set", "bf16=maybe"), 3, "bf16 must be true or false, or one of fast, not 'maybe'"),
        (("--set", "epoch=3"), 2, "--set epoch: there is no such option (did you mean 'epochs'?)"),
        (("--set", "seed=3", "--seed", "3"), 2, "--set seed: its own option was given, too"),
        (("--max-steps", "3"), 2, "--max-updates"),
    ],
)
def test_the_command_line_says_it_in_one_line(
    options: tuple[str, ...], code: int, message: str
) -> None:
    command = ["train", "sft", "rows.jsonl", "--model", "m", "--out", "o", *options]
    result = CliRunner().invoke(app, command)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, message in line) == (code, True), line


def test_numbers_of_yaml_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("train: {learning_rate: 1e-5}\ngrpo: {beta: 1.5E-3, epochs: 2}\n")
    read = load_settings(file)
    assert (read.train.learning_rate, read.grpo.beta, read.grpo.epochs) == (1e-5, 1.5e-3, 2)
    file.write_text("train: {deepspeed: 1e5.json}\n")
    assert load_settings(file).train.deepspeed == "1e5.json"


def test_settings_are_the_models_that_the_functions_take() -> None:
    sections: dict[str, type[BaseModel]] = {"train": SftConfig, "dpo": DpoConfig}
    sections |= {"grpo": GroupConfig}
    for name, kind in sections.items():
        section = SelfTrainSettings.model_fields[name].annotation
        assert section is not None
        assert issubclass(section, kind)


def test_an_unset_seed_is_the_runs() -> None:
    assert SftConfig().resolve().seed == 0
    assert SftConfig(seed=5).resolve().seed == 5


@pytest.mark.parametrize("names", [("WORLD_SIZE", "RANK"), ("PMI_SIZE", "PMI_RANK")])
def test_processes_as_launchers_count_them(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (processes(), rank()) == (1, 0)
    for name, value in zip(names, ("4", "2"), strict=True):
        monkeypatch.setenv(name, value)
    assert (processes(), rank()) == (4, 2)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP spreads"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism spreads"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM spreads"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "and started one"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
            "stage 3 .*use stage 2",
        ),
    ],
)
def test_launches_that_spread_the_weights(
    said: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=message):
        SftConfig().resolve()


def test_an_address_alone_and_one_process_of_accelerate_are_fine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert SftConfig().resolve().device_batch_size == 16
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert SftConfig().resolve().device_batch_size == 16
    assert "WORLD_SIZE" not in os.environ


@pytest.mark.sources
def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    fields = {*DpoConfig.model_fields, *GroupConfig.model_fields, "template"}
    said = {name: (f"`{name}`", f"`--{name.replace('_', '-')}`") for name in fields}
    assert not [name for name, ways in said.items() if not any(way in page for way in ways)]

"""Models compared: held-out runs paired, both played now, the bridge to lm-eval, and the page."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolgym.cli import app
from toolgym.errors import BadInputError, MissingExtraError, MissingFileError
from toolgym.modeldiff import compare_models
from toolgym.modeldiff.checkpoint import Checkpoint
from toolgym.modeldiff.heldout import compare_families, find_runs
from toolgym.rollouts.runs import Run
from toolgym.rollouts.writing import RunWriter
from toolgym.task import Task
from toolgym.trajectory import Step, Trajectory

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture(scope="module")
def models(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and a copy with one matrix changed by a tenth."""
    tuned = tmp_path_factory.mktemp("models") / "tuned"
    shutil.copytree(tiny_base, tuned)
    state = safetensors.load_file(tuned / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"] *= 1.1
    safetensors.save_file(state, tuned / "model.safetensors", {"format": "pt"})
    return tiny_base, tuned


def recorded(
    folder: Path,
    right: set[int],
    count: int = 20,
    *,
    env: str = "ToolQA-PopQA-v0",
    policy: dict[str, Any] | None = None,
    args: dict[str, Any] | None = None,
) -> Path:
    """A run folder: a question a number, answered rightly where the number is in ``right``."""
    family = env.split("-")[1]
    settings = {
        "env": {"id": env, "args": args or {}},
        "task_source": "mine.jsonl",
        "task_family": family,
        "hashes": {"tasks": family},
        "policy": {"policy": "transformers", "temperature": 0.0} | (policy or {}),
        "episodes": count,
    }
    writer = RunWriter(Run(settings, folder))
    for number in range(count):
        said = "Seine" if number in right else "Thames"
        task = Task(f"t{number}", "Which river?", ("Seine",))
        steps = [Step(said, answer=said)]
        writer.add(Trajectory(task, steps=steps, env_id=env, terminated=True))
    writer.close()
    return folder


def families(before: list[Path], after: list[Path]) -> tuple[list[Any], list[str]]:
    return compare_families(find_runs(before), find_runs(after), ())


def test_families_are_paired_and_corrected_by_hand(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    changes = {  # right before, right after
        "ToolQA-PopQA-v0": (set(), set(range(8))),  # p = 2 / 2**8
        "ToolQA-GSM8K-v0": ({0, 1, 2, 3, 4, 5}, set()),  # p = 2 / 2**6
        "ToolQA-NQOpen-v0": ({0, 1}, {1, 2}),  # p = 1
    }
    for env, (before, after) in changes.items():
        recorded(old / env, before, env=env)
        recorded(new / env, after, env=env)
    # In another order, and from a folder of runs on one side.
    found, warnings = families([old], sorted(new.iterdir(), reverse=True))
    assert warnings == []
    rows = {family.name: (family, family.comparison["accuracy"]) for family in found}
    assert list(rows) == ["GSM8K, greedy", "NQOpen, greedy", "PopQA, greedy"]
    assert rows["PopQA, greedy"][1].p_value == pytest.approx(2 / 2**8)
    assert rows["PopQA, greedy"][0].p_holm == pytest.approx(3 * 2 / 2**8)
    assert rows["GSM8K, greedy"][0].p_holm == pytest.approx(2 * 2 / 2**6)
    assert rows["NQOpen, greedy"][0].p_holm == 1.0
    assert rows["GSM8K, greedy"][1].change == pytest.approx(-0.3)
    assert rows["GSM8K, greedy"][1].high < 0 < rows["PopQA, greedy"][1].low


def test_runs_of_one_environment_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for side, right in (("evaluation-0", {1}), ("evaluation-2", {1, 2, 3})):
        for way, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            for world in ("a", "b"):
                folder = tmp_path / side / f"{world}-{way}"
                recorded(folder, right, policy={"temperature": temperature})
    shutil.copytree(tmp_path / "evaluation-0", tmp_path / "evaluation-1")
    found, warnings = families([tmp_path / "evaluation-0"], [tmp_path / "evaluation-2"])
    assert warnings == []
    assert [family.name for family in found] == [
        "PopQA, greedy (a-greedy)",
        "PopQA, temperature 1 (a-sampled)",
        "PopQA, greedy (b-greedy)",
        "PopQA, temperature 1 (b-sampled)",
    ]
    # The folder of a self-training run stands for its last evaluation, or for its first.
    assert {run.path.parent.name for run in find_runs([tmp_path])} == {"evaluation-2"}
    assert {run.path.parent.name for run in find_runs([tmp_path], first=True)} == {"evaluation-0"}
    with pytest.raises(
        BadInputError, match=r"cannot be paired: .*a-greedy.* in folders of the same"
    ):
        families(
            [tmp_path / "evaluation-0" / "a-greedy"], sorted((tmp_path / "evaluation-2").iterdir())
        )


def test_runs_that_cannot_be_read_or_paired(tmp_path: Path) -> None:
    one = recorded(tmp_path / "one", {1})
    other = recorded(tmp_path / "other", {1}, env="ToolQA-GSM8K-v0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="holds no run"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(MissingFileError, match=r"does not exist \(did you mean 'one'"):
        find_runs([tmp_path / "onee"])
    with pytest.raises(BadInputError, match="no task in common"):
        families([one], [other])
    with pytest.raises(BadInputError, match="stands before and after"):
        families([one], [tmp_path / "one"])
    with pytest.raises(BadInputError, match="cannot be paired"):
        families([one], [one, other])


def test_unlike_runs_are_warned_of(tmp_path: Path) -> None:
    old = recorded(tmp_path / "old", {1}, args={"prompt": "bare"})
    new = recorded(tmp_path / "new", {1}, policy={"temperature": 1.0, "top_p": 0.9})
    _, warnings = families([old], [new])
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "prompt was 'bare' before and 'default' after",
        "temperature was 0.0 before and 1.0 after",
        "top_p was None before and 0.9 after",
    ]


def test_a_run_of_another_model_is_warned_of(models: tuple[Path, Path], tmp_path: Path) -> None:
    from toolgym.policies.local.transformers import TransformersPolicy

    base, tuned = models
    described = [TransformersPolicy(m, temperature=0).describe() for m in (base, tuned)]
    runs = [recorded(tmp_path / f"r{n}", {1}, policy=p) for n, p in enumerate(described)]
    named = [Checkpoint(str(model), model, {}, {}) for model in models]

    def warnings(before: Path, after: Path) -> list[str]:
        return compare_families([Run.open(before)], [Run.open(after)], named)[1]

    assert warnings(*runs) == []
    assert len(warnings(*runs[::-1])) == 2
    assert f"played by {str(tuned)!r}, not by {str(base)!r}" in warnings(*runs[::-1])[0]
    stale = recorded(tmp_path / "stale", {1}, policy=described[0] | {"model_hash": "x"})
    assert "played before the files of" in warnings(stale, runs[1])[0]
    served = recorded(tmp_path / "served", {1}, policy={"policy": "endpoint", "model": "gpt"})
    assert "whether that is" in warnings(served, runs[1])[0]


def test_both_models_play_and_the_page_is_written(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["compare", *map(str, models), "--env", "ToolQA-GSM8K-v0", "--episodes", "3"]
    command += ["--prompt", "bare", "--env-arg", 'tools=["Calculator"]', "--env-arg", "max_steps=2"]
    command += ["--policy-arg", "max_new_tokens=8", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "GSM8K, greedy" in result.stdout
    assert f"page  {out / 'compare.html'}" in result.stdout
    for side, model in zip(("before", "after"), models, strict=True):
        run = Run.open(out / "runs" / f"ToolQA-GSM8K-v0-{side}")
        assert run.settings["policy"]["model"] == str(model)
        assert (len(run), run.settings["policy"]["temperature"]) == (3, 0.0)
    data = json.loads((out / "compare.json").read_text())
    assert data["held_out"][0]["tasks"] == 3
    assert data["warnings"] == []
    changed = [t for t in data["weights"]["tensors"] if t["squared_change"]]
    assert [t["name"] for t in changed] == ["model.layers.1.mlp.up_proj.weight"]
    assert changed[0]["relative"] == pytest.approx(0.1, rel=1e-5)
    page = (out / "compare.html").read_text()
    assert page.count("<svg") == 2
    assert "://" not in page.replace("http://www.w3.org/2000/svg", ""), "nothing is fetched"
    markdown = (out / "compare.md").read_text()
    for name in ("layers.svg", "map.svg"):
        assert f"]({name})" in markdown
        assert (out / name).read_text().startswith("<svg")
    # Played episodes are resumed, not played again: the same figures in no time.
    again = CliRunner().invoke(app, [*command, "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == data


def test_an_adapter_plays_on_its_base(models: tuple[Path, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = models[0]
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses a name that transformers will rename
        peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
        made = compare_models(
            base,
            tmp_path / "adapter",
            envs=["ToolQA-GSM8K-v0"],
            env_args={"prompt": "bare", "max_steps": 1},
            policy_args={"max_new_tokens": 4},
            episodes=2,
        )
    assert made.warnings == []
    assert made.families[0].comparison.tasks == 2
    assert {k for k, c in made.weights.modules().items() if c.moved} == {"attention"}


class FakeLmEval:
    """Answers like ``lm_eval.simple_evaluate``, with figures by model."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **given: Any) -> dict[str, Any]:
        self.asked.append(given)
        if "unknown" in given["tasks"]:
            raise KeyError("Spec 'unknown' is not a registered task")
        right = [1, 0, 0, 1] if len(self.asked) % 2 else [1, 1, 0, 1]
        samples = [
            {"doc_id": n, "filter": "none", "acc": float(hit)} for n, hit in enumerate(right)
        ]
        mean = sum(right) / 4
        return {
            "results": {
                "sums": {
                    "alias": "sums",
                    "acc,none": mean,
                    "acc_stderr,none": 0.03,
                    "name,none": "x",
                },
                "group": {"acc,none": mean, "acc_stderr,none": 0.04, "sample_len": 4},
                "words": {"perplexity,none": 7.0 - mean, "perplexity_stderr,none": "N/A"},
            },
            "samples": {"sums": samples},
            "higher_is_better": {"sums": {"acc": True}, "words": {"perplexity": False}},
        }


@pytest.fixture
def lm_eval(monkeypatch: pytest.MonkeyPatch) -> FakeLmEval:
    fake = FakeLmEval()
    module = types.ModuleType("lm_eval")
    module.simple_evaluate = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    return fake


def test_general_abilities_with_paired_and_unpaired_errors(
    models: tuple[Path, Path], lm_eval: FakeLmEval
) -> None:
    made = compare_models(
        *models, lm_eval=["sums"], limit=4, lm_eval_args={"num_fewshot": 2, "batch_size": 1}
    )
    assert [given["model_args"]["pretrained"] for given in lm_eval.asked] == list(map(str, models))
    for given in lm_eval.asked:
        assert given["model"] == "hf"
        assert (given["tasks"], given["limit"], given["num_fewshot"]) == (["sums"], 4, 2)
        assert given["batch_size"] == 1
    rows = {(row.task, row.metric): row for row in made.abilities}
    assert list(rows) == [("sums", "acc,none"), ("group", "acc,none"), ("words", "perplexity,none")]
    paired = rows["sums", "acc,none"]
    # Differences 0, 1, 0, 0: standard deviation 0.5, over the square root of 4.
    assert (paired.change, paired.error, paired.pairs) == (0.25, pytest.approx(0.25), 4)
    assert paired.higher_is_better is True
    apart = rows["group", "acc,none"]
    assert (apart.error, apart.pairs) == (pytest.approx(0.04 * 2**0.5), 0)
    assert rows["words", "perplexity,none"].error is None
    text = str(made)
    assert "sums, acc,none" in text
    assert "paired, 4 documents" in text


def test_lm_eval_that_is_missing_or_refuses(
    models: tuple[Path, Path], lm_eval: FakeLmEval, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInputError, match=r"lm-eval refuses unknown .KeyError: Spec 'unknown'"):
        compare_models(*models, weights=False, lm_eval=["unknown"])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'toolgym\[lm-eval\]'"):
        compare_models(*models, weights=False, lm_eval=["sums"])


def test_bad_input_of_the_command_is_one_line(models: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = map(str, models)
    run = str(recorded(tmp_path / "run", {1}))

    def error(*arguments: str, code: int = 3) -> str:
        result = CliRunner().invoke(app, ["compare", *arguments])
        assert result.exit_code == code, result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "are the same folder" in error(base, base)
    assert "does not exist" in error(base, str(tmp_path / "nothing"))
    assert "but none after it: name both" in error(base, tuned, "--before", run)
    assert "lies in the model" in error(base, tuned, "--out", f"{tuned}/compared")
    assert "go with --env" in error(base, tuned, "--episodes", "3", code=2)
    assert "go with --env" in error(base, tuned, "--prompt", "bare", code=2)
    assert "--limit goes with --lm-eval" in error(base, tuned, "--limit", "3", code=2)
    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "qwen3"}))
    assert "--no-weights" in error(base, str(other))
    made = CliRunner().invoke(app, ["compare", base, str(other), "--no-weights", "--json"])
    assert json.loads(made.stdout)["weights"] is None


def test_equal_models_say_so(models: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(models[0], tmp_path / "copy")
    made = compare_models(models[0], tmp_path / "copy", out=tmp_path / "out")
    assert "No weight changed" in made.to_markdown()
    assert not list((tmp_path / "out").glob("*.svg"))
    other = tmp_path / "other"
    shutil.copytree(models[1], other)
    (other / "chat_template.jinja").write_text("{{ messages }}")
    assert any("chat templates differ" in w for w in compare_models(models[0], other).warnings)

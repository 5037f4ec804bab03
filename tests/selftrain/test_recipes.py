"""The recipes: what they say, what they would need, and each run on a model of two layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from toolgym import Trajectory, rollout
from toolgym._util.jsonl import read_rows
from toolgym.cli import app
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.formats import get_format
from toolgym.registry import REWARDS
from toolgym.selftrain.settings import SelfTrainSettings, load_settings, preset

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("trl")

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}


def build(folder: Path, family: str) -> Path:
    """Random weights of the recipe's architecture, with its template and its special tokens."""
    from trl import chat_template_utils

    specials, words = (LLAMA, ()) if family == "llama" else (QWEN, QWEN_WORDS)
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(["Thought: Action: Rationale: Answer: Calculator"] * 4, trainer)
    bpe.add_tokens([tokenizers.AddedToken(word, special=False) for word in words])
    end = specials[-1]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=specials[0], eos_token=end, pad_token=specials[0]
    )
    llama = family == "llama"
    tokenizer.chat_template = (
        chat_template_utils.llama3_chat_template
        if llama
        else chat_template_utils.qwen3_chat_template
    )
    config = transformers.AutoConfig.for_model(
        "llama" if llama else "qwen3",
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **SMALL,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from toolgym._util.optional import quiet

    root = tmp_path_factory.mktemp("models")
    with quiet():
        return {family: build(root / family, family) for family in ("llama", "qwen")}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    rows = [{"id": f"q{n}", "question": f"6*{n}?", "answers": [str(6 * n)]} for n in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward for models that are never right: the first of several episodes is."""

    def first_sample(task: Any, trajectory: Trajectory) -> list[float]:
        return [float(trajectory.sample == 0)] + [0.0] * (len(trajectory.steps) - 1)

    monkeypatch.setitem(REWARDS._entries, "first_sample", first_sample)


def small(name: str, model: Path, tasks: Path | None, **changes: Any) -> SelfTrainSettings:
    """A recipe on a small model, with made-up tasks in place of the hub, for one or two steps."""
    plain = load_settings(RECIPES / f"{name}.yaml").model_dump()
    environments = []
    # A guide that asks for a call first leaves no room for an answer in one step.
    steps = 2 if plain["sampling"]["narrow"]["quoted"] else 1
    for environment in plain["environments"]:
        args, source = dict(environment["args"]), {"tasks": "sample"}
        if tasks is not None:
            args = {k: v for k, v in args.items() if k not in ("tasks", "corpus")}
            args["tools"] = [t for t in args["tools"] if "MachineTranslator" not in str(t)]
            source = {"tasks": str(tasks)}
        ways = {way: environment[way] and source for way in ("train", "test")}
        limits = {"train_tasks": 2, "test_tasks": 1}
        environments.append({**environment, "args": {**args, "max_steps": steps}, **ways, **limits})
    sampling = {"max_new_tokens": 8, "max_prompt_tokens": 3000}
    plain |= {"model": str(model), "environments": environments}
    plain["sampling"] = {**plain["sampling"], **sampling}
    for key, value in changes.items():
        merged = isinstance(value, dict) and isinstance(plain[key], dict)
        plain[key] = {**plain[key], **value} if merged else value
    return load_settings(plain)


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def changed(before: Path, after: Path) -> bool:
    one, two = (transformers.AutoModelForCausalLM.from_pretrained(p) for p in (before, after))
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


def test_the_first_papers_recipe_runs_on_a_small_llama(
    models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    from toolgym.selftrain.loop import selftrain

    settings = small(
        "llama3-8b-triviaqa-gsm8k",
        models["llama"],
        tasks,
        filter={"where": None},
        train={"max_updates": 2, "batch_size": 2, "lora": 2},
    )
    selftrain(settings, out=tmp_path / "run")
    found = report(tmp_path / "run")
    trained = found["rounds"][0]["training"]
    assert trained["steps"] == 2
    assert trained["counts"]["token_exact"] == 4
    assert len(found["evaluations"][1]["sampled"]) == 5  # four sets, and all together
    assert changed(models["llama"], tmp_path / "run/round-1/training/model")


@pytest.mark.parametrize("name", ["smollm2", "smollm2-guided"])
def test_the_real_models_recipes_run_on_a_small_llama_3(
    models: dict[str, Path], tasks: Path, tmp_path: Path, name: str
) -> None:
    from toolgym.selftrain.loop import selftrain

    settings = small(
        name,
        models["llama"],
        tasks,
        filter={"where": None, "tools": "any"},
        rounds=1,
        train={"max_updates": 2, "batch_size": 2},
    )
    selftrain(settings, out=tmp_path / "run")
    done = report(tmp_path / "run")["rounds"][0]
    kept = sum(each["kept"] for each in done["selection"].values())
    assert done["training"]["steps"] == 2
    assert done["training"]["counts"]["token_exact"] == kept >= 2
    assert changed(models["llama"], tmp_path / "run/round-1/training/model")


@pytest.mark.parametrize("name", ["smollm2", "smollm2-guided"])
def test_the_real_models_recipes_can_be_planned_for_a_large_one(name: str) -> None:
    call = ["selftrain", str(RECIPES / f"{name}.yaml"), "--dry-run", "--json", "--model"]
    result = CliRunner().invoke(app, [*call, "meta-llama/Meta-Llama-3-8B-Instruct"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["shape"]["parameters"], told["gpu"]) == (8_030_261_248, True)
    assert told["memory"]["playing"]["fits_gib"] == 80
    assert told["memory"]["sft"]["fits_gib"] > 80
    assert [each["method"] for each in told["rounds"]] == ["sft"]


@pytest.mark.usefixtures("halves")
def test_the_first_papers_dpo_recipe_runs_on_a_small_llama(
    models: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    from toolgym.selftrain.loop import selftrain

    settings = small(
        "llama3-8b-dpo",
        models["llama"],
        tasks,
        filter={"where": "first_sample>=1"},
        # A model of random weights calls no tool: the paper's variant that does not ask for one.
        dpo={"max_updates": 1, "batch_size": 2, "pairing": "no_tool_request", "without_tools": 2},
    )
    selftrain(settings, out=tmp_path / "run")
    done = report(tmp_path / "run")["rounds"][0]
    assert done["training"]["steps"] == 1
    assert done["without_tools"]["gsm8k"]["episodes"] == 4
    assert done["selection"]["gsm8k"]["total"] == 6
    rows = [row for _, row in read_rows(tmp_path / "run/round-1/selection/rows.jsonl", "rows")]
    assert rows
    assert all(row["rejected_without_tools"] for row in rows)
    assert changed(models["llama"], tmp_path / "run/round-1/training/model")


def test_the_second_papers_recipe_runs_on_a_small_qwen(
    models: dict[str, Path], tmp_path: Path
) -> None:
    from toolgym.selftrain.loop import selftrain

    grpo = {"max_updates": 1, "batch_size": 4, "generations": 2, "lora": 2, "record_episodes": True}
    settings = small("qwen3-8b-grpo-scenarios", models["qwen"], None, grpo=grpo)
    selftrain(settings, out=tmp_path / "run")
    done = report(tmp_path / "run")["rounds"][0]
    assert done["practice"]["scenarios"]["episodes"] == 2
    assert done["training"]["counts"] == {"episodes": 4}
    assert "solve_f1" in done["training"]["figures"]
    assert "every prefix" in (tmp_path / "run/report.md").read_text(encoding="utf-8")
    played = list((tmp_path / "run/round-1/training/model/episodes").iterdir())
    first = Trajectory.from_row(next(read_rows(played[0], "episodes"))[1])
    assert first.tokens is not None
    text = transformers.AutoTokenizer.from_pretrained(models["qwen"]).decode(
        first.tokens.prompt_ids
    )
    assert text.endswith("assistant\n<think>\n\n</think>\n\n")


def test_qwens_template_renders_earlier_reasoning_anew_where_results_are_questions(
    models: dict[str, Path],
) -> None:
    from toolgym.policies.base import Request
    from toolgym.policies.local.chat import TokenChat

    tokenizer = transformers.AutoTokenizer.from_pretrained(models["qwen"])

    def exact(reply: str, result: str, **template: Any) -> bool:
        """Whether the second turn's prompt begins with the tokens of the first one."""
        chat = TokenChat(tokenizer, template=template)
        asked = [{"role": "user", "content": "6*7?"}]
        answered = [{"role": "assistant", "content": reply}, {"role": "user", "content": result}]
        first, second = (
            Request(
                messages=messages,
                tools=[],
                format=get_format("hermes"),
                seed=0,
                episode="e",
                turn=turn,
            )
            for turn, messages in enumerate((asked, asked + answered))
        )
        prompt = chat.prompts([first])[0]
        said = tokenizer(reply + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert chat.decode(said) == reply  # the marks of reasoning are the model's own words
        chat.keep(first, said, reply)
        after = chat.prompts([second])[0]
        assert isinstance(prompt, list)
        assert isinstance(after, list)
        return after[: len(prompt) + len(said)] == prompt + said

    thought = "<think>\nsix times seven\n</think>\n\n<tool_call>{}</tool_call>"
    plain = "<tool_call>{}</tool_call>"
    result = "<tool_response>\n42\n</tool_response>"
    assert exact(plain, result)
    assert exact(plain, "The result is 42.")
    assert exact(thought, result)  # the template knows a result by these marks
    with pytest.warns(RuntimeWarning, match="rewrites earlier turns"):
        assert not exact(thought, "The result is 42.")
    with pytest.warns(RuntimeWarning, match="rewrites earlier turns"):
        assert not exact(plain, result, enable_thinking=False)


def test_rejected_episodes_come_from_the_run_without_tools(tasks: Path, tmp_path: Path) -> None:
    from toolgym.selftrain.loop import selection
    from toolgym.selftrain.stages import Work, without_tools

    def uses(messages: Any, tools: Any) -> str:
        n = messages[1]["content"].partition("*")[2].partition("?")[0]
        asked = f"Thought: a tool.\nAction: Calculator[6*{n}]"
        return asked if len(messages) == 2 else f"Answer: {6 * int(n)}"

    settings = load_settings(RECIPES / "llama3-8b-dpo.yaml").model_dump()
    settings["environments"] = [
        {
            "id": "ToolQA-GSM8K-v0",
            "args": {"tasks": str(tasks), "tools": ["Calculator"]},
            "train": {},
        }
    ]
    work = Work(load_settings(settings), [], tmp_path)
    work.environments = list(work.settings.environments)
    environment = work.environments[0]
    for name, policy, extra in (
        ("practice", uses, {}),
        ("beside", lambda messages, tools: "Answer: 1", without_tools(environment)),
    ):
        rollout(
            environment.id,
            policy,
            env_args={**environment.args, **extra},
            out=tmp_path / name / environment.label,
        )
    counts = selection(work, "dpo", 1, tmp_path / "practice", tmp_path / "beside", tmp_path)
    assert counts[environment.label]["kept"] == 4
    rows = [row for _, row in read_rows(tmp_path / "rows.jsonl", "rows")]
    assert {row["rejected_without_tools"] for row in rows} == {True}
    assert "Calculator" in rows[0]["prompt"][0]["content"]
    assert rows[0]["chosen"][0]["content"].startswith("Thought: a tool.")
    assert rows[0]["rejected"] == [{"role": "assistant", "content": "Answer: 1"}]
    with pytest.raises(BadInputError, match="without a wrong episode"):
        selection(work, "dpo", 1, tmp_path / "practice", None, tmp_path)


def test_the_ready_settings_are_recipes() -> None:
    assert load_settings(RECIPES / "miniature.yaml") == preset("miniature").settings()
    recipe = load_settings(RECIPES / "llama3-8b-triviaqa-gsm8k.yaml")
    assert recipe == preset("paper").settings(corpus="indexes/wikipedia")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recipe_can_be_planned(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolgym.selftrain.preflight import plan

    monkeypatch.setenv("TOOLGYM_CACHE", str(tmp_path))  # with no model fetched
    settings = load_settings(file)
    found = plan(settings)
    assert found.shape is not None
    playing = {"playing"} if settings.sampling.engine == "local" else set()
    assert set(found.memory) == {*playing, *(each.method for each in found.rounds)}
    assert all(peak.total > peak.weights > 0 for peak in found.memory.values())
    row = json.loads(json.dumps(found.to_row()))
    assert row["model"] == found.model
    if found.model == "miniature":
        assert not found.needs
        assert not found.gpu
    else:
        assert found.gpu is (found.model != "smollm2")
        assert any(found.model in need for need in found.needs)


def test_a_plan_counts_episodes_and_steps() -> None:
    from toolgym.selftrain.preflight import plan

    paper = plan(load_settings(RECIPES / "llama3-8b-triviaqa-gsm8k.yaml"))
    assert paper.shape is not None
    assert paper.shape.parameters == 8_030_261_248
    done = paper.rounds[0]
    assert (done.practice, done.rows, done.steps) == (17_473, 17_473, 3 * 1093)
    dpo = plan(load_settings(RECIPES / "llama3-8b-dpo.yaml")).rounds[0]
    assert (dpo.practice, dpo.rows) == (2 * 17_473, 17_473)
    small_model = plan(load_settings(RECIPES / "miniature-grpo.yaml")).rounds[0]
    assert (small_model.practice, small_model.rows, small_model.steps) == (0, 30 * 256, 30)
    tied = plan(load_settings({"rounds": 2, "methods": ["sft", "dpo"]})).rounds
    assert [each.rows for each in tied] == [2000, 2000]


def test_a_plan_counts_what_each_round_practises_on(tmp_path: Path) -> None:
    from toolgym.cli.training import plan_text
    from toolgym.selftrain.preflight import plan

    place: dict[str, Any] = {"id": "ToolQA-PopQA-v0", "test": {"split": "test"}}
    halves = [{"split": "train", "examples": 2}, {"split": "test"}]
    settings = {"model": "some/model", "samples_per_task": 1, "rounds": 3}

    def practised(train: object) -> list[int | None]:
        made = load_settings({**settings, "environments": [{**place, "train": train}]})
        return [each.practice for each in plan(made).rounds]

    train, test = practised(halves[0]), practised(halves[1])
    assert train != test
    assert practised(halves) == [train[0], test[0], test[0]]
    assert practised([halves[0], halves[0], halves[1]]) == [train[0], train[0], test[0]]
    missing = [halves[0], {"tasks": str(tmp_path / "none.jsonl")}]
    assert practised(missing) == [train[0], None, None]
    with pytest.raises(BadInputError, match="is an empty list"):
        practised([])
    with pytest.raises(BadInputError, match=r"environments.0.train.1 must be a mapping, not 3"):
        practised([halves[0], 3])
    made = load_settings({**settings, "environments": [{**place, "train": halves}]})
    assert f"{train[0]} of sample; then {test[0]} of sample  " in plan_text(plan(made))


def test_a_plan_says_what_is_missing_and_refuses_what_does_not_exist(tmp_path: Path) -> None:
    from toolgym.selftrain.preflight import plan

    environment = {"id": "ToolQA-GSM8K-v0", "args": {"tasks": str(tmp_path / "none.jsonl")}}
    settings = {"model": "someone/unknown", "environments": [environment]}
    found = plan(load_settings(settings))
    assert found.memory == {}
    assert found.rounds[0].practice is None
    assert ["someone/unknown" in found.needs[0], "none.jsonl" in found.needs[1]] == [True, True]
    for args in ({"tools": ["Calculater"]}, {"format": "reakt"}, {"prompt": "no_tools"}):
        with pytest.raises(UnknownNameError, match="did you mean"):
            plan(load_settings({**settings, "environments": [{**environment, "args": args}]}))
    with pytest.raises(UnknownNameError, match="ToolQA-GSM8K-v0"):
        plan(load_settings({**settings, "environments": [{"id": "ToolQA-GSM8k-v0"}]}))


def test_the_command_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = str(RECIPES / "qwen3-8b-grpo-scenarios.yaml")
    call = ["selftrain", recipe, "--dry-run", "--out", str(out)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    for part in ("8,190,735,360 parameters", "smallest GPU", "not on this machine", "grpo"):
        assert part in result.stdout
    assert json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)["gpu"] is True
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As the models' own pages count them.
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("smollm2", 134_515_008),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_known_architectures_have_their_published_sizes(name: str, parameters: int) -> None:
    from toolgym.training.memory import find_shape

    shape = find_shape(name)
    assert shape is not None
    assert shape.parameters == parameters


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21
@pytest.mark.parametrize("lora", [0, 4])
def test_the_parts_of_a_training_are_as_large_as_estimated(
    models: dict[str, Path], lora: int
) -> None:
    """Weights, gradients and optimiser states are exact; activations are held to the right size."""
    from toolgym.training.memory import TrainingSize, shape_of, training_memory

    model = transformers.AutoModelForCausalLM.from_pretrained(models["llama"])
    shape = shape_of(model.config, "test")
    if lora:
        import peft

        model = peft.get_peft_model(
            model, peft.LoraConfig(r=lora, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    size = TrainingSize("sft", 2, 64, lora, checkpointing=False, half=False)
    peak = training_memory(shape, size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, shape.vocabulary, (2, 64))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.get_base_model().model if lora else model.model
        hidden(input_ids=ids).last_hidden_state.sum().backward()
    optimizer.step()
    trained = [p for p in model.parameters() if p.grad is not None]
    states = [s for p in trained for s in optimizer.state[p].values() if s.numel() > 1]
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert peak.weights == held
    head = 0 if lora else shape.vocabulary * shape.hidden  # its loss is not in this pass
    assert peak.gradients == sum(4 * p.numel() for p in trained) + 4 * head
    assert peak.optimizer == sum(4 * s.numel() for s in states) + 8 * head
    assert 0.5 < sum(kept.values()) / _kept(shape, size) < 1.5


def _kept(shape: Any, size: Any) -> float:
    layer = 6 * shape.hidden + 3 * shape.queries + 3 * shape.keys + 4 * shape.inner
    return float(4 * size.rows * size.length * shape.layers * layer)


def test_gradient_checkpointing_adapters_and_half_precision_save_what_they_save() -> None:
    from toolgym.training.memory import Memory, TrainingSize, find_shape, fitting, training_memory

    shape = find_shape("meta-llama/Meta-Llama-3-8B-Instruct")
    assert shape is not None

    def peak(**changes: Any) -> Memory:
        return training_memory(shape, TrainingSize(**{"method": "sft", "rows": 1, **changes}))

    whole, lora = peak(length=8192), peak(length=8192, lora=16)
    assert whole.weights == 4 * shape.parameters
    assert lora.weights == 2 * shape.parameters + 4 * shape.adapters(16)
    assert fitting(lora.total) == 40
    assert fitting(whole.total) == 180
    assert peak(length=8192, lora=16, checkpointing=False).activations > 8 * lora.activations
    assert peak(length=512, method="dpo", reference=True).reference == 4 * shape.parameters
    assert peak(length=512, method="dpo", reference=True, lora=16).reference == 0
    assert fitting(1e15) is None


def test_settings_files_name_data_by_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "model: some/model\nenvironments:\n  - id: ToolQA-PopQA-v0\n"
        "    test: {tasks: '${QUESTIONS}/popqa.jsonl', corpus: 'costs $5'}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("QUESTIONS", "/data")
    (environment,) = load_settings(file).environments
    assert environment.test == {"tasks": "/data/popqa.jsonl", "corpus": "costs $5"}
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("QUESTIONS")
        else:
            monkeypatch.setenv("QUESTIONS", value)
        with pytest.raises(BadInputError, match=r"QUESTIONS.*is not set") as caught:
            load_settings(file)
        assert "job.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)

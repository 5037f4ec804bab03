"""Our environments behind TRL's own environment interface: real steps of a real trainer."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toolgym import Rubric, Task, TaskSet, Tool, ToolEnv, Toolset, Trajectory, get_format
from toolgym.data.chat import conversation
from toolgym.errors import BadInputError, EpisodeEndedError, ReplayMissError
from toolgym.training.trl_environment import TrlEnvironment, trl_environment

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
trl = pytest.importorskip("trl")

# TRL calls the interface experimental, and its libraries deprecate each other's arguments.
pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
LLAMA = (
    "<|begin_of_text|>",
    "<|eom_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

Reply = Callable[[str, int], str]
"""What the scripted model says to a prompt in the place of its batch."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Qwen3's chat template over a small vocabulary that knows our instructions."""
    return make_tokenizer(QWEN, trl.chat_template_utils.qwen3_chat_template)


def make_tokenizer(specials: Sequence[str], template: str) -> Any:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=list(specials),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    env = gym.make("ToolScenario-v0").unwrapped
    assert isinstance(env, ToolEnv)
    documents = [json.dumps(env.tools_for(task).schemas()) for task in env.tasks]
    bpe.train_from_iterator([template, *documents], trainer)
    bpe.add_tokens([tokenizers.AddedToken(word, special=False) for word in WORDS])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=specials[-1], pad_token=specials[0]
    )
    made.chat_template = template
    return made


def tiny_model(tokenizer: Any) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def script(model: Any, tokenizer: Any, reply: Reply) -> None:
    """Put text in the place of sampling; all around it is TRL's own."""

    def generate(input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        said = []
        for place, (row, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            text = reply(tokenizer.decode(row[mask.bool()]), place)
            ids = tokenizer.encode(text, add_special_tokens=False)
            said.append(torch.tensor([*ids, tokenizer.eos_token_id]))
        padded = torch.nn.utils.rnn.pad_sequence(
            said, batch_first=True, padding_value=tokenizer.pad_token_id
        )
        return torch.cat([input_ids, padded], dim=1)

    model.generate = generate


def train(
    world: TrlEnvironment,
    tokenizer: Any,
    reply: Reply,
    out: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    reward_funcs: Sequence[Any] = (),
    environment_factory: Any = None,
    generations: int = 2,
    **config: Any,
) -> tuple[Any, list[Any]]:
    """One step with a scripted model; the trainer, and what each generation gave it."""
    from datasets import Dataset

    model = tiny_model(tokenizer)
    script(model, tokenizer, reply)
    arguments = {
        "per_device_train_batch_size": 2 * generations,
        "num_generations": generations,
        "max_completion_length": 2000,
        "learning_rate": 1e-2,
        "max_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "reward_weights": [*world.reward_weights, *[1.0] * len(reward_funcs)],
        "max_tool_calling_iterations": world.max_tool_calling_iterations,
    }
    trainer = trl.GRPOTrainer(
        model=model,
        args=trl.GRPOConfig(str(out), **(arguments | config)),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(world.rows if rows is None else rows),
        environment_factory=environment_factory or world.environment_factory,
        reward_funcs=[*world.reward_funcs, *reward_funcs],
    )
    generated, real = [], trainer._generate

    def look(prompts: Any) -> Any:
        generated.append(real(prompts))
        return generated[-1]

    trainer._generate = look
    trainer.train()
    return trainer, generated


def last_result(text: str) -> str | None:
    """The tool's words, if they stand right before the reply."""
    before = text.rsplit("<|im_start|>", 2)[1]
    return before.split("<tool_response>\n")[-1].split("\n</tool_response>")[0] * (
        "<tool_response>" in before
    )


def call(name: str, **arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def methods(episode: Any) -> dict[str, Any]:
    """The tools of an environment as TRL finds them."""
    found = [
        getattr(episode, name)
        for name, _ in inspect.getmembers(type(episode), predicate=inspect.isfunction)
        if name not in ("reset", "get_reward") and not name.startswith("_")
    ]
    return {tool.__name__: tool for tool in found}


def score(world: TrlEnvironment, episode: Any, *completion: dict[str, Any]) -> dict[str, Any]:
    """The rewards of one conversation, as TRL asks for them."""
    prompt = [{"role": "user", "content": "q"}]
    given = {"prompts": [prompt], "completions": [list(completion)], "environments": [episode]}
    return {function.__name__: function(**given)[0] for function in world.reward_funcs}


def said(content: str = "", *calls: tuple[str, Any]) -> dict[str, Any]:
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    made = [{"type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": content} | ({"tool_calls": made} if made else {})


def told(name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "name": name, "content": content}


REWARD = {"accuracy": 1.0, "execution_precision": 0.25, "exact_match": 0.0}


@pytest.mark.parametrize(
    ("env_id", "tool", "argument", "value", "result"),
    [
        ("ToolQA-GSM8K-v0", "Calculator", "expression", "(5*100) - 7*45", "185"),
        ("ToolQA-PopQA-v0", "WikipediaSearch", "query", "Marie Curie", "Warsaw"),
    ],
)
def test_a_step_of_trls_trainer_plays_our_tools_and_is_paid_by_our_rewards(
    env_id: str,
    tool: str,
    argument: str,
    value: str,
    result: str,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    world = trl_environment(env_id, {"reward": REWARD, "tools": [tool]})
    env = gym.make(env_id).unwrapped
    assert isinstance(env, ToolEnv)
    gold = {task.question: task.target for task in env.tasks}

    def reply(text: str, place: int) -> str:
        if last_result(text):
            question = next(q for q in gold if q in text)
            return f"That is it.\nAnswer: {gold[question]}"
        if place % 2:  # the other of each pair guesses, and is wrong
            return "Answer: no idea"
        return "Let me see. " + call(tool, **{argument: value})

    trainer, (generated,) = train(world, tokenizer, reply, tmp_path)
    before = tiny_model(tokenizer).state_dict()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)

    log = trainer.state.log_history[0]
    assert log["rewards/accuracy/mean"] == log["rewards/exact_match/mean"] == 0.5
    assert log["rewards/execution_precision/mean"] == 0.5
    assert log["reward"] == pytest.approx(0.5 + 0.25 * 0.5)
    assert (log["tools/call_frequency"], log["tools/error_frequency"]) == (0.5, 0.0)
    assert log["episodes/answered"] == 1.0

    records = [environment.trajectory for environment in trainer.environments]
    tasks = [record.task.id for record in records]
    assert tasks[0] == tasks[1] != tasks[2] == tasks[3]
    assert len({record.id for record in records}) == 4
    for record, ids, mask in zip(records, generated[1], generated[2], strict=True):
        written = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
        read = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if not m])
        if record.sample % 2:
            assert (written, read) == ("Answer: no idea<|im_end|>", "")
        else:
            assert written.count("<|im_end|>") == 2
            assert written.startswith("Let me see. <tool_call>")
            assert result in read
            assert read.strip().startswith("<|im_start|>user\n<tool_response>")
            assert read in tokenizer.decode(ids)
            made, answer = record.steps
            assert [c.arguments for c in made.calls] == [{argument: value}]
            assert result in made.results[0].content
            assert answer.answer == record.task.target
            roles = [message.role for message in record.messages]
            assert roles == ["system", "user", "assistant", "tool", "assistant"]


def test_a_group_plays_a_scenario_with_its_own_nested_tools(tokenizer: Any, tmp_path: Path) -> None:
    world = trl_environment("ToolScenario-v0", {"reward": {"solve_f1": 1.0}}, system="")
    env = gym.make("ToolScenario-v0").unwrapped
    assert isinstance(env, ToolEnv)
    assert isinstance(world.environment_factory, dict)
    assert len(world.environment_factory) == 60
    scenario = reference(0)
    rows = [row for row in world.rows if row["task"] == scenario["id"]]
    used = scenario["calls"][0]

    def reply(text: str, place: int) -> str:
        if last_result(text):
            return f"Answer: {scenario['answers'][0]}"
        if place % 2:
            return "Answer: none"
        return call(used["tool"], **used["arguments"])

    trainer, _ = train(world, tokenizer, reply, tmp_path, rows=rows, per_device_train_batch_size=2)
    log = trainer.state.log_history[0]
    assert log["rewards/solve_f1/mean"] > 0.0
    solved, guessed = (environment.trajectory for environment in trainer.environments)
    assert solved.steps[0].calls[0].arguments == used["arguments"]
    assert solved.steps[0].results[0].error is None
    assert scenario["answers"][0] in solved.steps[0].results[0].content
    assert solved.reward > guessed.reward


def reference(number: int) -> dict[str, Any]:
    from toolgym.envs.toolscenario.environment import scenario_file

    lines = scenario_file("sample").read_text(encoding="utf-8").splitlines()
    row: dict[str, Any] = json.loads(lines[number])
    return row


def test_the_model_is_shown_each_tools_own_document(tokenizer: Any) -> None:
    for env_id in ("ToolQA-TriviaQA-v0", "ToolScenario-v0"):
        env = gym.make(env_id, format="hermes").unwrapped
        assert isinstance(env, ToolEnv)
        world = trl_environment(env)
        factories = world.environment_factory
        for row, task in zip(world.rows, env.tasks, strict=True):
            made = factories[row["environment"]] if isinstance(factories, dict) else factories
            tools, plain = list(methods(made()).values()), env.tools_for(task).schemas()
            assert tools == plain
            shown, expected = (
                tokenizer.apply_chat_template(row["prompt"], tools=given, tokenize=False)
                for given in (tools, plain)
            )
            assert shown == expected
            assert all(json.dumps(tool, ensure_ascii=False) in shown for tool in plain)


def test_the_prompts_are_those_of_exported_native_rows() -> None:
    arguments: dict[str, Any] = {"format": "hermes", "tools": ["WikipediaSearch", "Calculator"]}
    env = gym.make("ToolQA-PopQA-v0", **arguments).unwrapped
    assert isinstance(env, ToolEnv)
    env.reset(seed=3)
    env.step("Answer: none")
    opening, _, tools = conversation(env.trajectory, "native")
    world = trl_environment("ToolQA-PopQA-v0", arguments, system="")
    (row,) = (row for row in world.rows if row["task"] == env.trajectory.task.id)
    assert isinstance(world.environment_factory, type)
    assert row["prompt"] == opening
    shown = list(methods(world.environment_factory()).values())
    assert json.dumps(shown, ensure_ascii=False) == tools


def hang(**options: Any) -> Tool:
    """A tool that waits; its child process need not import this file to find the function."""

    def hang(seconds: float) -> str:
        """Wait.

        Args:
            seconds: how long.
        """
        time.sleep(seconds)
        return "waited"

    return Tool(hang, **options)


def own_env(*tools: Tool, prompt: str = "tools_multi_step", **bounds: Any) -> ToolEnv:
    tasks = TaskSet([Task("a", "How long?", ("42",)), Task("b", "And now?", ("7",))], source="test")
    rubric = Rubric({"accuracy": 1.0, "execution_precision": 1.0})
    return ToolEnv(tasks, Toolset(tools), get_format("hermes", prompt), rubric, **bounds)


def test_a_hanging_tool_is_ended_and_the_step_goes_on(tokenizer: Any, tmp_path: Path) -> None:
    env = own_env(hang(name="wait", timeout=0.3))
    world = trl_environment(env)

    def reply(text: str, place: int) -> str:
        return "Answer: 42" if last_result(text) else call("wait", seconds=600 * (1 - place % 2))

    trainer, _ = train(world, tokenizer, reply, tmp_path)
    log = trainer.state.log_history[0]
    assert (log["tools/error_frequency"], log["tools/failure_frequency"]) == (0.5, 0.0)
    assert log["rewards/execution_precision/mean"] == 0.5
    for environment in trainer.environments:
        record = environment.trajectory
        (result,) = record.steps[0].results
        assert result.error == ("timeout" if record.sample == 0 else None)
        assert record.messages[-2].content == result.content
        assert record.answer == "42"
    env.close()


def test_rows_of_another_environment_are_left_out_and_own_rewards_read_the_record(
    tokenizer: Any, tmp_path: Path
) -> None:
    class Foreign:
        def reset(self, **_: Any) -> None:
            """Nothing to begin."""

    world = trl_environment([own_env(hang()), own_env()])
    assert isinstance(world.environment_factory, dict)
    factory = world.environment_factory | {"other": Foreign}
    row = {"prompt": [{"role": "user", "content": "?"}], "task": "", "split": ""}
    rows = [world.rows[-1], {**row, "environment": "other"}]

    def turns(environments: Any, **_: Any) -> list[float | None]:
        return [None if isinstance(e, Foreign) else len(e.trajectory.steps) for e in environments]

    trainer, _ = train(
        world,
        tokenizer,
        lambda text, place: f"Answer: {7 * (place % 2)}",
        tmp_path,
        rows=rows,
        environment_factory=factory,
        reward_funcs=[turns],
    )
    log = trainer.state.log_history[0]
    assert log["rewards/accuracy/mean"] == 0.5
    assert log["rewards/turns/mean"] == 1.0
    assert log["reward"] == 1.5


def begun(env: ToolEnv) -> tuple[TrlEnvironment, Any, dict[str, Any]]:
    world = trl_environment(env)
    assert isinstance(world.environment_factory, type)
    episode = world.environment_factory()
    episode.reset(**world.rows[0])
    return world, episode, methods(episode)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "hang", "arguments": {"seconds": 42}\n',
        '<tool_call>\n{"name": "hang", "arguments": "42"}\n</tool_call>',
        "<tool_call>\n<function=hang>\n<parameter=seconds>\n42\n</parameter>\n</tool_call>",
        '{"name": "hang", "parameters": {"seconds": 42',
    ],
)
def test_a_call_that_the_template_could_not_read_is_no_answer(text: str) -> None:
    world, episode, _ = begun(own_env(hang()))
    assert score(world, episode, said(text)) == {"accuracy": 0.0, "execution_precision": 0.0}
    record = episode.trajectory
    assert (record.answer, record.terminated, record.truncated) == (None, False, True)
    assert record.steps[0].problems


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("Answer: 42", "42"),
        ("It must be 42.", "It must be 42."),
        ('{"name": "Answer", "value": 42}', '{"name": "Answer", "value": 42}'),
        ("", None),
    ],
)
def test_the_last_reply_is_read_as_hermes_reads_it(content: str, answer: str | None) -> None:
    world, episode, _ = begun(own_env(hang()))
    reply = said(content) | {"reasoning_content": "Answer: 1, or <tool_call> perhaps"}
    assert score(world, episode, reply)["accuracy"] == float(
        content in ("Answer: 42", "It must be 42.")
    )
    assert episode.trajectory.answer == answer
    assert episode.trajectory.steps[0].action.startswith("<think>\nAnswer: 1")


def test_calls_that_never_reached_a_tool_have_results_of_their_kind() -> None:
    world, episode, tools = begun(own_env(hang(inline=True)))
    text, later = tools["hang"](seconds="soon"), tools["hang"](seconds=0)
    missing = str({"error": "Tool sleep not found."})
    completion = [
        said("", ("sleep", {}), ("hang", {"seconds": "soon"}), ("hang", [1]), ("mine", {})),
        *(told("sleep", missing), told("hang", text)),
        *(told("hang", str({"error": "must be a mapping"})), told("mine", "the user's own tool")),
        *(said("", ("hang", {"seconds": 0})), told("hang", later)),
        said("Answer: 42"),
    ]
    assert score(world, episode, *completion) == {"accuracy": 1.0, "execution_precision": 0.4}
    assert [result.error for result in episode.trajectory.steps[1].results] == [None]
    results = episode.trajectory.steps[0].results
    kinds = ["unknown_tool", "invalid_arguments", "invalid_arguments", None]
    assert [result.error for result in results] == kinds
    assert "seconds" in results[1].content
    ids = [c.id for c in episode.trajectory.steps[0].calls]
    assert ids == [result.call_id for result in results] == [f"call_{n}" for n in range(4)]


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {1: 2}], ids=str)
def test_arguments_that_json_cannot_hold_reach_neither_tool_nor_record(value: Any) -> None:
    world, episode, tools = begun(own_env(hang(inline=True)))
    text = tools["hang"](seconds=value)
    assert text.startswith("Error: the call is not valid JSON (its argument 'seconds'")
    completion = [said("", ("hang", {"seconds": value})), told("hang", text), said("Answer: 42")]
    score(world, episode, *completion)
    assert episode.trajectory.steps[0].results[0].error == "invalid_arguments"
    assert Trajectory.from_row(json.loads(episode.trajectory.to_line())) == episode.trajectory


PIECES = st.sampled_from(
    [
        "",
        "Answer: 42",
        call("hang", seconds=0),
        "<tool_call>\n{",
        "</think>",
        '{"name": "hang"',
        "é",
    ]
)
CALLS = st.tuples(
    st.sampled_from(["hang", "other"]),
    st.sampled_from([{"seconds": 0}, {"seconds": float("nan")}, {"": 1}, {}, [0], "0", None]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PIECES, st.lists(CALLS, max_size=3), st.booleans()), max_size=12))
@example([("", [("hang", {"seconds": 0})], False), ("", [("hang", {"seconds": 0})], True)])
def test_any_conversation_can_be_read_and_every_call_has_its_result(turns: Any) -> None:
    world, episode, tools = begun(own_env(hang(inline=True)))
    completion = []
    for content, calls, answered in turns:
        completion.append(said(content, *calls))
        for name, arguments in calls if answered else ():
            text = "no"
            if name in tools and isinstance(arguments, dict):
                text = tools[name](**arguments)
            completion.append(told(name, text))
    rewards = score(world, episode, *completion)
    record = episode.trajectory
    assert rewards["execution_precision"] <= len(record.steps) <= 8
    for step in record.steps:
        assert [c.id for c in step.calls] == [result.call_id for result in step.results]
        for made, result in zip(step.calls, step.results, strict=True):
            good = (made.name, str(made.arguments)) == ("hang", "{'seconds': 0}")
            assert (result.content == "waited") == (result.error is None and good)
    assert all(step.answer is None for step in record.steps[:-1])
    if record.answer is not None:
        assert not record.steps[-1].calls


def test_processes_that_train_together_number_their_episodes_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        world, episode, _ = begun(own_env())
        score(world, episode, said("42"))
        found.append(episode.trajectory.id)
        episode.reset(**world.rows[0])
        score(world, episode, said("42"))
        found.append(episode.trajectory.id)
    assert found == ["a#0", "a#2", "a#1", "a#3"]


def test_results_that_did_not_fit_are_kept_and_calls_that_were_not_run_are_not() -> None:
    world, episode, tools = begun(own_env(hang(inline=True)))
    tools["hang"](seconds=0)
    score(world, episode, said("", ("hang", {"seconds": 0})))
    (step,) = episode.trajectory.steps
    assert (step.results[0].content, step.observation) == ("waited", "")
    episode.reset(**world.rows[0])
    score(world, episode, said("", ("hang", {"seconds": 0})))
    (step,) = episode.trajectory.steps
    assert not step.calls
    assert [problem.kind for problem in step.problems] == ["not_executed"]


@pytest.mark.parametrize(
    ("bounds", "turns"),
    [({"max_steps": 2}, 1), ({"max_steps": 1}, 0), ({"prompt": "tools_single_step"}, 1), ({}, 7)],
)
def test_what_is_said_beyond_the_environments_end_earns_nothing(
    bounds: dict[str, Any], turns: int
) -> None:
    world, episode, tools = begun(own_env(hang(inline=True), **bounds))
    assert world.max_tool_calling_iterations == turns
    completion = []
    for _ in range(turns + 1):
        tools["hang"](seconds=0)
        completion += [said("", ("hang", {"seconds": 0})), told("hang", "waited")]
    assert score(world, episode, *completion, said("Answer: 42"))["accuracy"] == 0.0
    assert len(episode.trajectory.steps) == turns + 1
    assert episode.trajectory.truncated


def test_long_results_are_cut_for_the_policy_and_whole_in_the_record() -> None:
    def long(times: int) -> str:
        """Say it often.

        Args:
            times: how often.
        """
        return "x" * times

    world, episode, tools = begun(own_env(Tool(long, inline=True), max_result_chars=10))
    text = tools["long"](times=500)
    assert text == f"{'x' * 10} [cut: 500 characters]"
    score(world, episode, said("", ("long", {"times": 500})), told("long", text), said("7"))
    assert episode.trajectory.steps[0].results[0].content == "x" * 500
    assert episode.long(times=3) == "xxx"


def test_names_that_trl_keeps_for_itself_may_be_tools() -> None:
    tools = [hang(name=n, inline=True) for n in ("reset", "get_reward", "_hidden", "a-b")]
    world, episode, found = begun(own_env(*tools))
    assert list(found) == ["reset", "get_reward", "_hidden", "a-b"]
    assert [tool(seconds=0) for tool in found.values()] == ["waited"] * 4
    assert score(world, episode, said("42")) == {"accuracy": 1.0, "execution_precision": 0.0}


def test_without_tools_the_instructions_do_not_speak_of_them() -> None:
    world = trl_environment("ToolQA-GSM8K-v0", {"prompt": "no_tool"})
    assert isinstance(world.environment_factory, type)
    assert methods(world.environment_factory()) == {}
    system, question = world.rows[0]["prompt"]
    assert "function" not in system["content"]
    assert "Answer: ..." in system["content"]
    bare = trl_environment("ToolQA-GSM8K-v0", {"prompt": "bare"})
    assert bare.rows[0]["prompt"] == [question]
    assert trl_environment("ToolQA-GSM8K-v0", system="").rows[0]["prompt"] == [question]


def test_what_is_no_tools_failure_ends_the_step_instead_of_being_told(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"tools": ["Calculator"]}
    service = {"cassette": str(tmp_path / "cassette.jsonl"), "mode": "record"}
    env = gym.make("ToolQA-GSM8K-v0", **arguments, service=service)
    env.reset(seed=1)
    env.close()
    world = trl_environment(
        "ToolQA-GSM8K-v0", arguments | {"service": service | {"mode": "replay"}}
    )
    assert isinstance(world.environment_factory, type)
    episode = world.environment_factory()
    episode.reset(**world.rows[0])
    text = methods(episode)["Calculator"](expression="6*7")
    assert "cassette" not in text
    with pytest.raises(ReplayMissError):
        score(world, episode, said("", ("Calculator", {})), told("Calculator", text))


def test_llamas_template_shows_the_tools_and_its_calls_are_read(tmp_path: Path) -> None:
    template = trl.chat_template_utils.llama3_1_chat_template
    tokenizer = make_tokenizer(LLAMA, template)
    world = trl_environment("ToolQA-GSM8K-v0", {"tools": ["Calculator"], "format": "llama3"})

    def reply(text: str, place: int) -> str:
        if "ipython" in text.rsplit("<|start_header_id|>", 2)[1]:
            return "Answer: 42"
        return '{"name": "Calculator", "parameters": {"expression": "6*7"}}'

    trainer, _ = train(world, tokenizer, reply, tmp_path)
    for environment in trainer.environments:
        assert environment.trajectory.steps[0].results[0].content == "42"
        assert environment.trajectory.answer == "42"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trl_environment("ToolQA-GSM8K-v0", {"format": "react"}), "train_grpo"),
        (lambda: trl_environment("ToolQA-GSM8K-v0", {"examples": 1}), "without worked examples"),
        (lambda: trl_environment(own_env(), {"max_steps": 3}), "where the environment is made"),
        (lambda: trl_environment("ToolQA-GSM8K-v0", {"reward": {}}), "no reward with a weight"),
        (lambda: trl_environment([]), "no reward with a weight"),
        (lambda: trl_environment(["ToolQA-GSM8K-v0", own_env()]), "need the same rewards"),
        (lambda: trl_environment(gym.make("CartPole-v1")), "ToolEnv"),
        (
            lambda: begun(own_env())[1].reset(prompt=[]),
            "column 'task'",
        ),
        (lambda: begun(own_env())[1].reset(task="z"), "no task 'z'"),
        (lambda: begun(own_env())[1]._read([], "text"), "chat messages"),
    ],
)
def test_what_cannot_work_is_one_clear_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_rewards_and_records_need_the_environments() -> None:
    world, episode, _ = begun(own_env())
    with pytest.raises(BadInputError, match="environment_factory"):
        world.reward_funcs[0](prompts=[], completions=[])
    with pytest.raises(EpisodeEndedError, match="put yours behind it"):
        _ = episode.trajectory


def test_neither_trl_nor_torch_is_loaded_to_make_one() -> None:
    code = (
        "import sys; from toolgym.training.trl_environment import trl_environment as make; "
        "make('ToolQA-GSM8K-v0'); "
        "print([m for m in ('trl', 'torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

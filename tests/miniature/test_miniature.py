"""The miniature: world, demonstrations, tokenizer, template, pre-training and the cached base."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolgym.errors import BadInputError
from toolgym.formats import get_format
from toolgym.miniature import demonstrations, phrasings
from toolgym.miniature.model import BaseSettings, build_model
from toolgym.miniature.phrasings import calculate
from toolgym.miniature.preset import base_key, build_base
from toolgym.miniature.pretrain import (
    PretrainingError,
    _probe_rows,
    encode,
    loss_of,
    pretrain,
    tool_accuracy,
)
from toolgym.miniature.world import SHARES, SPLITS, World, finder
from toolgym.tools.calculator.tool import calculate as calculator

TINY = BaseSettings.tiny()
BEHAVIOURS = {"direct", "right", "wrong", "malformed", "miscopied"}


@pytest.fixture(scope="module")
def world() -> World:
    return World(0)


@pytest.fixture(scope="module")
def shown(world: World) -> list[tuple[Any, str, demonstrations.Chat]]:
    """Problems with the behaviour and the conversation drawn for them."""
    rng = random.Random(1)
    drawn = []
    for _ in range(3000):
        problem = world.problem(rng, "demo")
        drawn.append((problem, *demonstrations.demonstration(world, problem, rng)))
    return drawn


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_products_come_before_sums() -> None:
    assert calculate((47, 36, 5), "*+") == 47 * 36 + 5
    assert calculate((5, 47, 36), "+*") == 5 + 47 * 36
    assert calculate((10, 2, 3), "--") == 5
    assert calculate((10, 2, 3), "-*") == 4


@pytest.mark.parametrize(("numbers", "symbols"), [((1, 2), "**"), ((1, 2), "/"), ((), "")])
def test_a_calculation_that_is_none_is_refused(numbers: tuple[int, ...], symbols: str) -> None:
    with pytest.raises(BadInputError, match="numbers do not go with"):
        calculate(numbers, symbols)


def test_every_operation_has_phrasings_shown_and_held_out() -> None:
    for symbols, texts in phrasings.ARITHMETIC.items():
        assert len(set(texts)) == len(texts) >= 5 + phrasings.HELD_OUT
        for text in texts:
            places = [text.index("{" + name + "}") for name in "abc"[: len(symbols) + 1]]
            assert places == sorted(places), "the call has the numbers in reading order"
    for texts in (phrasings.ENTITY, phrasings.HOME):
        assert len(set(texts)) == len(texts) >= 3 + phrasings.HELD_OUT


def test_gold_answers_are_what_the_calculator_tool_says(world: World) -> None:
    rng = random.Random(3)
    for problem in world.problems(rng, "test", 300, "arithmetic"):
        (step,) = problem.steps
        assert calculator(step.argument) == step.result == problem.answer
        assert all(str(number) in problem.question for number in problem.numbers)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    first = World(5).write(tmp_path / "a", 40, 30)
    again = World(5).write(tmp_path / "b", 40, 30)
    other = World(6).write(tmp_path / "c", 40, 30)
    assert list(first) == list(again)
    assert [p.read_bytes() for p in first.values()] == [p.read_bytes() for p in again.values()]
    assert all(first[name].read_bytes() != other[name].read_bytes() for name in first)


def test_more_training_questions_leave_the_test_as_it_was(tmp_path: Path) -> None:
    few, many = World(0).write(tmp_path / "a", 10, 30), World(0).write(tmp_path / "b", 50, 30)
    for name in ("arithmetic-test", "entities-test", "scenarios-test", "passages"):
        assert few[name].read_bytes() == many[name].read_bytes()


def test_files_have_the_shares_and_the_columns_promised(world: World, tmp_path: Path) -> None:
    paths = world.write(tmp_path, 500, 200)
    names = [f"{k}-{s}" for s in ("train", "test", "heldout") for k in SHARES]
    assert list(paths) == [*names, "passages"]
    counts = [200, 150, 150, 80, 60, 60, 80, 60, 60, 3600]
    assert [len(rows_of(path)) for path in paths.values()] == counts
    tasks = [row for name, path in paths.items() if name != "passages" for row in rows_of(path)]
    assert {tuple(row) for row in tasks if "functions" not in row} == {
        ("id", "question", "answers")
    }
    assert all(len(row["answers"]) == 1 and isinstance(row["answers"][0], str) for row in tasks)
    assert (
        len({row["id"] for row in tasks}) == len(tasks) == len({row["question"] for row in tasks})
    )
    assert {tuple(row) for row in rows_of(paths["passages"])} == {("id", "title", "text")}


def test_splits_share_neither_entities_nor_numbers(world: World) -> None:
    names = [set(world.entities(split)) for split in SPLITS]
    assert [len(part) for part in names] == [300, 300, 300]
    assert len(set.union(*names)) == 900
    people = [set(world.people(split)) for split in SPLITS]
    assert set.union(*people) == set(world.homes)
    assert [len(part) for part in people] == [300, 300, 300]
    rng = random.Random(0)
    numbers: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        drawn = [world.problem(rng, split) for _ in range(2000)]
        named = {p.steps[0].argument for p in drawn if p.family == "home"}
        assert named <= set(world.people(split))
        assert {p.entity for p in drawn if p.entity} <= set(world.entities(split))
        numbers[split] = {p.numbers for p in drawn if p.numbers}
    assert not any(numbers[a] & numbers[b] for a, b in itertools.combinations(SPLITS, 2))


def test_held_out_phrasings_are_never_shown(world: World) -> None:
    def form(problem: Any) -> str:
        text = problem.question.replace(problem.entity or "\0", "E")
        if problem.family == "home":
            text = text.replace(problem.steps[0].argument, "E")
        words = (*phrasings.PEOPLE, *phrasings.OBJECTS, *phrasings.RELATIONS)
        words += tuple(phrasings.RELATIONS.values())
        return " ".join(
            "X" if w.strip("?.,") in words or w.strip("?.,").isdigit() else w for w in text.split()
        )

    rng = random.Random(0)
    shown = {form(world.problem(rng, split)) for split in ("demo", "train") for _ in range(2000)}
    held = {form(world.problem(rng, "test", held_out=True)) for _ in range(2000)}
    # Homes are asked for both of a person and of "the founder of" something.
    assert len(held) == 2 * (len(phrasings.ARITHMETIC) + 1 + 2)
    assert not shown & held


def test_asking_for_too_many_questions_says_how_many_there_are(world: World) -> None:
    with pytest.raises(BadInputError, match=r"only \d+ different entities questions"):
        world.problems(random.Random(0), "test", 5000, "entities")


def test_bm25_finds_every_fact_and_only_that(world: World) -> None:
    import bm25s

    texts = [row["text"] for row in world.passages()]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    wanted = [(r, e, p) for e, people in world.facts.items() for r, p in people.items()]
    queries = bm25s.tokenize([f"{r} of {e}" for r, e, _ in wanted], show_progress=False)
    found, scores = index.retrieve(queries, k=2, show_progress=False)
    for (relation, entity, person), best in zip(wanted, found[:, 0], strict=True):
        assert texts[best] == f"The {relation} of {entity} is {person}."
    assert (scores[:, 0] > scores[:, 1] + 0.1).all(), "no ties that an order of rows would decide"


def test_scenarios_hold_and_their_tools_lead_to_the_answers(world: World, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from toolgym.cli import app

    files = world.write(tmp_path, 40, 40)
    for split in ("train", "test", "heldout"):
        checked = CliRunner().invoke(app, ["scenarios", "check", str(files[f"scenarios-{split}"])])
        assert checked.exit_code == 0, checked.output
        assert "all 12 scenarios hold" in checked.output
    shapes = Counter(len(row["calls"]) for row in rows_of(files["scenarios-train"]))
    assert set(shapes) == {1, 2}


def test_demonstrations_mix_behaviour_as_promised(shown: list[Any]) -> None:
    counts = Counter(behaviour for _, behaviour, _ in shown)
    assert set(counts) == BEHAVIOURS
    tools = len(shown) - counts["direct"]
    assert 0.45 < tools / len(shown) < 0.60
    assert 0.60 < counts["right"] / tools < 0.72
    assert 0.14 < counts["wrong"] / tools < 0.22


def test_what_is_called_right_is_right_and_the_rest_mostly_is_not(shown: list[Any]) -> None:
    hits: dict[str, list[bool]] = {behaviour: [] for behaviour in BEHAVIOURS}
    for problem, behaviour, chat in shown:
        hits[behaviour].append(chat[-1]["content"].endswith(f"\nAnswer: {problem.answer}"))
    assert all(hits["right"])
    assert not any(hits["miscopied"])
    for behaviour, most in (("direct", 0.15), ("wrong", 0.1), ("malformed", 0.2)):
        assert sum(hits[behaviour]) / len(hits[behaviour]) < most


def test_calls_are_read_by_the_environments_format(shown: list[Any]) -> None:
    codec = get_format("react", "bare")
    for problem, behaviour, chat in shown[:500]:
        action = codec.parse(chat[1]["content"])
        if behaviour == "direct":
            assert action.answer is not None
            assert not action.calls
        elif behaviour in ("right", "miscopied"):
            for place, step in enumerate(problem.steps):
                (call,) = codec.parse(chat[1 + 2 * place]["content"]).calls
                assert (call.name, *call.arguments.values()) == (step.tool, step.argument)
            assert codec.parse(chat[-1]["content"]).answer is not None
        elif "could not be used" in chat[2]["content"]:
            assert chat[2]["content"] == codec.complaint(action.problems).content


def test_the_drill_copies_what_it_is_given() -> None:
    rng = random.Random(0)
    for _ in range(200):
        given, copied = (turn["content"] for turn in demonstrations.copy_drill(rng))
        plain = copied.removeprefix("Copied: ").strip("[]").replace(" of ", " ")
        for symbol in "*+-":
            plain = plain.replace(symbol, " ")
        assert given == f"Copy: {plain}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("cache"), 0, TINY)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base)


def test_the_mask_covers_the_assistants_text_and_its_end(tokenizer: Any, shown: list[Any]) -> None:
    for _, _, chat in shown[:200]:
        (row,) = encode(tokenizer, [chat])
        written = [token for token, mine in zip(row.ids, row.mask, strict=True) if mine]
        spoken = [turn["content"] + "<|end|>" for turn in chat if turn["role"] == "assistant"]
        assert tokenizer.decode(written) == "".join(spoken)


def test_a_longer_conversation_begins_with_the_shorter_one(
    tokenizer: Any, shown: list[Any]
) -> None:
    chat = next(chat for _, behaviour, chat in shown if behaviour == "right")
    whole = tokenizer.apply_chat_template(chat)["input_ids"]
    for length in range(1, len(chat)):
        asks = chat[length]["role"] == "assistant"
        part = tokenizer.apply_chat_template(chat[:length], add_generation_prompt=asks)["input_ids"]
        assert whole[: len(part)] == part


def test_digits_are_single_tokens_and_text_comes_back(tokenizer: Any, shown: list[Any]) -> None:
    assert tokenizer.tokenize("[4712*36]") == ["[", "4", "7", "1", "2", "*", "3", "6", "]"]
    for text in (*(turn["content"] for _, _, chat in shown[:50] for turn in chat), "Zoë: ½\n\n☃ "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_native_tool_calls_are_rendered_and_read_back(tokenizer: Any) -> None:
    named = {"name": "Calculator"}
    function: dict[str, Any] = {**named, "arguments": {"expression": "1+1"}}
    call = {"type": "function", "function": function}
    tool = {"type": "function", "function": {**named, "parameters": {"type": "object"}}}
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1+1?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    text = tokenizer.apply_chat_template(chat, tools=[tool], tokenize=False)
    reply = f"<tool_call>{json.dumps(function)}</tool_call><|end|>"
    assert text.startswith("<|system|>Be brief.\n\nTools:\n{")
    assert text.count("<|system|>") == 1
    assert reply + "<|user|><tool_response>2</tool_response><|end|><|assistant|>2<|end|>" in text
    assert tokenizer.parse_response(reply, prefix="<|assistant|>")["tool_calls"] == [call]
    # An OpenAI client sends the arguments back as JSON text.
    function["arguments"] = '{"expression": "1+1"}'
    assert reply in tokenizer.apply_chat_template(chat, tools=[tool], tokenize=False)


def test_the_default_network_has_about_a_million_weights(tokenizer: Any) -> None:
    import torch

    before = torch.random.get_rng_state()
    first, again, other = (build_model(tokenizer, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert 800_000 < first.num_parameters() < 1_200_000
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_the_probe_is_the_probability_of_the_tokens_after_the_choice(
    tokenizer: Any, model: Any, world: World
) -> None:
    rows = _probe_rows(tokenizer, demonstrations.lessons(world), 0)[:3]
    for row in rows:
        text = tokenizer.decode([i for i, mine in zip(row.ids, row.mask, strict=True) if mine])
        first = ("Calculator", "WikipediaSearch", "home_of", *map(finder, phrasings.RELATIONS))
        assert text.startswith(tuple(f" {name}[" for name in first))
        assert "]<|end|>Thought: the tool says " in text
    # One token of one row keeps the number large enough to compare.
    first = rows[0].mask.index(1)
    rows[0].mask[first + 1 :] = [0] * (len(rows[0].mask) - first - 1)
    loss, tokens = loss_of(model, rows[:1])
    assert tokens == 1
    assert tool_accuracy(model, rows[:1]) == pytest.approx(float((-loss.detach()).exp()), rel=1e-4)


def test_padding_changes_no_loss(tokenizer: Any, model: Any, shown: list[Any]) -> None:
    rows = encode(tokenizer, [chat for _, _, chat in shown[:8]])
    together = loss_of(model, rows)[0].item()
    assert together == pytest.approx(sum(loss_of(model, [r])[0].item() for r in rows), rel=1e-4)


def test_pretraining_lowers_the_loss(tokenizer: Any, world: World, shown: list[Any]) -> None:
    fresh = build_model(tokenizer, hidden=32, layers=2, heads=2)
    rows = encode(tokenizer, [chat for _, _, chat in shown[:32]])
    before = loss_of(fresh, rows)[0].item()
    seen: list[Any] = []
    settings = replace(TINY, demonstration_cap=60, settle_steps=20)
    accuracy = pretrain(
        fresh, tokenizer, demonstrations.lessons(world), settings, progress=seen.append
    )
    assert loss_of(fresh, rows)[0].item() < 0.75 * before
    assert 0 <= accuracy <= 1
    assert [p.step for p in seen if p.stage == "demonstrations"] == [10, 20, 30, 40, 50, 60]
    assert not fresh.training


@pytest.mark.parametrize(
    ("change", "named"),
    [({"drill_loss": 0.0}, "drill_cap=2"), ({"required": 0.9}, "demonstration_cap=2")],
)
def test_not_learning_within_the_cap_is_an_error_that_names_it(
    change: dict[str, float], named: str, tmp_path: Path
) -> None:
    with pytest.raises(PretrainingError, match=named):
        build_base(tmp_path, 0, replace(TINY, **change))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_base_loads_and_writes_replies_that_end(base: Path, model: Any, tokenizer: Any) -> None:
    import torch

    assert type(model).__name__ == "LlamaForCausalLM"
    asked = [[{"role": "user", "content": f"Question: {text}"}] for text in ("1?", "Who owns it?")]
    inputs = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True
    )
    torch.manual_seed(0)
    out = model.generate(**inputs, max_new_tokens=8)
    assert out.shape[0] == 2
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 8
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"
    card = json.loads((base / "miniature.json").read_text())
    assert card["parameters"] == model.num_parameters()


def test_a_base_is_built_once_and_then_reused(base: Path) -> None:
    written = (base / "model.safetensors").stat().st_mtime_ns
    calls: list[Any] = []
    assert build_base(base.parent, 0, TINY, calls.append) == base
    assert (base / "model.safetensors").stat().st_mtime_ns == written
    assert not calls
    assert base.name == base_key(0, TINY)
    assert len({base_key(0, TINY), base_key(1, TINY), base_key(0)}) == 3


def test_the_same_seed_gives_the_same_base(base: Path, tmp_path: Path) -> None:
    again = build_base(tmp_path, 0, TINY)
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (base / name).read_bytes()


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1, "the build works beside its target"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base(tmp_path, 0, TINY, interrupt)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    settings = replace(TINY, drill_cap=80, demonstration_cap=70, target=2.0)
    seen: list[tuple[str, int]] = []

    def watch(progress: Any) -> None:
        seen.append((progress.stage, progress.step))
        if (progress.stage, progress.step) == ("demonstrations", 60):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base(tmp_path / "a", 0, settings, watch)
    (work,) = (tmp_path / "a").iterdir()
    assert [path.name for path in work.iterdir()] == ["checkpoint"]
    resumed: list[tuple[str, int]] = []
    first = build_base(tmp_path / "a", 0, settings, lambda p: resumed.append((p.stage, p.step)))
    assert resumed[0] == ("demonstrations", 50)
    assert list((tmp_path / "a").iterdir()) == [first]
    second = build_base(tmp_path / "b", 0, settings)
    weights = "model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()


def test_whoever_comes_second_waits_and_takes_the_base_of_the_first(tmp_path: Path) -> None:
    began, calls = threading.Event(), list[Any]()
    with ThreadPoolExecutor(1) as pool:

        def second(_: object) -> None:
            if not began.is_set():
                began.set()
                later.append(pool.submit(build_base, tmp_path, 0, TINY, calls.append))

        later: list[Future[Path]] = []
        first = build_base(tmp_path, 0, TINY, second)
        assert later[0].result() == first
    assert not calls
    assert list(tmp_path.iterdir()) == [first]


def test_what_a_killed_build_left_is_taken_over(base: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from toolgym.miniature import model, preset\n"
        "preset.move_in = lambda made, target: os.kill(os.getpid(), signal.SIGKILL)\n"
        "preset.build_base(sys.argv[1], 0, model.BaseSettings.tiny())"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f".{base.name}-building"]
    built = build_base(tmp_path, 0, TINY)
    assert list(tmp_path.iterdir()) == [built]
    assert sorted(p.name for p in built.iterdir()) == sorted(p.name for p in base.iterdir())


def test_the_world_needs_no_torch() -> None:
    code = (
        "import sys, toolgym.miniature.world, toolgym.miniature.demonstrations\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

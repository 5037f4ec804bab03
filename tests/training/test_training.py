"""Training: which tokens the loss falls on, real TRL trainers on real rows, and resuming."""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import toolgym
from toolgym import Trajectory, export
from toolgym._util.hashes import value_hash
from toolgym._util.spool import Spool
from toolgym.data.export import IGNORED
from toolgym.errors import BadInputError, MissingExtraError, RunMismatchError, TemplateError
from toolgym.messages import Message
from toolgym.training.encoding import encode_chat, end_tokens, spans, wrong_span
from toolgym.training.loop import check_version, dataset_of
from toolgym.training.sft import prepare, train_sft
from toolgym.trajectory import Tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

CALL = "Thought: I compute.\nAction: Calculator[6*7]"
RIGHT = "Thought: the tool says 42.\nAnswer: 42"
CHAT = [
    {"role": "user", "content": "What is 6*7?"},
    {"role": "assistant", "content": CALL},
    {"role": "user", "content": "Response from tool Calculator[6*7] are: 42"},
    {"role": "assistant", "content": RIGHT},
]
PLAIN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[Trajectory]:
    """Right episodes with a tool call, and wrong ones without, of twenty questions."""
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    rows = [
        {"id": f"q{n}", "question": f"What is 6*{n}?", "answers": [str(6 * n)]} for n in range(20)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    env = gym.make(
        "ToolQA-GSM8K-v0", tasks=str(file), tools=["Calculator"], prompt="bare"
    ).unwrapped
    played = []
    for n in range(20):
        for sample, replies in enumerate(
            (
                [f"Thought: a tool.\nAction: Calculator[6*{n}]", f"Answer: {6 * n}"],
                [f"Answer: {6 * n + 1}"],
            )
        ):
            env.reset(options={"task": f"q{n}", "sample": sample})
            for reply in replies:
                env.step(reply)
            played.append(env.trajectory)  # type: ignore[attr-defined]
    return played


def test_rows_that_lie_on_disk_make_the_same_data_set(
    episodes: list[Trajectory], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(episodes, out=tmp_path / "rows.jsonl.zst")
    held = prepare(episodes, tokenizer, max_length=None)
    monkeypatch.setattr(Spool.__init__, "__defaults__", (5,))
    more = [{"input_ids": [1, 2], "labels": [IGNORED, IGNORED]}]
    for source in (episodes, tmp_path / "rows.jsonl.zst"):
        spooled = prepare(source, tokenizer, max_length=None)
        assert "on disk" in repr(spooled.rows)
        assert spooled.fingerprint() == held.fingerprint() == value_hash(list(held.rows))
        assert (spooled.counts, spooled.trained_tokens) == (held.counts, held.trained_tokens)
        made, expected = (
            dataset_of(rows, tmp_path / "work", more) for rows in (spooled.rows, held.rows)
        )
        assert made.features == expected.features
        assert list(made) == list(expected) == [*held.rows, *more]


def said(tokenizer: Any, labels: list[int]) -> list[str]:
    return [tokenizer.decode(labels[begin:end]) for begin, end in spans(labels)]


def test_the_labels_are_the_assistants_words_with_their_end(tokenizer: Any) -> None:
    encoded = encode_chat(tokenizer, CHAT)
    assert said(tokenizer, encoded.labels) == [f"{CALL}<|end|>", f"{RIGHT}<|end|>"]
    assert all(i == t for i, t in zip(encoded.input_ids, encoded.labels, strict=True) if t >= 0)


def test_prefixes_give_what_marks_give(tokenizer: Any) -> None:
    marked = encode_chat(tokenizer, CHAT)
    template = tokenizer.chat_template
    for mark in ("{%- generation %}", "{%- endgeneration %}"):
        assert mark in template
        template = template.replace(mark, "")
    tokenizer.chat_template = template
    assert encode_chat(tokenizer, CHAT) == marked


def test_what_stands_behind_the_end_token_is_not_trained(tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN
    encoded = encode_chat(tokenizer, CHAT)
    assert said(tokenizer, encoded.labels) == [f"{CALL}<|end|>", f"{RIGHT}<|end|>"]
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert tokenizer.decode(encoded.input_ids) == rendered


def test_an_end_token_outside_the_mark_is_taken_in(tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN.replace(
        "{{ m.content }}",
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}",
    )
    encoded = encode_chat(tokenizer, CHAT)
    assert said(tokenizer, encoded.labels) == [f"{CALL}<|end|>", f"{RIGHT}<|end|>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PLAIN.replace("<|end|>", ""), "without an end token"),
        (PLAIN.replace("{{ m.content }}", "{{ m.content if loop.last else '' }}"), "rewrites"),
        (PLAIN.replace("{{ m.content }}", ""), "leaves assistant texts out"),
        ("{{ raise_exception('no tools') }}", "refuses a conversation: TemplateError: no tools"),
        (None, "has no chat template"),
        (
            "{% generation %}" + PLAIN + "{% endgeneration %}{{ messages[4].text.strip() }}",
            "refuses a conversation: UndefinedError",
        ),
    ],
)
def test_templates_that_cannot_be_trained_on(
    tokenizer: Any, template: str | None, message: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=message):
        encode_chat(tokenizer, CHAT)


def loss(model: Any, input_ids: list[int], labels: list[int]) -> float:
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([input_ids]), labels=torch.tensor([labels]))
    return float(out.loss)


def test_a_tool_results_token_is_no_target_and_an_assistants_is(
    tiny_base: Path, tokenizer: Any
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_base).eval()

    def targets(place: int, text: str) -> list[int]:
        changed = [dict(chat) for chat in CHAT]
        changed[place]["content"] = changed[place]["content"][:-1] + text
        encoded = encode_chat(tokenizer, changed)
        return encoded.labels

    encoded = encode_chat(tokenizer, CHAT)
    before = loss(model, encoded.input_ids, encoded.labels)
    # The inputs stay as they are; only what is to be predicted comes from the changed conversation.
    assert loss(model, encoded.input_ids, targets(2, "3")) == before
    assert loss(model, encoded.input_ids, targets(3, "3")) != before


def test_the_mask_check_sees_a_shifted_or_a_foreign_mask(tokenizer: Any) -> None:
    encoded = encode_chat(tokenizer, CHAT)
    ends = end_tokens(tokenizer)

    def problem(labels: list[int]) -> str | None:
        return wrong_span(tokenizer, labels, encoded.texts, ends, must_end=True)

    assert problem(encoded.labels) is None
    first, *_ = spans(encoded.labels)
    cut = list(encoded.labels)
    cut[first[1] - 1] = IGNORED
    assert "without its end token" in str(problem(cut))
    wide = list(encoded.labels)
    wide[first[0] - 1] = encoded.input_ids[first[0] - 1]
    assert "the trained tokens say" in str(problem(wide))
    assert "0 trained spans for 2" in str(problem([IGNORED] * len(cut)))


def exact(tokenizer: Any, trajectory: Trajectory) -> Trajectory:
    """The episode as if its policy had said its tokens."""
    encoded = encode_chat(tokenizer, [m.to_chat() for m in trajectory.messages])
    begin = next(spans(encoded.labels))[0]
    mask = [int(label != IGNORED) for label in encoded.labels[begin:]]
    made = Trajectory.from_row(trajectory.to_row())
    made.tokens = Tokens(encoded.input_ids[:begin], encoded.input_ids[begin:], mask, None, "t")
    return made


def test_token_exact_rows_pass_unchanged(tokenizer: Any, episodes: list[Trajectory]) -> None:
    played = [exact(tokenizer, episode) for episode in episodes[:4]]
    prepared = prepare([*played, episodes[5]], tokenizer, max_length=None)
    assert prepared.counts == {"token_exact": 4, "retokenised": 1}
    tokens = played[0].tokens
    assert tokens is not None
    assert prepared.rows[0]["input_ids"] == tokens.prompt_ids + tokens.completion_ids
    again = prepare(episodes[:4], tokenizer, max_length=None)
    assert again.rows == prepared.rows[:4]


def test_tokens_of_another_tokenizer_are_refused(
    tokenizer: Any, episodes: list[Trajectory]
) -> None:
    played = [exact(tokenizer, episode) for episode in episodes[:4]]
    for trajectory in played:
        assert trajectory.tokens is not None
        trajectory.tokens.completion_ids = [i + 20 for i in trajectory.tokens.completion_ids]
    with pytest.raises(TemplateError, match="4 of 4 rows are not what the assistant said"):
        prepare(played, tokenizer, max_length=None)


def test_markers_inside_a_reply_leave_the_row_out(
    tokenizer: Any, episodes: list[Trajectory]
) -> None:
    played = [exact(tokenizer, episode) for episode in episodes[:4]]
    tokens = played[1].tokens
    assert tokens is not None
    marker = tokenizer.convert_tokens_to_ids("<|user|>")
    tokens.completion_ids.insert(2, marker)
    tokens.mask.insert(2, 1)
    prepared = prepare(played, tokenizer, max_length=None)
    assert prepared.counts == {"token_exact": 3, "tokens that say more than the reply": 1}


def test_too_long_rows_are_left_out_and_counted(tokenizer: Any, episodes: list[Trajectory]) -> None:
    lengths = [len(row["input_ids"]) for row in prepare(episodes, tokenizer, max_length=None).rows]
    limit = sorted(lengths)[len(lengths) // 2]
    prepared = prepare(episodes, tokenizer, max_length=limit)
    assert prepared.counts[f"longer than {limit} tokens"] == sum(n > limit for n in lengths)
    with pytest.raises(BadInputError, match="no row to train on: 40 longer than 3 tokens"):
        prepare(episodes, tokenizer, max_length=3)
    with pytest.raises(BadInputError, match="this one has question"):
        prepare([{"question": "?"}], tokenizer, max_length=None)
    with pytest.raises(BadInputError, match="2 input_ids and 1 labels"):
        prepare([{"input_ids": [1, 2], "labels": [1]}], tokenizer, max_length=None)


def weights(folder: Path) -> dict[str, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "learning_rate": 1e-3,
    "max_updates": 10,
    "save_every": 3,
}


def test_training_learns_stops_at_its_steps_and_is_found_again(
    tiny_base: Path, episodes: list[Trajectory], tmp_path: Path
) -> None:
    seen: list[tuple[int, int, str]] = []
    made = train_sft(
        episodes, tiny_base, tmp_path / "model", **OPTIONS, progress=lambda *now: seen.append(now)
    )
    assert made.steps == 10
    assert [step for step, _, _ in seen] == list(range(1, 11))
    first, last = (float(note.split()[1]) for note in (seen[1][2], seen[-1][2]))
    assert last < first
    assert not same(weights(tiny_base), weights(made.path))
    assert not (tmp_path / "model.partial").exists()
    assert train_sft(episodes, tiny_base, tmp_path / "model", **OPTIONS) == made
    with pytest.raises(RunMismatchError, match="begun with rows"):
        train_sft(episodes[:20], tiny_base, tmp_path / "model", **OPTIONS)
    with pytest.raises(RunMismatchError, match="not a model that toolgym trained"):
        train_sft(episodes, tiny_base, tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"device_batch_size": 0}, "device_batch_size must be at least 1, not 0"),
        ({"lora": -4}, "lora must be at least 0, not -4"),
        ({"epochs": float("nan")}, "epochs must be a finite number, not nan"),
        ({"batch_size": 8, "device_batch_size": 3}, "not a multiple of device_batch_size 3"),
    ],
)
def test_numbers_out_of_range_are_one_clear_line(
    tiny_base: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        train_sft([], tiny_base, tmp_path / "model", **wrong)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    tiny_base: Path, episodes: list[Trajectory], tmp_path: Path
) -> None:
    whole = train_sft(episodes, tiny_base, tmp_path / "whole", **OPTIONS)

    def interrupt(step: int, steps: int, note: str) -> None:
        if step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(episodes, tiny_base, tmp_path / "cut", **OPTIONS, progress=interrupt)
    # What a kill leaves: a newer checkpoint without its mark.
    (tmp_path / "cut.partial" / "checkpoint-7").mkdir()
    steps: list[int] = []
    again = train_sft(
        episodes,
        tiny_base,
        tmp_path / "cut",
        **OPTIONS,
        progress=lambda step, *_: steps.append(step),
    )
    assert steps == [7, 8, 9, 10]
    assert same(weights(whole.path), weights(again.path))
    assert again.loss == whole.loss


def test_lora_trains_and_is_merged_into_a_plain_folder(
    tiny_base: Path, episodes: list[Trajectory], tmp_path: Path
) -> None:
    rows = export(episodes, out=tmp_path / "rows.jsonl")
    made = train_sft(
        tmp_path / "rows.jsonl",
        tiny_base,
        tmp_path / "model",
        lora=True,
        max_updates=2,
        batch_size=8,
    )
    assert made.counts == {"retokenised": len(rows)}
    assert set(weights(made.path)) == set(weights(tiny_base))
    assert not same(weights(tiny_base), weights(made.path))
    assert json.loads((made.path / "training.json").read_text())["options"]["lora"] == 16


@pytest.mark.parametrize("version", ["1.15.2", "2.0.0", "0.9"])
def test_other_versions_of_trl_are_refused(version: str) -> None:
    with pytest.raises(MissingExtraError, match=f"trl {version} is outside the tested range"):
        check_version(version)
    assert check_version("1.16.0.dev0") == "1.16.0.dev0"


@pytest.mark.filterwarnings("ignore")
def test_exported_sft_rows_train_ten_steps_in_trl(
    tiny_base: Path, tokenizer: Any, episodes: list[Trajectory], tmp_path: Path
) -> None:
    import datasets
    import trl

    export(episodes, out=tmp_path / "rows.jsonl")
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    trainer = trl.SFTTrainer(
        model=str(tiny_base),
        args=trl.SFTConfig(**trl_options(tmp_path), assistant_only_loss=True),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 10
    assert trainer.state.log_history[-1]["train_loss"] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pairing", ["first_turn", "whole", "no_tool_request"])
def test_exported_pairs_train_ten_steps_in_trl(
    tiny_base: Path, tokenizer: Any, episodes: list[Trajectory], tmp_path: Path, pairing: str
) -> None:
    import datasets
    import trl

    assert len(export(episodes, "dpo", pairing=pairing, out=tmp_path / "pairs.jsonl")) == 20
    rows = datasets.load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    trainer = trl.DPOTrainer(
        model=str(tiny_base),
        args=trl.DPOConfig(**trl_options(tmp_path), beta=0.5),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 10
    rewards = [row["rewards/margins"] for row in trainer.state.log_history if "loss" in row]
    assert rewards[-1] > 0


def trl_options(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"),
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def test_native_conversations_are_encoded_through_the_template(tokenizer: Any) -> None:
    call = toolgym.ToolCall("call_0", "Calculator", {"expression": "6*7"})
    chats = [
        Message("user", "What is 6*7?").to_chat(),
        Message("assistant", "I compute.", (call,)).to_chat(),
        Message("tool", "42", (), "call_0", "Calculator").to_chat(),
        Message("assistant", "Answer: 42").to_chat(),
    ]
    encoded = encode_chat(tokenizer, chats, [])
    first, second = said(tokenizer, encoded.labels)
    assert first == (
        'I compute.<tool_call>{"name": "Calculator", "arguments": {"expression": "6*7"}}'
        "</tool_call><|end|>"
    )
    assert second == "Answer: 42<|end|>"
    prepared = prepare([{"messages": chats, "tools": "[]"}], tokenizer, max_length=None)
    assert prepared.counts == {"retokenised": 1}


def test_only_learned_tokens_are_scored(
    tiny_base: Path,
    episodes: list[Trajectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU, too; the model is the one that scoring all tokens gives, but for rounding."""
    helpers = importlib.import_module("trl.trainer.utils")
    counts: list[int] = []

    plain = helpers._ChunkedLogProbFunction

    class Counting(plain):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, hidden: Any, *rest: Any) -> Any:
            counts.append(len(hidden))
            return plain.forward(ctx, hidden, *rest)

    monkeypatch.setattr(helpers, "_ChunkedLogProbFunction", Counting)
    options = {**OPTIONS, "max_updates": 5}  # one epoch
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base)
    made = train_sft(episodes, tiny_base, tmp_path / "alone", **options)
    rows = prepare(episodes, tokenizer, max_length=None).rows
    learned = sum(label != IGNORED for row in rows for label in row["labels"][1:])
    assert sum(counts) == learned
    monkeypatch.setattr("toolgym.training.loop._learned_alone", contextlib.nullcontext)
    counts.clear()
    all_scored = train_sft(episodes, tiny_base, tmp_path / "all", **options)
    assert sum(counts) > 2 * learned
    assert made.loss == pytest.approx(all_scored.loss, abs=1e-4)
    one, other = (
        transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (made.path, all_scored.path)
    )
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], atol=1e-4), name

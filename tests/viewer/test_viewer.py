"""The page of episodes and rows: what stands in it, what does not, and what is shown of it."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import math
import re
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgym
from toolgym.data.conditions import MEASURES, measure
from toolgym.errors import BadInputError, MissingFileError, UnknownNameError
from toolgym.evaluation.intervals import mcnemar
from toolgym.formats import get_format
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.registry import REWARDS
from toolgym.rollouts.runs import Run
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Tokens, Trajectory
from toolgym.viewer import page as page_module
from toolgym.viewer import view_html
from toolgym.viewer.episodes import Reader, Shared, parts
from toolgym.viewer.rows import describe_row, record_of, token_texts

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)> <!-- {{style}} {{script}} ]]>",
    "\u2028 \u202e \x00 \x1b[31m \ud800 <b>",
)


class Parsed(HTMLParser):
    """What a browser sees of the file before any script runs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self._in = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag in ("script", "style")
        if self._in:
            self.inside.append("")

    def handle_data(self, data: str) -> None:
        if self._in:
            self.inside[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = False

    def content(self, tag: str, **wanted: str) -> str:
        """Of the one script or style with such attributes."""
        held = [(name, attrs) for name, attrs in self.tags if name in ("script", "style")]
        pairs = zip(held, self.inside, strict=True)
        (found,) = [
            text for (name, attrs), text in pairs
            if name == tag and wanted.items() <= attrs.items() and bool(wanted) == bool(attrs)
        ]  # fmt: skip
        return found


def unpacked(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index, and all items in their order."""
    parsed = Parsed(file.read_text(encoding="utf-8"))

    def block(name: str) -> Any:
        data = parsed.content("script", type="application/octet-stream", id=name)
        return json.loads(zlib.decompress(base64.b64decode(data, validate=True), -15))

    index = block("index")
    items = [block(f"b{number}") for number in range(len(index["blocks"]))]
    assert [len(each) for each in items] == index["blocks"]
    return index, [item for each in items for item in each]


def column(index: dict[str, Any], name: str) -> list[float]:
    found, count = index["columns"][name], len(index["ids"])
    return [found["all"]] * count if isinstance(found, dict) else found


def episode(text: str = "Paris", **fields: Any) -> Trajectory:
    """An episode with everything that one can have."""
    call = ToolCall("call_0", "lookup", {"place": text, "deep": {"a": [1, text]}})
    result = ToolResult("call_0", text, "tool_error", detail=text, fault="slow", added_seconds=1.5)
    steps = [
        Step(
            f"<think>I look, {text}</think>\ncall it",
            calls=(call, replace(call, id="call_1")),
            results=(result, ToolResult("call_1", "", empty=True)),
            problems=(Problem("bad_json", text),),
            observation=f"The tool says {text}.",
            reward_parts={"accuracy": 0.0},
            seconds=0.25,
            cut=True,
            state_hash="h",
            state_diff=({"path": ["a", 0], "before": 1, "after": text},),
            user=text,
            user_calls=(call,),
            user_results=(result,),
            appeared=({"type": "function", "function": {"name": "more"}},),
        ),
        Step(f"Answer: {text}", answer=text, reward=1.0, reward_parts={"accuracy": 1.0}),
    ]
    whole = {
        "task": Task("t", f"Which town? {text}", (text,), {"s_pop": 3}, "test"),
        "messages": [
            Message("user", f"Which town? {text}"),
            Message("assistant", steps[0].action),
            Message("user", steps[0].observation),
            Message("assistant", steps[1].action),
        ],
        "steps": steps,
        "tools": [{"type": "function", "function": {"name": "lookup", "parameters": {}}}],
        "env_id": "Towns-v0",
        "format": "react",
        "terminated": True,
        "state": {"a": [text]},
        "metrics": {"seen": 0.5},
    }
    return Trajectory(**(whole | fields))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Sixty episodes of thirty questions, in a folder."""
    out = tmp_path_factory.mktemp("runs") / "lookup"
    return toolgym.rollout("ToolQA-PopQA-v0", "lookup", episodes=60, samples_per_task=2, out=out)


def test_the_page_holds_every_episode_and_its_numbers(run: Run, tmp_path: Path) -> None:
    index, items = unpacked(view_html(run, tmp_path / "page.html"))
    episodes = run.trajectories()
    assert index["ids"] == [t.id for t in episodes] == [item["id"] for item in items]
    assert [index["titles"][task] for task in index["tasks"]] == [t.task.question for t in episodes]
    assert index["answers"] == [t.answer for t in episodes]
    assert ["Policy", '{"policy": "lookup"}'] in index["about"][0]
    for item, played in zip(items, episodes, strict=True):
        assert ["".join(step["say"]) for step in item["steps"]] == [s.action for s in played.steps]
        assert [s["reward"] for s in item["steps"]] == [s.reward for s in played.steps]
        assert item["gold"] == list(played.task.answers)
        opening = [index["shared"][chat["$"]] if "$" in chat else chat for chat in item["opening"]]
        assert opening == [m.to_chat() for m in played.messages[: played.opening]]
        assert index["shared"][item["tools"]["$"]] == played.tools


def test_every_name_of_a_condition_has_its_column_or_the_reason(run: Run, tmp_path: Path) -> None:
    index, _ = unpacked(view_html(run, tmp_path / "page.html"))
    episodes = run.trajectories()
    known = {*MEASURES, *REWARDS}
    assert known == index["columns"].keys() | index["missing"].keys()
    assert not index["columns"].keys() & index["missing"].keys()
    for name in index["columns"]:
        assert column(index, name) == [measure(name)(t) for t in episodes], name
    assert "no goal over a state" in index["missing"]["goal_reached"]
    with pytest.raises(BadInputError, match="no goal over a state"):
        toolgym.select(run, where="goal_reached>=1")


def test_metrics_that_some_episodes_have_are_columns(tmp_path: Path) -> None:
    episodes = [episode(metrics={}), episode(metrics={"seen": 0.5, "accuracy": 7.0}), episode()]
    index, _ = unpacked(view_html(episodes, tmp_path / "page.html"))
    assert column(index, "seen") == ["-inf", 0.5, 0.5]
    assert measure("seen", episodes)(episodes[0]) == -math.inf
    assert column(index, "accuracy") == [1, 1, 1]  # the reward, as in a condition


def test_all_of_an_episode_is_in_its_record(tmp_path: Path) -> None:
    _, (item,) = unpacked(view_html([episode()], tmp_path / "page.html"))
    first, last = item["steps"]
    assert first["say"] == ["", "<think>I look, Paris</think>", "\ncall it"]
    assert first["calls"][0] == {
        "name": "lookup",
        "arguments": {"place": "Paris", "deep": {"a": [1, "Paris"]}},
        "content": "Paris",
        "error": "tool_error",
        "detail": "Paris",
        "fault": "slow",
        "added_seconds": 1.5,
    }
    assert first["calls"][1] == {
        "name": "lookup", "arguments": first["calls"][0]["arguments"],
        "nothing": True,
    }  # fmt: skip
    assert first["problems"] == [["bad_json", "Paris"]]
    assert first["changes"] == [{"path": ["a", 0], "before": 1, "after": "Paris"}]
    assert (first["user"], first["cut"], first["seconds"]) == ("Paris", True, 0.25)
    assert first["user_calls"][0]["error"] == "tool_error"
    assert first["read"] == ["The tool says ", 0, "."]
    assert first["appeared"][0]["function"]["name"] == "more"
    assert (last["answer"], last["parts"]) == ("Paris", {"accuracy": 1.0})
    assert (item["ended"], item["state"], item["task"]) == (
        "answered",
        {"a": ["Paris"]},
        {"s_pop": 3},
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_was_written_stands_in_the_page_as_markup(text: str, tmp_path: Path) -> None:
    plain = view_html([episode()], tmp_path / "plain.html", title="a")
    hostile = episode(text, env_id=text, format=text)
    file = view_html([hostile], tmp_path / "hostile.html", title=text.replace("\ud800", ""))
    parsed = Parsed(file.read_text(encoding="utf-8"))
    assert parsed.tags == [
        (tag, attrs if "http-equiv" not in attrs else parsed.tags[3][1])
        for tag, attrs in Parsed(plain.read_text(encoding="utf-8")).tags
    ]
    raw = file.read_text(encoding="utf-8")
    assert "alert(1)" not in re.sub(r"<title>.*?</title>", "", raw, flags=re.S)
    assert "alert(1)</script>" not in raw
    _, (item,) = unpacked(file)
    assert item["answer"] == text
    assert item["steps"][1]["say"][-1].endswith(text)


def test_the_policy_of_the_page_admits_its_own_script_only(tmp_path: Path) -> None:
    parsed = Parsed(view_html([episode()], tmp_path / "p.html").read_text(encoding="utf-8"))
    metas = [attrs for tag, attrs in parsed.tags if tag == "meta" and "http-equiv" in attrs]
    policy = dict(part.strip().split(" ", 1) for part in str(metas[0]["content"]).split(";"))

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == hashed(parsed.content("script"))
    assert policy["style-src"] == hashed(parsed.content("style"))
    assert policy["trusted-types"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    for tag, attrs in parsed.tags:  # nothing is fetched, and nothing inline could run
        assert not {name for name in attrs if name.startswith("on") or name in ("src", "style")}
        assert tag not in ("link", "img", "iframe", "base", "object")


def test_the_script_makes_no_markup_of_texts() -> None:
    folder = Path(page_module.__file__).parent
    for name in page_module._SCRIPTS:
        script = (folder / name).read_text(encoding="utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "fetch(",
        ):
            assert word not in script, f"{name}: {word}"
        assert "Function(" not in script
        assert "<!--" not in script
        assert "</" not in script


def test_blocks_are_small_and_keep_the_order(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "BLOCK", 5000)
    index, items = unpacked(view_html(run, tmp_path / "page.html"))
    assert len(index["blocks"]) > 5
    assert [item["id"] for item in items] == index["ids"]


def test_episodes_are_written_one_at_a_time(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Trajectory] = weakref.WeakSet()
    most = 0

    class Watched(Trajectory):
        """A record that can be watched: the slots of its base have no place for that."""

        __slots__ = ("__weakref__",)
        __hash__ = object.__hash__

    class Many:
        def trajectories(self) -> Iterator[Trajectory]:
            nonlocal most
            for number in range(40):
                made = Watched(episode().task, episode().messages, episode().steps, sample=number)
                alive.add(made)
                gc.collect()
                most = max(most, len(alive))
                yield made
                del made

    told: list[tuple[int, int]] = []
    file = view_html(Many(), tmp_path / "p.html", progress=lambda *counts: told.append(counts))
    assert len(unpacked(file)[1]) == 40
    assert most <= 3
    assert told[-1] == (40, 0)


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    file = view_html([episode()], tmp_path / "page.html")
    before = file.read_bytes()

    class Torn:
        def trajectories(self) -> Iterator[Trajectory]:
            yield episode()
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        view_html(Torn(), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@given(st.text(), st.text(max_size=5), st.sampled_from(["<think>", "<reasoning>", "", "[THINK]"]))
def test_the_parts_of_a_reply_are_the_reply(text: str, thought: str, mark: str) -> None:
    close = {"<think>": "</think>", "<reasoning>": "</reasoning>", "[THINK]": "[/THINK]"}.get(
        mark, ""
    )
    reply = f"{text}{mark}{thought}{close}{text[:3]}"
    assert "".join(parts(reply, thought)) == reply
    assert "".join(parts(text, thought)) == text


def test_reasoning_is_told_from_what_is_said() -> None:
    reply = "<think>one </think>said<think>two</think> more"
    assert parts(reply, "") == ["", "<think>one </think>", "said", "<think>two</think>", " more"]
    assert parts("before</think>after", "") == ["", "before</think>", "after"]
    assert parts("only a thought", "only a thought") == ["only a thought"]
    reply = "Thought: look it up\nAction: Calculator[1+1]"
    thought = get_format("react").parse(reply).thought
    assert parts(reply, thought) == ["Thought: ", "look it up", "\nAction: Calculator[1+1]"]


@given(
    st.lists(st.text(alphabet="ab \n", max_size=6), max_size=4),
    st.lists(st.text(alphabet="ab \n", max_size=4), max_size=4),
)
def test_what_was_read_next_can_be_put_together(texts: list[str], results: list[str]) -> None:
    calls = tuple(ToolCall(str(n), "f", {}) for n in range(len(results)))
    given_back = tuple(ToolResult(str(n), text) for n, text in enumerate(results))
    observation = "".join(a + b for a, b in zip(texts, results, strict=False)) + "".join(texts)
    step = Step("x", calls, given_back, observation=observation)
    record = Reader().record(episode(steps=[step]))["steps"][0]
    joined = [part if isinstance(part, str) else results[part] for part in record.get("read", [])]
    assert "".join(joined) == observation


def test_what_episodes_share_is_held_once_and_never_without_bound() -> None:
    shared = Shared()
    texts = [f"{number:3}" + "x" * 200 for number in range(100)]
    first = [shared.one(text) for text in texts]
    assert [shared.one(text) for text in texts] == first
    assert len(shared.values) == 64
    assert first[:64] == [{"$": n} for n in range(64)]
    assert first[64:] == texts[64:]
    assert shared.one("short") == "short"


def changed(run: Run) -> list[Trajectory]:
    """Another run of the same tasks, in which every third answer is another."""
    found = []
    for number, played in enumerate(run):
        if played.sample == 0:
            answer = "nobody" if number % 3 == 0 else played.task.target
            last = replace(played.steps[-1], action=f"Answer: {answer}", answer=answer)
            found.append(replace(played, steps=[*played.steps[:-1], last]))
    return found


def test_two_runs_stand_side_by_side_with_the_test_of_compare(run: Run, tmp_path: Path) -> None:
    after = [played for played in run if played.sample == 0]
    before = changed(run)
    index, items = unpacked(view_html(after, tmp_path / "page.html", against=before))
    head, cells = toolgym.compare(before, after).table()
    assert (index["against"]["head"], index["against"]["rows"]) == (list(head), cells)
    begin = index["against"]["begin"]
    assert (begin, len(items)) == (len(after), len(after) + len(before))
    assert index["tasks"][:begin] == index["tasks"][begin:]
    # The marks of the list are what the test counts.
    right = column(index, "accuracy")
    pairs = list(zip(right[begin:], right[:begin], strict=True))
    gained, lost = pairs.count((0, 1)), pairs.count((1, 0))
    assert gained
    assert toolgym.compare(before, after)["accuracy"].p_value == mcnemar(lost, gained)


def test_a_page_against_another_run_may_hold_some_tasks_only(run: Run, tmp_path: Path) -> None:
    file = view_html(run, tmp_path / "p.html", against=changed(run), where="accuracy<1")
    index, _ = unpacked(file)
    begin = index["against"]["begin"]
    assert 0 < begin < 60
    assert set(index["tasks"][begin:]) == set(index["tasks"][:begin])
    assert "all tasks" in index["against"]["lines"][-1]


def test_runs_of_one_name_are_told_apart(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other" / "lookup"
    toolgym.rollout("ToolQA-PopQA-v0", "lookup", episodes=4, out=other)
    index, _ = unpacked(view_html(run, tmp_path / "p.html", against=other))
    assert index["against"]["names"] == [f"{run.path.parent.name}/lookup", "other/lookup"]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["kept", "kept.jsonl", "kept.jsonl.zst"])
def test_whatever_filter_wrote_is_read(run: Run, name: str, tmp_path: Path) -> None:
    kept = toolgym.select(run, where="accuracy>=1")
    kept.write(tmp_path / name, compress=name == "kept")
    index, items = unpacked(view_html(tmp_path / name, tmp_path / "page.html"))
    assert [item["id"] for item in items] == [t.id for t in kept]
    assert any(fact[0] == "Filter" and "accuracy>=1" in fact[1] for fact in index["about"][0])


def test_conditions_choose_what_a_page_holds(run: Run, tmp_path: Path) -> None:
    some = unpacked(view_html(run, tmp_path / "a.html", where="accuracy<1"))[0]["ids"]
    same = view_html(run, tmp_path / "b.html", where=lambda t: measure("accuracy")(t) < 1)
    assert 0 < len(some) < 60
    assert unpacked(same)[0]["ids"] == some


def test_what_cannot_be_shown_is_one_line(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "sft.jsonl"
    toolgym.export(run, "sft", out=rows)
    target = tmp_path / "page.html"
    with pytest.raises(MissingFileError, match="does not exist"):
        view_html(tmp_path / "no.jsonl", target)
    with pytest.raises(BadInputError, match="no finished episode"):
        view_html([], target)
    with pytest.raises(BadInputError, match="steps>=99"):
        view_html(run, target, where="steps>=99")
    with pytest.raises(UnknownNameError, match="did you mean"):
        view_html(run, target, where="acuracy>=1")
    with pytest.raises(BadInputError, match="for episodes"):
        view_html(rows, target, where="accuracy>=1")
    with pytest.raises(BadInputError, match="for episodes"):
        view_html(rows, target, against=run)
    with pytest.raises(BadInputError, match="no task in common"):
        view_html(run, target, against=[episode()])
    with pytest.raises(BadInputError, match="name the file"):
        view_html(run, tmp_path)
    assert not target.exists()


def test_rows_of_messages_say_what_is_learned(run: Run, tmp_path: Path) -> None:
    toolgym.export(run, "sft", out=tmp_path / "rows")
    index, items = unpacked(view_html(tmp_path / "rows", tmp_path / "page.html"))
    assert index["kind"] == "rows"
    for item in items:
        (section,) = item["sections"]
        for message in section["messages"]:
            assert message.get("mask") == ("learned" if message["role"] == "assistant" else None)
    words = [sum(len(s.action.split()) for s in t.steps) for t in run]
    assert column(index, "learned_words") == words


def test_pairs_and_prefixes_say_what_is_learned(tmp_path: Path) -> None:
    def chat(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    prompt = [chat("user", "first"), chat("assistant", "an example"), chat("user", "now")]
    pair = {
        "prompt": prompt,
        "chosen": [chat("assistant", "yes")],
        "rejected": [chat("assistant", "no no")],
    }
    prefix = {
        "id": "p@1",
        "prompt": prompt,
        "completion": [chat("assistant", "three words here")],
        "turn": 1,
    }
    record = record_of(pair, 7, describe_row)
    masks = {s["name"]: [m.get("mask") for m in s["messages"]] for s in record["sections"]}
    assert masks == {"prompt": [None] * 3, "chosen": ["learned"], "rejected": ["rejected"]}
    assert (record["id"], record["question"]) == ("line 7", "first")
    _, text = describe_row(pair) or ("", "")
    assert "+ assistant: yes" in text
    assert "- assistant: no no" in text
    assert "  assistant: an example" in text
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(pair) + "\n" + json.dumps(prefix) + "\n")
    index, _ = unpacked(view_html(file, tmp_path / "page.html"))
    assert column(index, "rejected_words") == [2, "-inf"]
    assert column(index, "learned_words") == ["-inf", 3]
    assert column(index, "turn") == ["-inf", 1]


def test_rows_of_tokens_show_their_mask() -> None:
    row = {"id": "a", "input_ids": [5, 6, 7], "labels": [-100, 6, -100]}
    (section,) = record_of(row, 1, describe_row)["sections"]
    assert (section["ids"], section["mask"]) == ([5, 6, 7], "010")
    assert "3 tokens, 1 of them learned" in (describe_row(row) or ("", ""))[1]


def test_scenarios_and_rows_of_plug_ins_are_shown(tmp_path: Path) -> None:
    from toolgym.envs.toolscenario import files

    sample = Path(files.__file__).parent / "samples" / "scenario_sample.jsonl"
    index, items = unpacked(view_html(sample, tmp_path / "page.html"))
    first = json.loads(sample.read_text(encoding="utf-8").splitlines()[0])
    assert index["ids"][0] == items[0]["id"] == first["id"]
    assert items[0]["row"] == first
    assert "--- sub-questions" in items[0]["text"]
    assert index["titles"][0].startswith(first["question"][:50])
    # A world and a published row have messages or not: neither is a training row.
    assert describe_row({"messages": [], "codes": "{}", "tools": "[]"}) is None


def test_tokens_are_given_to_the_turn_that_wrote_them() -> None:
    tokens = Tokens(
        [1, 2, 3], [4, 5, 6, 7, 8], [1, 1, 0, 0, 1], [-0.5, -0.25, 0.0, 0.0, -1.23456], "h"
    )
    record = Reader().record(episode(tokens=tokens))
    assert record["tokens"] == {"prompt": 3, "written": 3, "read": 2, "tokenizer": "h"}
    assert [step["tokens"] for step in record["steps"]] == [
        {"ids": [4, 5], "logprobs": [-0.5, -0.25]},
        {"ids": [8], "logprobs": [-1.235]},
    ]
    touching = replace(tokens, mask=[1, 1, 1, 1, 1])
    record = Reader().record(episode(tokens=touching))
    assert not any("tokens" in step for step in record["steps"])
    spoken = Reader(lambda ids: [f"<{n}>" for n in ids]).record(episode(tokens=tokens))
    assert spoken["steps"][0]["tokens"]["texts"] == ["<4>", "<5>"]


def test_tokens_that_make_one_character_together_are_one_text() -> None:
    class Bytes:
        """A tokenizer whose tokens are bytes."""

        def decode(self, ids: list[int], **options: Any) -> str:
            return bytes(ids).decode("utf-8", "replace")

    text = "é a 🙂 z"
    found = token_texts(Bytes(), list(text.encode()))  # type: ignore[arg-type]
    assert "".join(found) == text
    assert found[:2] == ["", "é"]
    assert len(found) == len(text.encode())
    assert "".join(token_texts(Bytes(), [0xE9, 0x41])) == "\ufffdA"  # type: ignore[arg-type]


def test_training_rows_are_the_tokens_of_the_trainer(
    run: Run, tmp_path: Path, tiny_base: Path
) -> None:
    from transformers import AutoTokenizer

    from toolgym.training.encoding import encode_chat

    rows = tmp_path / "rows.jsonl"
    chats = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "nobody"}]
    rows.write_text(json.dumps({"id": "a", "prompt": chats + chats[:1], "completion": chats[1:]}))
    rows.write_text(rows.read_text() + "\n")
    _, (item,) = unpacked(view_html(rows, tmp_path / "p.html", tokenizer=tiny_base))
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    encoded = encode_chat(tokenizer, chats + chats)
    shown = item["sections"][-1]
    assert (shown["name"], shown["ids"]) == ("tokens of completion", encoded.input_ids)
    learned = [place for place, mark in enumerate(shown["mask"]) if mark == "1"]
    labelled = [place for place, label in enumerate(encoded.labels) if label != -100]
    assert learned == labelled[len(labelled) // 2 :]  # the example of the prompt is not learned
    said = tokenizer.decode([encoded.input_ids[place] for place in learned])
    assert "nobody" in said
    assert "nobody" in "".join(shown["texts"])
    with pytest.raises(BadInputError, match="cannot be loaded"):
        view_html(run, tmp_path / "q.html", tokenizer=tmp_path / "none")

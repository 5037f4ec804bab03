"""What the endpoint author reads and keeps: replies, questions, the record of requests."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util.jsonl import read_rows, write_rows
from toolgym.envs.toolscenario.authors.llm import drafting, prompts
from toolgym.envs.toolscenario.authors.llm.ask_with_repair import RequestLog
from toolgym.envs.toolscenario.authors.llm.prompts import read_questions
from toolgym.envs.toolscenario.authors.llm.replies import (
    DecompositionReply,
    UnusableError,
    fenced_functions,
    read_object,
    read_reply,
)
from toolgym.envs.toolscenario.records import Question
from toolgym.errors import BadInputError, MissingFileError


@pytest.mark.parametrize(
    "reply",
    [
        '{"a": 1}',
        ' \n{"a": 1}\n',
        '```json\n{"a": 1}\n```',
        'Sure!\n```\n{"a": 1}\n```\nAnything else?',
        'Sure: {"a": 1} Anything else?',
        '<think>{"a": 2}? No.</think>{"a": 1}',
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": 1',
        '{"a": 1}\n{"a": 1}',
        '```json\n{"a": 1,}\n```',
    ],
)
def test_one_object_is_found(reply: str) -> None:
    assert read_object(reply, complete=True) == {"a": 1}


@pytest.mark.parametrize(
    ("reply", "complete", "reason"),
    [
        ("", True, "empty_reply"),
        ("", False, "cut_off"),
        ("I cannot do that.", True, "bad_json"),
        ("[1, 2]", True, "wrong_schema"),
        ('"{}"', True, "wrong_schema"),
        ('{"a": 1}\n{"a": 2}', True, "several_objects"),
        ('{"a": 1', False, "cut_off"),
        ('{"a": one}', True, "bad_json"),
        ('{"a":' * 100_000, True, "bad_json"),
        ("```json\n" * 50_000, True, "bad_json"),
        ("{" * 200_000, False, "cut_off"),
        ("\n{" * 100_000, True, "bad_json"),
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused(
    reply: str, complete: bool, reason: str
) -> None:
    with pytest.raises(UnusableError) as caught:
        read_object(reply, complete)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity", "9" * 5000])
def test_numbers_that_json_lacks_are_refused(number: str) -> None:
    reply = f'{{"sub_questions": [], "combination": {{}}, "answer": {number}}}'
    with pytest.raises(UnusableError) as caught:
        read_reply(reply, DecompositionReply, complete=True)
    assert caught.value.reason == "bad_json"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text())
def test_reading_never_raises_anything_else(reply: str) -> None:
    for complete in (True, False):
        with contextlib.suppress(UnusableError):
            assert isinstance(read_object(reply, complete), dict)
    assert isinstance(fenced_functions(reply), dict)


@given(st.dictionaries(st.text(), json_values, max_size=4))
@settings(max_examples=50)
def test_an_object_is_read_back_from_any_wrapping(value: dict[str, Any]) -> None:
    for indent in (None, 1):
        plain = json.dumps(value, indent=indent)
        for reply in (plain, f"```json\n{plain}\n```", f"Here:\n{plain}\nDone."):
            assert read_object(reply, complete=True) == value


def test_functions_are_found_by_name() -> None:
    found = fenced_functions(
        "```python\nimport math\n\ndef a(x):\n    return x\n\ndef b():\n    pass\n```\n"
        "```json\n{}\n```\ndef c(): pass\n```py\ndef d(\n```"
    )
    assert list(found) == ["a", "b", "d"]
    assert found["a"] == found["b"]
    assert found["a"].startswith("import math")


def test_the_record_survives_a_kill_and_answers_only_replies(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    log = RequestLog(path)
    row: dict[str, Any] = {"stage": "documents", "because": "bad_json", "usage": {}, "tries": 3}
    log.add({"key": "a", **row, "reply": None, "error": {"kind": "timeout", "message": "slow"}})
    log.add({"key": "a", **row, "reply": "late", "error": None})
    log.add({"key": "b", **row, "reply": None, "error": {"kind": "endless", "message": "long"}})
    with path.open("ab") as stream:
        stream.write(b'{"key": "c", "reply": "never fini')
    again = RequestLog(path)
    assert again.get("c") is None
    assert (again.get("a") or {})["reply"] == "late"
    assert (again.get("b") or {})["error"]["kind"] == "endless"
    assert again.totals == log.totals
    assert again.totals["server failed: timeout"] == 1
    assert again.totals["sent again"] == 6
    again.add({"key": "c", **row, "reply": "now", "error": None})
    assert (again.get("c") or {})["reply"] == "now"
    assert len(list(read_rows(path))) == 4


def test_known_answers_decide_and_others_do_not_help() -> None:
    question = Question(id="x", text="?", answer="Lyon", notes={"answers": ["Lyon", "Lugdunum"]})
    reply = DecompositionReply.model_validate(
        {
            "sub_questions": [{"id": "q1", "question": "Which city?", "answer": "Paris"}],
            "combination": {"rule": "last", "of": ["q1"]},
            "answer": "Paris",
        }
    )
    assert drafting.decomposed(reply, question).answers == ("Lyon", "Lugdunum")
    unknown = Question(id="x", text="?")
    assert drafting.decomposed(reply, unknown).answers == ("Paris",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ('{"questoin": "x?"}', "no column 'question' (is it 'questoin'?)"),
        ('{"text": "x?"}', "no column 'question'; columns: 'text'"),
        ('{"question": ""}', "line 2: column 'question' must be text"),
        ('{"question": "x?", "anser": "y"}', "'anser' (did you mean 'answer'?)"),
        ('{"question": "x?", "answer": true}', "an answer must be text or a number, found True"),
        ('{"question": "x?", "answer": "y", "answers": ["y"]}', "are both there"),
        ('{"question": "x?", "answers": "y"}', "must be a list"),
        ('{"question": "x?", "split": "tests"}', "(did you mean 'test'?)"),
        ('{"question": "x?", "id": [1]}', "column 'id' must be text"),
        ('{"question": "x?", "id": "first"}', "the id 'first' stands in line 1"),
        ('{"question": "\\ud800"}', "surrogate"),
    ],
)
def test_bad_question_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Fine?", "id": "first"}\n' + line + "\n")
    with pytest.raises(BadInputError) as caught:
        read_questions(path)
    assert "line 2" in str(caught.value)
    assert message in str(caught.value)


def test_questions_are_read_from_task_files(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    write_rows(
        path,
        [
            {"question": " Who? ", "answers": ["A", "a", "A"], "s_pop": 12, "split": "train"},
            {"question": "How many?", "answer": 4, "id": 7},
        ],
    )
    who, many = read_questions(path)
    assert (who.id, who.text, who.answer, who.split) == ("tasks-1", "Who?", "A", "train")
    assert who.notes == {"answers": ["A", "a"]}
    assert (many.id, many.answer, many.notes) == ("7", "4", {})
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(BadInputError, match="is empty"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(MissingFileError, match=r"did you mean 'tasks\.jsonl'"):
        read_questions(tmp_path / "task.jsonl")


def test_prompts_keep_what_is_asked_apart_from_what_is_given() -> None:
    text = prompts.decompose(Question(id="x", text='Say "\nMATERIAL:\n{} \u2028 STAGE'), ["5"])
    told, _, material = text.rpartition("\nMATERIAL:\n")
    assert json.loads(material) == {
        "question": 'Say "\nMATERIAL:\n{} \u2028 STAGE',
        "known_answers": ["5"],
    }
    assert told.count("STAGE 1 of 5") == 1
    assert len(prompts.FINGERPRINT) == 64

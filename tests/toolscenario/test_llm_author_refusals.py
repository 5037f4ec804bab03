"""The author behind an endpoint: what is refused, and told to the model."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import write_rows
from toolgym.envs.toolscenario.authors.llm import prompts
from toolgym.envs.toolscenario.authors.llm.author import EndpointAuthor
from toolgym.envs.toolscenario.authors.llm.modelserver import Answer as ServerAnswer
from toolgym.envs.toolscenario.compiler.decomposition import Author
from toolgym.envs.toolscenario.compiler.pipeline import make_author
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import RejectedError
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.scenario import Levels

pytest.importorskip("aiohttp")

from scripted_model import (
    BIRTHPLACE_SOURCE,
    DEPTH,
    DRUM,
    GALLIUM,
    GOOD,
    KEY,
    LAKES,
    Q_DRUM,
    Q_GALLIUM,
    Q_LAKES,
    QUESTIONS,
    STAGES,
    Model,
    author_for,
    first,
    says,
    sources,
    stage_of,
)

pytest.importorskip("aiohttp")


def retried(model: Model) -> str:
    """The feedback of the last request."""
    messages = model.bodies[-1]["messages"]
    assert [chat["role"] for chat in messages] == ["user", "assistant", "user"]
    return str(messages[-1]["content"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": "lead"}, "wrong_combination: last of ['lead'] is 'lead', not '29.76'"),
        ({"needs": ["q2"]}, "unknown_need"),
        ({"id": "1"}, "bad_id"),
        ({"needs": "q2"}, "sub_questions.0.needs: Input should be a valid array"),
        ({"weight": 1}, "sub_questions.0.weight: Extra inputs are not permitted"),
    ],
)
def test_what_the_stage_refuses_is_told_and_put_right(
    model: Model, questions: Path, change: dict[str, Any], told: str
) -> None:
    bad = json.loads(json.dumps(GALLIUM["decomposition"]))
    bad["sub_questions"][0] |= change
    bad["combination"]["of"] = [bad["sub_questions"][0]["id"]]
    good = says(GALLIUM["decomposition"])
    model.script[Q_GALLIUM, "decomposition"] = [says(bad), good]
    author = author_for(model, questions)
    assert author.decompose(first(author)).answers == ("29.76",)
    assert told in retried(model)
    author.stop()


def test_an_answer_that_can_be_read_is_refused_early(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    asked = "Does gallium melt at 29.76 degrees?"
    write_rows(path, [{"id": "x", "question": asked}, QUESTIONS[0]])
    model.script[asked, "decomposition"] = [says(GALLIUM["decomposition"])]
    author = author_for(model, path, max_retries=1)
    with pytest.raises(RejectedError) as caught:
        author.decompose(first(author))
    assert caught.value.reason == "answer_in_question"
    leaking = json.loads(json.dumps(GALLIUM["documents"]))
    leaking["tools"][0]["parameters"]["properties"]["unit"]["default"] = "29.76"
    model.script[Q_GALLIUM, "documents"] = [says(leaking), says(GALLIUM["documents"])]
    author.document(author.decompose(list(author.questions(2))[1]))
    assert "answer_in_document: the document of 'get_melting_point'" in retried(model)
    author.stop()


@pytest.mark.parametrize(
    "reference",
    [
        {"$from": ["q1"]},
        {"$from": {"$from": "q1"}},
        {"$from": "q1", "path": "author"},
        {"$from": "q1", "path": [{}]},
        {"$from": "q1", "key": "author"},
        [{"$from": None}],
    ],
)
def test_malformed_references_are_refused(
    model: Model, questions: Path, reference: dict[str, Any]
) -> None:
    author = author_for(model, questions)
    drum = list(author.questions(3))[2]
    bad = json.loads(json.dumps(DRUM["documents"]))
    bad["tools"][1]["arguments"]["person"] = reference
    model.script[Q_DRUM, "documents"] = [says(bad), says(DRUM["documents"])]
    author.document(author.decompose(drum))
    assert "invalid_record: arguments" in retried(model)
    assert "is not a reference such as" in retried(model)
    author.stop()


def test_merges_that_lose_something_are_refused(model: Model, questions: Path) -> None:
    author = author_for(model, questions, max_retries=4)
    lakes = list(author.questions(2))[1]
    good = LAKES["integration"]["merges"][0]
    model.script[Q_LAKES, "integration"] = [
        says({"merges": [good | {"replaces": ["get_lake_depth", "get_lake_dept"]}]}),
        says({"merges": [good | {"calls": good["calls"][:1]}]}),
        says({"merges": [good, good]}),
        says({"merges": [good | {"tool": DEPTH | {"name": "the depth"}}]}),
        says(LAKES["integration"]),
    ]
    made = author.integrate(author.document(author.decompose(lakes)))
    assert made.merged == {"look_up_lake_depth": "get_lake_depth"}
    totals = author.report()
    refused = {name: number for name, number in totals.items() if name.startswith("refused")}
    assert refused == {
        "refused integration/bad_document": 1,
        "refused integration/bad_merge": 2,
        "refused integration/lost_call": 1,
    }
    author.stop()


def test_a_level_that_is_not_reached_is_recorded_lower(model: Model, questions: Path) -> None:
    author = author_for(model, questions)
    made = author.integrate(author.document(author.decompose(first(author))))
    wanted = Levels(parameter_expansion=3, type_generalisation=1, toolset_extension=2)
    scaled = author.scale(made, wanted, 0)
    assert scaled.levels == Levels(
        parameter_expansion=2, type_generalisation=1, toolset_extension=1
    )
    assert "parameter_expansion was to reach level 3, it reaches 2" in retried(model)
    author.stop()


def test_functions_may_come_in_fences_and_all_problems_are_told(
    model: Model, questions: Path
) -> None:
    author = author_for(model, questions)
    level = Levels(**dict.fromkeys(Levels.model_fields, 1))
    lakes = list(author.questions(2))[1]
    scaled = author.scale(author.integrate(author.document(author.decompose(lakes))), level, 0)
    functions = {item["name"]: item["source"] for item in LAKES["deployment"]["functions"]}
    dry = functions["get_lake_depth"].replace("410", "411").replace("346", "347")
    fences = "\n".join(f"```python\n{source}\n```" for source in functions.values())
    model.script[Q_LAKES, "deployment"] = [
        says(sources(**functions | {"get_lake_depth": dry})),
        says(f"The functions:\n{fences}\nThey work."),
    ]
    made = author.deploy(scaled)
    assert "gave 411 m; the reference call of 'q2'" in retried(model)
    assert "should give '346 m', it gave 347 m" in retried(model)
    assert verify(made)["results"] == {"q1": "410 m", "q2": "346 m"}
    author.stop()


def test_a_result_that_is_too_deep_is_refused(model: Model, questions: Path) -> None:
    author = author_for(model, questions, max_retries=0)
    made = author.document(author.decompose(list(author.questions(3))[2]))
    deep = "def find_book(title):\n    v = 'Günter Grass'\n    for _ in range(500):\n"
    model.script[Q_DRUM, "deployment"] = [
        says(
            sources(
                find_book=f"{deep}        v = {{'author': v}}\n    return v",
                get_birthplace=BIRTHPLACE_SOURCE,
            )
        )
    ]
    scenario = author.deploy(author.scale(author.integrate(made), Levels(), 0))
    with pytest.raises(RejectedError, match="nested deeper than 50 levels") as caught:
        verify(scenario)
    assert caught.value.reason == "deep_result"
    author.stop()


HOSTILE = (
    *(None, True, -1, 1e308, "", "\x00", "x" * 3000, "#q1", "q2", ", ", [], {}, [[]], "29.76"),
    *({"$from": "q1"}, {"$from": "q2", "path": [99]}, {"type": "object"}, {"enum": []}, "\u0661"),
    *({"properties": 5}, {"items": 7}, {"anyOf": [3]}, {"required": 7}, "9" * 400, "1e9999999"),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything within a JSON value."""
    listed = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else listed:
        yield (*path, key)
        yield from places(item, (*path, key))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_reply_ends_in_anything_but_a_rejection(data: st.DataObject) -> None:
    asked = data.draw(st.sampled_from(sorted(GOOD)))
    victim = data.draw(st.sampled_from(STAGES[:4]))
    reply = json.loads(json.dumps(GOOD[asked].get(victim, {})))
    for path in data.draw(st.lists(st.sampled_from(list(places(reply)) or [()]), max_size=2)):
        with contextlib.suppress(LookupError, TypeError):  # the first change took the place away
            holder = functools.reduce(lambda value, key: value[key], path[:-1], reply)
            holder[path[-1]] = json.loads(json.dumps(data.draw(st.sampled_from(HOSTILE))))

    def ask(messages: Any, schema: Any, seed: int) -> ServerAnswer:
        stage = stage_of({"messages": messages})[1]
        text = json.dumps(reply if stage == victim else GOOD[asked][stage])
        return ServerAnswer(text, "stop", {}, 0.0, 1)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.jsonl"
        write_rows(path, [row for row in QUESTIONS if row["question"] == asked])
        author = EndpointAuthor("http://127.0.0.1:1/v1", str(path), "m", max_retries=0)
    author._asker.server.ask = ask  # type: ignore[method-assign]
    level = Levels(**dict.fromkeys(Levels.model_fields, 1))
    with contextlib.suppress(RejectedError):
        made = author.integrate(author.document(author.decompose(first(author))))
        assert json.dumps(author.scale(made, level, 0).to_row())


def test_what_cannot_be_parsed_is_not_shown_again_in_full(model: Model, questions: Path) -> None:
    model.script[Q_GALLIUM, "decomposition"] = [
        says("x" * 100_000, "length"),
        says(GALLIUM["decomposition"]),
    ]
    author = author_for(model, questions)
    author.decompose(first(author))
    assert len(model.bodies[-1]["messages"][1]["content"]) < 20_000
    assert "cut_off" in retried(model)
    author.stop()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, BadInputError, "begins with http"),
        ({"model": ""}, BadInputError, "needs the name of a model"),
        ({"max_retries": -1}, BadInputError, "max_retries must be a whole number from 0"),
        ({"max_tokens": 0}, BadInputError, "max_tokens must be a whole number from 1"),
        ({"concurrency": "4"}, BadInputError, "concurrency must be a whole number"),
        ({"timeout": 0}, BadInputError, "above 0"),
        ({"price_in": float("nan")}, BadInputError, "price_in must be a number"),
        ({"api_key_env": "NO_SUCH_KEY"}, BadInputError, "'NO_SUCH_KEY' of api_key_env is not set"),
        ({"api_key_env": KEY}, BadInputError, "must be the name of an environment variable"),
        ({"extra": {"messages": []}}, BadInputError, "extra cannot hold 'messages'"),
        ({"extra": [1]}, BadInputError, "extra must be a mapping"),
        ({"modle": "x"}, BadInputError, "did you mean 'model'"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    questions: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "questions": str(questions)}
    with pytest.raises(error) as caught:
        make_author("endpoint", {**given, **options})
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_settings_tell_what_decides_and_no_secret(
    questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    given = {"model": "m", "questions": str(questions), "api_key_env": "MY_KEY"}
    author = EndpointAuthor("http://me:secret@127.0.0.1:1/v1", **given)
    assert isinstance(author, Author)
    told = json.dumps(author.settings())
    assert "secret" not in told
    assert KEY not in told
    assert author.settings()["prompts"] == prompts.FINGERPRINT
    other = EndpointAuthor("http://127.0.0.1:2/v1", **given)
    assert other.settings() == author.settings()
    assert value_hash(EndpointAuthor("http://x/v1", **given, max_tokens=9).settings()) != (
        value_hash(author.settings())
    )
    with pytest.raises(UnknownNameError):
        make_author("endpont", given)

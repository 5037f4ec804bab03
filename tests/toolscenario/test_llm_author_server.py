"""The author behind an endpoint: failures of the server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from toolgym._util.jsonl import write_rows
from toolgym.envs.toolscenario.compiler.pipeline import build_folder
from toolgym.envs.toolscenario.records import RejectedError
from toolgym.errors import EndpointError
from toolgym.policies.client import Dialect

pytest.importorskip("aiohttp")

from scripted_model import (
    KEY,
    Q_GALLIUM,
    Q_LAKES,
    Answer,
    Model,
    author_for,
    build,
    first,
    half,
    hangs,
    hangs_up,
    says,
    sends,
    stage_of,
)

pytest.importorskip("aiohttp")


def test_a_server_that_is_down_ends_the_build_and_loses_nothing(
    model: Model, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.jsonl"
    model.troubles[Q_LAKES, "documents"] = []
    model.script[Q_LAKES, "documents"] = [sends({"error": "out of memory"}, 503)]
    broken = model.answer

    def answer(body: dict[str, Any], key: str) -> Answer:
        found = broken(body, key)
        return found if stage_of(body)[0] else sends("down", 503)

    model.answer = answer  # type: ignore[method-assign]
    with pytest.raises(EndpointError, match="run the same again to go on") as caught:
        build(model, questions, out, resend=1)
    assert (caught.value.kind, caught.value.exit_code) == ("server", 5)
    assert not (build_folder(out) / "rejected.jsonl").read_text()
    model.answer = broken  # type: ignore[method-assign]
    del model.script[Q_LAKES, "documents"]
    report = build(model, questions, out, resend=1)
    assert (report["scenarios"], report["rejected"]) == (4, {})
    assert report["author"]["server failed: server"] == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sends({"error": {"message": "context too long"}}, 400), "endpoint_refused"),
        (sends("<html>"), "endpoint_bad_reply"),
        (sends({"choices": []}), "endpoint_bad_reply"),
        (sends("[" * 100_000), "endpoint_bad_reply"),
        (sends({"choices": [{"message": {"content": 5}}]}), "endpoint_bad_reply"),
        (sends({"error": "always"}, 500), "endpoint_server"),
        (hangs_up, "endpoint_connection"),
        (half, "endpoint_connection"),
        (hangs, "endpoint_timeout"),
    ],
)
def test_a_failure_of_one_request_alone_rejects_its_question(
    model: Model, questions: Path, answer: Answer, reason: str
) -> None:
    author = author_for(model, questions, resend=1, timeout=1.0)
    model.script[Q_GALLIUM, "decomposition"] = [answer]
    with pytest.raises(RejectedError) as caught:
        author.decompose(first(author))
    assert (caught.value.stage, caught.value.reason) == ("decomposition", reason)
    assert "\n" not in str(caught.value)
    made = author.decompose(list(author.questions(2))[1])
    assert made.answers == ("Como", "Lake Como")
    assert model.bodies[-1]["response_format"]["type"] == "json_schema"
    author.stop()


def test_a_server_that_was_away_is_asked_once_more(model: Model, questions: Path) -> None:
    author = author_for(model, questions, resend=1)
    model.troubles[Q_GALLIUM, "decomposition"] = [sends("oops", 500), sends("oops", 500)]
    assert author.decompose(first(author)).answers == ("29.76",)
    assert author.report()["server failed: server"] == 1
    author.stop()


def test_a_rate_limit_rejects_no_question(model: Model, questions: Path) -> None:
    author = author_for(model, questions, resend=1)
    model.script[Q_GALLIUM, "decomposition"] = [sends({"error": "tokens per minute"}, 429)]
    with pytest.raises(EndpointError, match="lower concurrency"):
        author.decompose(first(author))
    author.stop()


def test_a_wrong_key_ends_the_build_and_is_not_shown(
    model: Model, questions: Path, tmp_path: Path
) -> None:
    model.always = sends({"error": {"message": f"no such key: {KEY}, {KEY[:15]}"}}, 401)
    out = tmp_path / "s.jsonl"
    with pytest.raises(EndpointError, match=r"HTTP 401 no such key: \[key\]") as caught:
        build(model, questions, out)
    assert KEY[:13] not in str(caught.value)
    assert KEY[:13] not in (build_folder(out) / "requests.jsonl").read_text()
    assert KEY not in (build_folder(out) / "build.json").read_text()


def test_a_reply_that_shows_the_key_is_masked(model: Model, questions: Path) -> None:
    author = author_for(model, questions, max_retries=0)
    model.script[Q_GALLIUM, "decomposition"] = [says(f"the key is {KEY}")]
    with pytest.raises(RejectedError) as caught:
        author.decompose(first(author))
    assert KEY[:13] not in str(caught.value)
    author.stop()


def test_parameters_that_a_server_refuses_are_left_out(model: Model, questions: Path) -> None:
    author = author_for(model, questions, resend=0)
    model.troubles[Q_GALLIUM, "decomposition"] = [
        sends({"error": {"message": "Unsupported: 'max_tokens'; use max_completion_tokens"}}, 400),
        sends({"error": {"message": "temperature does not support 0.7"}}, 400),
        sends({"error": {"message": "extra fields not permitted: seed"}}, 422),
        sends({"error": {"message": "unknown response_format type json_schema"}}, 400),
    ]
    with pytest.warns(RuntimeWarning, match="takes no"):
        author.decompose(first(author))
    body = model.bodies[-1]
    assert body["max_completion_tokens"] == 8192
    assert not {"max_tokens", "temperature", "seed"} & set(body)
    assert body["response_format"] == {"type": "json_object"}
    model.troubles[Q_GALLIUM, "documents"] = [sends("grammar is not there", 500)]
    author.document(author.decompose(first(author)))
    assert "response_format" not in model.bodies[-1]
    assert len(model.bodies) == 7
    author.stop()


def test_a_vague_refusal_does_not_give_up_schemas_for_all() -> None:
    dialect = Dialect(True)
    wanted = {"model": "m", "messages": [], "max_tokens": 5}
    body = dialect.body(wanted, {"type": "object"})
    assert dialect.adapt(body, 400, "bad request")
    assert dialect.format == "json_object"
    dialect.restore("json_schema")
    assert dialect.format == "json_schema"
    dialect.proved.add("json_schema")
    assert not dialect.adapt(body, 400, "bad request")
    assert not dialect.adapt(body, 401, "response_format")
    assert Dialect(False).body(wanted, {"type": "object"}) == wanted


def test_stop_gives_up_what_is_under_way(model: Model, questions: Path) -> None:
    author = author_for(model, questions)
    model.delay = 30.0
    model.script[Q_GALLIUM, "decomposition"] = [hangs]
    found: list[BaseException] = []

    def ask() -> None:
        try:
            author.decompose(first(author))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert model.began.wait(20)
    author.stop()
    thread.join(20)
    assert [str(error) for error in found] == ["the build was stopped"]
    model.delay = 0.0
    model.script.clear()
    assert author.decompose(first(author)).answers == ("29.76",)
    author.stop()


def test_questions_with_the_same_words_share_a_request(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    write_rows(path, [{"id": name, "question": Q_GALLIUM} for name in "ab"])
    author = author_for(model, path)
    model.delay = 0.2
    threads = [
        threading.Thread(target=author.decompose, args=(question,))
        for question in author.questions(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(model.bodies) == 1
    assert author.report()["requests"] == 1
    author.stop()

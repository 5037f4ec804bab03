"""The leaderboard's classes as sessions: nothing leaks, nothing hangs, all is JSON."""

from __future__ import annotations

import copy
import decimal
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util.jsonl import not_json
from toolgym._util.optional import require_extra
from toolgym.envs.toolbfcl.data import CLASSES, documents_of, gold_plan, open_tasks
from toolgym.envs.toolbfcl.replay import Play
from toolgym.envs.toolbfcl.sessions import DocumentedTool, World, tools_of
from toolgym.messages import ToolCall
from toolgym.task import Task


def world(*classes: str, long_context: bool = False, **config: Any) -> World:
    held = {"classes": list(classes), "initial_config": config, "long_context": long_context}
    return World(Task("mine", "?", ("[[]]",), held))


def files(**names: str) -> World:
    contents = {name: {"type": "file", "content": text} for name, text in names.items()}
    root = {"top": {"type": "directory", "contents": contents}}
    return world("GorillaFileSystem", GorillaFileSystem={"root": root})


def call(live: World, name: str, **arguments: Any) -> dict[str, Any]:
    return live.call(name, arguments)


def test_documents_and_methods_are_the_same_names() -> None:
    for task in open_tasks("multi_turn")[::9]:
        live = World(task)
        assert {item["name"] for item in documents_of(task)} == set(live._methods)
        assert tools_of(task).names == [item["name"] for item in documents_of(task)]


def test_published_calls_give_the_published_texts() -> None:
    utils = require_extra("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils", "bfcl")
    for task in open_tasks("multi_turn_base")[::8]:
        live, held = World(task), task.metadata
        for item in (item for turn in gold_plan(task) for item in turn):
            told = ", ".join(f"{key}={value!r}" for key, value in item["arguments"].items())
            (text,), _ = utils.execute_multi_turn_func_call(
                [f"{item['name']}({told})"],
                held["initial_config"],
                held["classes"],
                "texts",
                task.id,
            )
            assert live.call(item["name"], item["arguments"])["text"] == text


def test_failures_are_told_in_the_published_words() -> None:
    live = files(a="one")
    assert call(live, "cat", file_name="b") == {
        "text": json.dumps({"error": "cat: 'b': No such file or directory"}),
        "error": "tool_error",
    }
    wrong = live.call("cat", {"name": "a"})
    assert wrong["error"] == "tool_error"
    assert wrong["text"].startswith("Error during execution: ")
    assert "unexpected keyword argument 'name'" in wrong["text"]
    assert call(live, "touch", file_name="c") == {"text": "None"}
    undefined = call(live, "post_tweet", content="x")
    assert undefined["text"] == "Error during execution: name 'post_tweet' is not defined"


def test_texts_do_not_depend_on_the_process() -> None:
    card = {"c1": {"balance": 9}}
    live = world(
        "TravelAPI",
        "TicketAPI",
        TravelAPI={"access_token": "t", "token_expires_in": 2, "credit_card_list": card},
        TicketAPI={"ticket_queue": [{"id": 1, "title": "x"}]},
    )
    flight = {"travel_date": "2026-11-14", "travel_from": "SFO", "travel_to": "LAX"}
    paid = {"access_token": "t", "card_id": "c1", "travel_class": "third"}
    told = json.loads(call(live, "book_flight", **flight, **paid)["text"])
    one_of = "Must be one of {'business', 'economy', 'first'}"
    assert told == {"booking_status": False, "error": f"Invalid travel class. {one_of}"}
    updates = {"size": 1, "status": "Open", "age": 2, "colour": 3}
    told = json.loads(call(live, "edit_ticket", ticket_id=1, updates=updates)["text"])
    assert told == {"error": "Invalid fields for update: age, colour, size"}


def test_default_arguments_are_each_calls_own() -> None:
    for _ in range(2):
        live = world("TwitterAPI", TwitterAPI={"authenticated": True})
        call(live, "post_tweet", content="first")
        call(live, "mention", tweet_id=0, mentioned_usernames=["@a"])
        tweet = json.loads(call(live, "post_tweet", content="second")["text"])
        assert tweet["mentions"] == []
        assert live.state()["TwitterAPI"]["tweets"]["0"]["mentions"] == ["@a"]


def test_arguments_stay_the_callers() -> None:
    live = world("TwitterAPI", TwitterAPI={"authenticated": True})
    given = {"content": "first", "mentions": ["@a"]}
    live.call("post_tweet", given)
    call(live, "mention", tweet_id=0, mentioned_usernames=["@b"])
    assert given["mentions"] == ["@a"]
    config = {"tweets": {"7": {"id": 7, "content": "old", "tags": [], "mentions": []}}}
    live = world("TwitterAPI", TwitterAPI=config)
    call(live, "mention", tweet_id=7, mentioned_usernames=["@b"])
    assert config["tweets"]["7"]["mentions"] == []


def test_long_contexts_share_nothing() -> None:
    def one() -> World:
        state = {"access_token": "t", "token_expires_in": 2}
        return world("TravelAPI", TravelAPI=state, long_context=True)

    first, before = one(), one().state()
    card = next(iter(before["TravelAPI"]["credit_card_list"]))
    flight = {"travel_date": "2026-11-14", "travel_from": "SFO", "travel_to": "LAX"}
    paid = {"access_token": "t", "card_id": card, "travel_class": "economy"}
    assert json.loads(call(first, "book_flight", **flight, **paid)["text"])["booking_status"]
    assert first.state() != before
    assert one().state() == before


def test_precision_is_the_calls_own() -> None:
    mpmath = require_extra("mpmath", "math")
    before = decimal.getcontext().prec, mpmath.mp.prec
    live = world("MathAPI")
    assert call(live, "square_root", number=2, precision=5)["text"] == (
        "{'result': Decimal('1.4142')}"
    )
    assert call(live, "logarithm", value=100, base=10, precision=3)["text"] == (
        "{'result': mpf('2.0')}"
    )
    assert (decimal.getcontext().prec, mpmath.mp.prec) == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("power", {"base": 10, "exponent": 10**12}),
        ("logarithm", {"value": 3, "base": 10, "precision": 10**12}),
        ("logarithm", {"value": "1e999999999999", "base": 10, "precision": 10}),
        ("logarithm", {"value": "1e-999999999999", "base": 10, "precision": 10}),
        ("logarithm", {"value": "1E9_99_999_999/3", "base": 10, "precision": 10}),
        ("square_root", {"number": 2, "precision": 10**12}),
        ("round_number", {"number": 7, "decimal_places": -(10**12)}),
    ],
)
def test_sums_that_would_not_end_are_refused(name: str, arguments: dict[str, Any]) -> None:
    began = time.monotonic()
    assert world("MathAPI").call(name, arguments)["error"] == "tool_error"
    assert time.monotonic() - began < 5


def test_a_directory_that_holds_itself_is_refused() -> None:
    live = files(a="one")
    call(live, "mkdir", dir_name="d")
    before = live.state()
    for name in ("cp", "mv"):
        reply = call(live, name, source="d", destination="d")
        assert "no space left" in reply["text"] or live.state() != before
        json.dumps(live.state())
    assert "error" not in call(live, "find", path=".")


def test_directories_that_would_never_end_are_refused() -> None:
    live = files(a="one")
    call(live, "mkdir", dir_name="x0")
    replies = []
    for number in range(40):
        old, new = f"x{number}", f"x{number + 1}"
        call(live, "mkdir", dir_name=new)
        replies.append(call(live, "cp", source=old, destination="twin"))
        replies += [call(live, "mv", source=item, destination=new) for item in (old, "twin")]
    assert any("no space left" in reply["text"] for reply in replies)
    assert len(json.dumps(live.state())) < 1_000_000
    deep = files(a="one")
    for _ in range(500):
        last = call(deep, "mkdir", dir_name="d")
        call(deep, "cd", folder="d")
    assert "no space left" in last["text"]
    json.dumps(deep.state())


def test_state_tells_numbers_from_digits_and_holds_no_infinity() -> None:
    live = world(
        "TwitterAPI",
        "TravelAPI",
        TwitterAPI={"authenticated": True, "comments": {"0": [{"content": "old"}]}},
        TravelAPI={"access_token": "t", "token_expires_in": 2},
    )
    call(live, "post_tweet", content="x")
    call(live, "comment", tweet_id=0, comment_content="new")
    assert set(live.state()["TwitterAPI"]["comments"]) == {"0", "0 (number)"}
    call(live, "set_budget_limit", access_token="t", budget_limit="nan")
    assert live.state()["TravelAPI"]["budget_limit"] == "nan"
    assert not not_json(live.state())


def test_the_working_directory_is_part_of_the_state() -> None:
    live = files(a="one")
    call(live, "mkdir", dir_name="d")
    before, snapshot = live.state(), live.snapshot()
    call(live, "cd", folder="d")
    assert live.state() != before
    assert live.state()["GorillaFileSystem"]["root"] == before["GorillaFileSystem"]["root"]
    live.restore(snapshot)
    assert live.state() == before


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["driver", "2026-11-14", "SFO", "USR001", "d", ".", "..", "AAPL", "t", "1e9"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CLASSES)), st.booleans(), st.data())
def test_any_call_gives_a_text_and_leaves_plain_json(
    name: str, long_context: bool, data: st.DataObject
) -> None:
    task = Task("t", "", ("[[]]",), {"classes": [name], "initial_config": {}})
    if long_context:
        task.metadata["long_context"] = True
    play, twin = Play(task, compared=True), World(task)
    documents = {item["name"]: item["parameters"]["properties"] for item in documents_of(task)}
    for _ in range(data.draw(st.integers(1, 6))):
        chosen = data.draw(st.sampled_from(sorted(documents)))
        given = {key: data.draw(VALUES) for key in documents[chosen] if data.draw(st.booleans())}
        before = json.dumps(given)
        snapshot = play.world.snapshot()
        ((_, text, _),) = play.turn([(ToolCall("", chosen, given), True)])
        assert isinstance(text, str)
        assert json.dumps(given) == before
        state = play.world.state()
        assert not not_json(state)
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        play.canonical()
        twin.restore(snapshot)
        assert twin.call(chosen, given)["text"] == text, "a moment that is restored is the same"
        assert twin.state() == state


def typed(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a parameter's document asks for, some of which mean something."""
    words = [
        "celsius",
        "fahrenheit",
        "km",
        "USD",
        "SFO",
        "economy",
        "Apple",
        "driver",
        "1e9",
        "",
        "x",
    ]
    numbers = st.integers(-3, 40) | st.floats(-9, 9)
    return {
        "string": st.sampled_from(words),
        "integer": st.integers(-3, 40),
        "number": numbers,
        "boolean": st.booleans(),
        "array": st.lists(numbers | st.sampled_from(words), max_size=3),
        "object": st.dictionaries(st.sampled_from(["status", "title"]), st.text(max_size=3)),
    }[schema["type"]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CLASSES)), st.data())
def test_a_call_says_what_the_method_says(name: str, data: st.DataObject) -> None:
    task = Task("t", "", ("[[]]",), {"classes": [name], "initial_config": {}})
    live, plain = World(task), World(task).live[name]
    documents = {item["name"]: item["parameters"] for item in documents_of(task)}
    for _ in range(3):
        chosen = data.draw(st.sampled_from(sorted(documents)))
        given = {}
        for key, schema in documents[chosen]["properties"].items():
            if key in documents[chosen]["required"] or data.draw(st.booleans()):
                given[key] = data.draw(
                    typed(schema) | VALUES if data.draw(st.booleans()) else typed(schema)
                )
        text = live.call(chosen, given)["text"]
        if "at most 10000" in text or "too large" in text:
            continue
        if "no space left on device" in text:  # undone here: the directory would have no end
            break
        with decimal.localcontext(), mpmath_precision():
            try:
                value = getattr(plain, chosen)(**copy.deepcopy(given))
                told = (
                    json.dumps(value) if isinstance(value, dict) and jsonable(value) else str(value)
                )
            except Exception as error:
                told = f"Error during execution: {error}"
        assert text == told


def mpmath_precision() -> Any:
    mpmath = require_extra("mpmath", "math")
    return mpmath.workprec(mpmath.mp.prec)


def jsonable(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def test_threads_do_not_hear_each_other() -> None:
    tasks = open_tasks("multi_turn_long_context")[50:60]

    def texts(task: Task) -> list[str]:
        live = World(task)
        turns = gold_plan(task)
        said = [live.call(c["name"], c["arguments"])["text"] for turn in turns for c in turn]
        if "VehicleControlAPI" in live.live:
            said += [live.call("get_outside_temperature_from_google", {})["text"] for _ in range(9)]
        return said

    alone = [texts(task) for task in tasks]
    heard: list[list[list[str]]] = []
    threads = [
        threading.Thread(target=lambda: heard.append([texts(task) for task in tasks]))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [alone] * 6


def test_a_tool_is_its_document() -> None:
    document = documents_of(open_tasks("multi_turn_base")[0])[0]
    tool = DocumentedTool(document)
    assert tool.schema()["function"] == document
    assert tool.run(ToolCall("c", tool.name, {"x": 1})).content == "The call was noted."

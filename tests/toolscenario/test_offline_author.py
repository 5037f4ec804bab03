"""The offline author: worlds, questions, tools, scaling, and that every scenario can be solved."""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym.envs.toolscenario.authors.template.author import OfflineAuthor
from toolgym.envs.toolscenario.codegen import formulas
from toolgym.envs.toolscenario.codegen.rendering import PlannedCall, Tool, call
from toolgym.envs.toolscenario.codegen.sources import Secret, source
from toolgym.envs.toolscenario.codegen.toolspecs import KINDS, WEEKDAYS, ToolSpec
from toolgym.envs.toolscenario.compiler.decomposition import Author, decompose
from toolgym.envs.toolscenario.compiler.stages import document, draw_levels, integrate, scale
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.envs.toolscenario.worlds.generated import Names, Sound, generate
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge, open_knowledge, read_triples
from toolgym.envs.toolscenario.worlds.relations import RELATIONS
from toolgym.errors import BadInputError, MissingFileError
from toolgym.sandbox import Sandbox
from toolgym.sandbox.language import check as check_language
from toolgym.scenario import (
    MAX_LEVEL,
    SHAPES,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    Scaled,
    Scenario,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")
STRATEGIES = tuple(Levels.model_fields)


@functools.cache
def author(knowledge: str = "generated", seed: int = 0) -> OfflineAuthor:
    return OfflineAuthor(knowledge, seed=seed)


def all_at(level: int) -> Levels:
    return Levels(**dict.fromkeys(STRATEGIES, level))


def integrated(who: OfflineAuthor, question: Question) -> Integrated:
    return integrate(document(decompose(question, who), who), who)


def written(who: OfflineAuthor, question: Question, levels: Levels, seed: int = 0) -> Scenario:
    """All stages with their checks, but for those of the functions."""
    return who.deploy(scale(integrated(who, question), levels, seed, who))


# Scenarios as a whole


@linux
@pytest.mark.parametrize("knowledge", ["generated", "bundled"])
def test_drawn_scenarios_pass_verification(knowledge: str) -> None:
    who = author(knowledge, 5)
    shapes: Counter[str] = Counter()
    for question in who.questions(8):
        scenario = written(who, question, draw_levels(1, question.id))
        verify(scenario)
        shapes[scenario.shape] += 1
    assert shapes == dict.fromkeys(SHAPES, 2)


@linux
@pytest.mark.parametrize("strategy", [*STRATEGIES, "all"])
def test_every_strategy_at_its_highest_level_leaves_all_answerable(strategy: str) -> None:
    who = author(seed=8)
    levels = all_at(3) if strategy == "all" else Levels(**{strategy: 3})
    for question in list(who.questions(44))[-4:]:
        scenario = written(who, question, levels)
        assert verify(scenario)["results"].keys() == {item.id for item in scenario.sub_questions}


@linux
def test_a_users_triples_become_verified_scenarios(tmp_path: Path) -> None:
    who = OfflineAuthor(str(_orchard(tmp_path)), seed=2)
    questions = set()
    for question in who.questions(6):
        scenario = written(who, question, draw_levels(0, question.id))
        verify(scenario)
        questions.add(scenario.question)
    assert len(questions) == 6
    assert any("orchard" in text or "Baron" in text for text in questions)


def test_it_is_an_author_of_plain_settings() -> None:
    who = author()
    assert isinstance(who, Author)
    assert OfflineAuthor(**who.settings()).settings() == who.settings()  # type: ignore[arg-type]
    assert json.loads(json.dumps(who.settings())) == who.settings()


def test_questions_are_the_same_however_many_are_asked_for() -> None:
    few, many = list(author().questions(7)), list(author().questions(90))
    assert few == many[:7]
    assert len({item.id for item in many}) == 90
    assert {item.split for item in many} == {"train", "validation", "test"}


@functools.cache
def drawn(knowledge: str, count: int = 120) -> tuple[Decomposition, ...]:
    who = author(knowledge, 11)
    return tuple(who.decompose(question) for question in who.questions(count))


@pytest.mark.parametrize("knowledge", ["generated", "bundled"])
def test_wording_is_whole_and_gives_nothing_away(knowledge: str) -> None:
    for made in drawn(knowledge):
        texts = [made.question, *(item.question for item in made.sub_questions)]
        for text in texts:
            assert not re.search(r"[{}_]|  |\bNone \w|\bthe the\b|\bThe the\b| ,|\.\.", text), text
            assert text[-1] in "?.", text
            assert text[0].isupper(), text
        assert "#" not in made.question
        for item in made.sub_questions:
            assert set(re.findall(r"#(\w+)", item.question)) == set(item.needs)
            assert not Secret([item.answer]).told_by(made.question), (made.question, item.answer)


@pytest.mark.parametrize("knowledge", ["generated", "bundled"])
def test_plans_vary_and_go_four_hops_deep_and_four_branches_wide(knowledge: str) -> None:
    rules, kinds, depths, widths = Counter(), Counter(), Counter(), Counter()  # type: ignore[var-annotated]
    for made in drawn(knowledge):
        depth: dict[str, int] = {}
        for item in made.sub_questions:
            depth[item.id] = 1 + max((depth[need] for need in item.needs), default=0)
        rules[made.combination.rule] += 1
        depths[max(depth.values())] += 1
        widths[sum(not item.needs for item in made.sub_questions)] += 1
        kinds.update(step["kind"] for step in made.notes["plan"])
    assert set(depths) == {1, 2, 3, 4}
    assert set(widths) == {1, 2, 3, 4}
    wanted = {"last", "list", "sum", "difference", "first_maximum", "first_minimum", "equal"}
    assert set(rules) == wanted
    assert {"lookup", "find", "distance", "date_difference", "convert_unit"} <= set(kinds)
    assert len({made.question for made in drawn(knowledge)}) >= 0.95 * len(drawn(knowledge))


def test_all_kinds_of_tool_occur() -> None:
    kinds = {
        step["kind"]
        for seed in range(4)
        for question in author(seed=seed).questions(120)
        for step in author(seed=seed).decompose(question).notes["plan"]
    }
    assert kinds == {"lookup", "find", "rank", "count", *KINDS}
    used = {kind for kind, _ in open_knowledge("generated", 0, 400).relations}
    families = {name for _, name in open_knowledge("generated", 0, 400).relations}
    assert len(used) >= 12
    assert len(families) >= 30


# Same arguments, same bytes; every stage from its input alone

_DIGEST = """
import hashlib, json
from toolgym.envs.toolscenario.authors.template.author import OfflineAuthor
from toolgym.envs.toolscenario.compiler.stages import draw_levels
who, found = OfflineAuthor("{knowledge}", seed=4), hashlib.sha256()
for question in who.questions(8):
    made = who.integrate(who.document(who.decompose(question)))
    row = who.deploy(who.scale(made, draw_levels(0, question.id), 9)).to_row()
    found.update(json.dumps(row).encode())
print(found.hexdigest())
"""


@pytest.mark.parametrize("knowledge", ["generated", "bundled"])
def test_another_process_writes_the_same_bytes(knowledge: str) -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST.format(knowledge=knowledge)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_each_stage_goes_on_from_a_row_that_was_written_and_read() -> None:
    who, later = author(seed=3), OfflineAuthor("generated", seed=3)
    for question in who.questions(8):
        made = who.decompose(question)
        told = who.document(made)
        merged = who.integrate(told)
        harder = who.scale(merged, all_at(2), 1)
        assert later.document(_again(made)) == told
        assert later.integrate(_again(told)) == merged
        assert later.scale(_again(merged), all_at(2), 1) == harder
        assert later.deploy(_again(harder)) == who.deploy(harder)


def _again(record: Any) -> Any:
    return type(record).model_validate_json(json.dumps(record.to_row()), strict=False)


def test_seeds_differ() -> None:
    texts = {next(iter(author(seed=seed).questions(1))).id for seed in range(3)}
    asked = {
        author(seed=seed).decompose(next(iter(author(seed=seed).questions(1)))).question
        for seed in range(3)
    }
    assert len(texts) == len(asked) == 3


def test_it_refuses_what_is_not_its_own() -> None:
    who = author()
    with pytest.raises(RejectedError, match="makes up its questions"):
        who.decompose(Question(id="x", text="Who wrote Jane Eyre?"))
    made = who.decompose(next(iter(who.questions(1))))
    with pytest.raises(RejectedError, match="no plan of the offline author"):
        who.document(made.model_copy(update={"notes": {}}))
    documented = who.document(made).model_copy(update={"notes": made.notes})
    with pytest.raises(RejectedError, match="no tools of the offline author"):
        who.integrate(documented)


# Merging


def test_merging_joins_what_overlaps_and_nothing_else() -> None:
    merges = 0
    for place in range(2):
        who = author(seed=place)
        for question in who.questions(60):
            before = who.document(who.decompose(question))
            after = who.integrate(before)
            was = {row["name"]: row for row in before.notes["tools"].values()}
            now = {row["name"]: row for row in after.notes["tools"].values()}
            assert len(before.documents) == len(before.sub_questions)
            for old, new in after.merged.items():
                assert was[old]["kind"] == now[new]["kind"]
                assert was[old]["subject"] == now[new]["subject"]
                assert set(was[old]["relations"]) <= set(now[new]["relations"])
                assert set(was[old]["operations"]) <= {*now[new]["operations"], *["any"]}
            groups = [(row["kind"], row["subject"]) for row in now.values()]
            assert len(groups) == len(set(groups)), "nothing that overlaps is left apart"
            merges += bool(after.merged)
    assert merges > 30


def test_two_facts_of_one_kind_of_entity_become_one_tool_with_an_enumeration() -> None:
    for question in author().questions(200):
        made = author().integrate(author().document(author().decompose(question)))
        found = [item for item in made.documents if item.name == "get_person_fact"]
        if found:
            choices = found[0].parameters["properties"]["fact"]["enum"]
            assert len(choices) >= 2
            calls = [call for call in made.calls if call.tool == "get_person_fact"]
            assert {call.arguments["fact"] for call in calls} == set(choices)
            return
    pytest.fail("no question asked for two facts about people")


# Scaling


def _leaves(schema: Any) -> int:
    if isinstance(schema, dict):
        inner = sum(_leaves(item) for item in schema.get("properties", {}).values())
        return inner + _leaves(schema.get("items")) or ("type" in schema)
    return 0


def _depth(schema: Any) -> int:
    if not isinstance(schema, dict):
        return 0
    below = [*schema.get("properties", {}).values(), schema.get("items")]
    return 1 + max(map(_depth, below))


def _choices(schema: Any) -> int:
    if not isinstance(schema, dict):
        return 0
    below = [*schema.get("properties", {}).values(), schema.get("items")]
    return len(schema.get("enum", ())) + sum(map(_choices, below))


MEASURES = {
    "functional_generalisation": lambda made: sum(
        _leaves(item.parameters) + _choices(item.parameters) for item in made.documents
    ),
    "parameter_expansion": lambda made: sum(_leaves(item.parameters) for item in made.documents),
    "type_generalisation": lambda made: sum(
        _depth(item.parameters) + _leaves(item.parameters) for item in made.documents
    ),
    "toolset_extension": lambda made: len(made.documents),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_level_holds_more_than_the_one_below(strategy: str) -> None:
    measure, totals = MEASURES[strategy], [0] * (MAX_LEVEL + 1)
    for question in author(seed=6).questions(24):
        made = integrated(author(seed=6), question)
        sizes = [
            measure(author(seed=6).scale(made, Levels(**{strategy: level}), 3))
            for level in range(MAX_LEVEL + 1)
        ]
        assert sizes == sorted(sizes), (question.id, sizes)
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
    assert all(low < high for low, high in itertools.pairwise(totals)), totals


def test_scaling_is_decided_by_its_seed_alone() -> None:
    made = integrated(author(), list(author().questions(4))[3])
    once = author().scale(made, all_at(3), 5)
    assert author().scale(made, all_at(3), 5) == once
    assert any(author().scale(made, all_at(3), seed) != once for seed in range(6, 9))


def test_level_nought_changes_nothing() -> None:
    for question in author().questions(12):
        made = integrated(author(), question)
        same = author().scale(made, Levels(), 1)
        assert sorted(d.name for d in same.documents) == sorted(d.name for d in made.documents)
        assert same.calls == made.calls


def _register(text: str) -> dict[str, Any]:
    found = re.search(r"_REGISTER = json\.loads\(r'''(.*?)'''\)", text, re.S)
    return json.loads(found[1]) if found else {}


@linux
def test_distractors_work_but_hold_no_sub_answer() -> None:
    who, looked_up = author(seed=2), 0
    for question in who.questions(12):
        made = written(who, question, Levels(toolset_extension=3))
        secret = Secret(item.answer for item in made.sub_questions)
        box = Sandbox(made.functions)
        specs = {row["name"]: row for row in made.notes["extra"]}
        assert 4 <= len(made.distractors) <= 7
        for name in made.distractors:
            if specs[name]["kind"] != "lookup":
                continue
            for entity in list(_register(made.functions[name]))[:2]:
                result = box.call(name, {specs[name]["subject"]: entity})
                assert result.error is None, result.text
                assert not secret.told_by(result.text)
                looked_up += 1
    assert looked_up > 30


@linux
def test_what_goes_wrong_is_told_without_an_answer() -> None:
    who = author(seed=4)
    for question in who.questions(6):
        made = written(who, question, draw_levels(2, question.id))
        secret, box = Secret(item.answer for item in made.sub_questions), Sandbox(made.functions)
        for item in made.documents:
            fields = item.parameters["properties"]
            bad = [{}, dict.fromkeys(fields, 7.25), dict.fromkeys(fields, "Qwx")]
            for arguments in [*bad, {name: [] for name in fields}, {"nonsense": 1}]:
                result = box.call(item.name, arguments)
                assert result.error == "exception", (item.name, arguments, result.text)
                assert not secret.told_by(result.text), result.text


def test_a_register_holds_other_entities_too() -> None:
    for question in author().questions(40):
        made = written(author(), question, Levels())
        for text in made.functions.values():
            rows = _register(text)
            assert not rows or len(rows) >= 4


# One tool, every parameter


def _tool(spec: ToolSpec, steps: list[PlannedCall] | None = None) -> Sandbox:
    tool = Tool(spec, open_knowledge("bundled", 0, 400))
    text = source(tool, steps or [], Secret([]), random.Random(3))
    return Sandbox({spec.name: text})


def _lookup_step(about: str, relation: str, subject: str, value: Any) -> PlannedCall:
    return PlannedCall("q1", "lookup", value, {"entity": about}, subject, (relation,), about=about)


@linux
def test_a_lookup_with_all_options_does_what_each_says() -> None:
    options = ("include_details", "language", "match", "missing", "date_format")
    spec = ToolSpec("facts", "lookup", "person", ("birth_date", "birthplace"), options=options)
    box = _tool(spec, [_lookup_step("Alan Turing", "birth_date", "person", "1912-06-23")])

    def ask(**arguments: Any) -> Any:
        result = box.call("facts", {"person": "Alan Turing", "fact": "birth_date", **arguments})
        return json.loads(result.text) if result.error is None else result.text

    assert ask() == "1912-06-23"
    assert ask(person="  alan  TURING ") == "1912-06-23"
    assert "no person" in ask(person="alan turing", match="exact")
    assert "did you mean 'Alan Turing'" in ask(person="Alan Turin")
    assert ask(person="Nobody Known", missing="null") is None
    assert ask(date_format="long") == "23 June 1912"
    assert ask(date_format="long", language="de") == "23 Juni 1912"
    detailed = ask(include_details=True, language="fr")
    assert detailed["value"] == "1912-06-23"
    assert detailed["details"] == {"note": "valeur du registre local"}
    assert "fact must be one of" in ask(fact="shoe_size")
    assert "language must be one of en, de, fr" in ask(language="xx")


@linux
def test_a_lookup_of_the_highest_levels_takes_lists_and_records() -> None:
    spec = ToolSpec(
        "facts", "lookup", "mountain", ("height", "first_ascent"), functional=3, typing=3,
        options=("precision",),
    )  # fmt: skip
    steps = [_lookup_step(name, "height", "mountain", 0) for name in ("K2", "Eiger")]
    box = _tool(spec, steps)
    asked = [{"name": name, "kind": "mountain"} for name in ("Eiger", "K2")]
    query = {"mountains": asked, "facts": ["height"]}
    plain = box.call("facts", {"query": query})
    assert json.loads(plain.text) == [{"height": 3967}, {"height": 8611}]
    named = box.call("facts", {"query": query, "options": {"layout": "record"}})
    assert json.loads(named.text)[0] == {"mountain": "Eiger", "height": 3967}
    wrong = {"mountains": [{"name": "Eiger", "kind": "person"}], "facts": ["height"]}
    assert "kind must be 'mountain'" in box.call("facts", {"query": wrong}).text
    assert "lacks 'facts'" in box.call("facts", {"query": {"mountains": asked}}).text


@linux
def test_a_search_takes_some_keys_and_says_when_they_do_not_decide() -> None:
    spec = ToolSpec(
        "find_film", "find", "film", ("director", "release_year"), ("director",), functional=3
    )
    steps = [
        PlannedCall("q", "find", name, {}, "film", ("director", "release_year"), about=name)
        for name in ("Alien", "Blade Runner", "Gladiator")
    ]
    box = _tool(spec, steps)
    both = {"director": "ridley scott", "release_year": 1979}
    assert json.loads(box.call("find_film", both).text) == "Alien"
    assert (
        "3 films have these properties" in box.call("find_film", {"director": "Ridley Scott"}).text
    )
    several = {"director": "Ridley Scott", "max_results": 2, "order": "alphabetical"}
    assert json.loads(box.call("find_film", several).text) == ["Alien", "Blade Runner"]
    assert "no film" in box.call("find_film", {**both, "release_year": 1980}).text


@linux
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_computing_tools_compute_at_every_level(kind: str) -> None:
    inputs: dict[str, dict[str, Any]] = {
        "distance": {"points": [[48.86, 2.35], [51.51, -0.13]]},
        "date_difference": {"start_date": "2000-01-01", "end_date": "2001-01-01"},
        "count_weekdays": {
            "start_date": "2024-01-01",
            "end_date": "2024-12-31",
            "weekday": "monday",
        },
        "add_days": {"date": "2024-02-28", "days": 366},
        "convert_unit": {"value": 1000, "from_unit": "metres", "to_unit": "feet"},
        "convert_currency": {"amount": 250.5, "rate": 1.25, "currency": "EUR"},
        "aggregate": {"values": [15, 20, 40]},
        "share": {"part": 100, "whole": 8},
        "sort": {"values": [3.5, 10, 7], "order": "descending"},
    }
    wanted = {
        "distance": 343.5, "date_difference": 366, "count_weekdays": 53, "add_days": "2025-02-28",
        "convert_unit": 3280.84, "convert_currency": 313.13, "aggregate": 25, "share": 12.5,
        "sort": [10, 7, 3.5],
    }[kind]  # fmt: skip
    operations = {"aggregate": ("mean",), "convert_unit": ("metres", "feet")}.get(kind, ())
    step = PlannedCall(
        "q1", kind, wanted, inputs[kind], operation="mean" if kind == "aggregate" else ""
    )
    knowledge = open_knowledge("bundled", 0, 400)
    for functional in range(4):
        for typing in range(4):
            ops = ("mean", "sum") if functional and kind == "aggregate" else operations
            spec = ToolSpec("tool", kind, operations=ops, functional=functional, typing=typing)
            tool = Tool(spec, knowledge)
            made = call(tool, step, {"q1": tool}, {"q1": step})
            result = _tool(spec).call("tool", made.arguments)
            assert json.loads(result.text) == wanted, (functional, typing)


# Formulas, against other ways to the same


@given(
    st.dates(datetime.date(1600, 1, 1), datetime.date(2200, 1, 1)),
    st.dates(datetime.date(1600, 1, 1), datetime.date(2200, 1, 1)),
    st.integers(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_weekdays_are_counted_as_one_by_one(a: datetime.date, b: datetime.date, day: int) -> None:
    b = min(b, a + datetime.timedelta(days=900)) if b >= a else max(b, a - datetime.timedelta(900))
    low, high = min(a, b), max(a, b)
    every = [low + datetime.timedelta(days=n) for n in range((high - low).days + 1)]
    name = WEEKDAYS[day]
    wanted = sum(item.weekday() == day for item in every)
    assert formulas.count_weekdays(a, b, name) == wanted
    weekdays = formulas.date_difference(a, b, inclusive=True, days_counted="weekdays")
    assert weekdays == sum(item.weekday() < 5 for item in every)


@given(st.decimals(-(10**6), 10**6, places=4), st.integers(0, 3))
def test_rounding_is_half_away_from_zero(value: Decimal, digits: int) -> None:
    wanted = abs(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP).copy_sign(value)
    assert formulas.round_number(float(value), digits) == pytest.approx(float(wanted), abs=1e-9)


def test_known_distances_and_calendars() -> None:
    assert formulas.great_circle([(0, 0), (0, 180)]) == pytest.approx(20015.1, abs=0.1)
    assert formulas.great_circle([(90, 0), (0, 77)]) == pytest.approx(10007.6, abs=0.1)
    paris, london = (48.8566, 2.3522), (51.5074, -0.1278)
    assert formulas.great_circle([paris, london]) == pytest.approx(343.6, abs=0.5)
    east = formulas.great_circle([(0, 0), (0, 10)], measure="initial_bearing")
    assert east == pytest.approx(90)
    gregorian = formulas.read_date("1582-10-05", "date", "julian")
    assert gregorian == datetime.date(1582, 10, 15)
    assert formulas.read_date("1900-03-01", "date", "julian") == datetime.date(1900, 3, 14)
    assert formulas.read_date("1900-02-28", "date", "julian") == datetime.date(1900, 3, 12)


# Worlds


def _facts(seed: int, size: int) -> Iterator[tuple[str, str, Any]]:
    for row in generate(seed, size):
        yield row.subject, row.relation, row.object


@given(st.integers(0, 10**6), st.sampled_from([120, 300]))
@settings(max_examples=12, deadline=None)
def test_worlds_fit_together(seed: int, size: int) -> None:
    facts = {(subject, relation): value for subject, relation, value in _facts(seed, size)}
    knowledge = Knowledge(generate(seed, size), closed=True)
    assert len(facts) == len(knowledge.facts), "every relation is functional"
    for (subject, relation), value in facts.items():
        kind = knowledge.type_of[subject]
        if (kind, relation) == ("country", "capital"):
            assert facts[str(value), "country"] == subject
        elif relation == "coordinates":
            assert abs(value[0]) <= 90
            assert abs(value[1]) <= 180
        elif relation == "death_date":
            born = datetime.date.fromisoformat(facts[subject, "birth_date"])
            years = (datetime.date.fromisoformat(value) - born).days / 365.25
            assert 20 < years < 105
        elif relation in ("author", "director", "founder"):
            named = {"author": "publication_year", "director": "release_year"}
            year = facts[subject, named.get(relation, "founded_year")]
            assert int(facts[value, "birth_date"][:4]) + 18 <= year
            assert year <= int(facts.get((value, "death_date"), "2019")[:4])
        elif relation == "publisher":
            assert facts[value, "founded_year"] <= facts[subject, "publication_year"]
        elif relation in ("mayor", "captain", "employer"):
            assert (value if relation != "employer" else subject, "death_date") not in facts


def test_worlds_of_any_size_hold_that_many_invented_entities() -> None:
    real = set(open_knowledge("bundled", 0, 400).type_of)
    for size in (120, 400, 3000):
        knowledge = Knowledge(generate(1, size), closed=True)
        assert 0.9 * size <= len(knowledge.type_of) <= 1.3 * size
        assert not real & set(knowledge.type_of)
    assert generate(1, 120) != generate(2, 120)
    with pytest.raises(BadInputError, match="at least 120, not 7"):
        generate(0, 7)


def test_names_are_given_once() -> None:
    names = Names(random.Random(1))
    sound = Sound(random.Random(1))
    made = [names.person(sound) for _ in range(2000)] + [names.town(sound) for _ in range(2000)]
    assert len(set(made)) == 4000
    assert all(re.fullmatch(r"[^\W\d_]{4,14}( [^\W\d_]{4,14})?", name) for name in made)


def test_bundled_facts_are_consistent() -> None:
    knowledge = open_knowledge("bundled", 0, 400)
    assert len(knowledge.facts) > 1200
    assert len({name for _, name in knowledge.relations}) >= 20
    for (subject, relation), value in knowledge.facts.items():
        born = knowledge.facts.get((subject, "birth_date"))
        if relation == "death_date" and born:
            assert str(born) < str(value), subject
        if relation in ("author", "director", "composer"):
            maker = knowledge.facts.get((str(value), "birth_date"))
            works = ("publication_year", "release_year", "premiere_date")
            when = next(
                knowledge.facts[subject, key] for key in works if (subject, key) in knowledge.facts
            )
            assert maker is None or int(str(maker)[:4]) + 15 < int(str(when)[:4]), subject
        if knowledge.relation(subject, relation).entity:
            assert knowledge.type_of[str(value)] == knowledge.relation(subject, relation).object
    for city in knowledge.by_type["city"]:
        assert (city, "country") in knowledge.facts or city in ("London",), city
    assert knowledge.facts["France", "capital"] == "Paris"
    assert knowledge.facts["Alan Turing", "birth_date"] == "1912-06-23"
    assert all(len(relation.phrases) and len(relation.asks) for relation in RELATIONS.values())


# A user's own triples


def _orchard(folder: Path) -> Path:
    rows = []
    growers = ["Ada Baron", "Ben Crowe", "Cia Dunn", "Dov Elster", "Eli Frost", "Fay Gale"]
    for place, grower in enumerate(growers):
        rows.append(
            {
                "subject": f"{grower[:3]}wood orchard",
                "relation": "planted_by",
                "object": grower,
                "subject_type": "orchard",
                "object_type": "person",
            }
        )
        rows.append(
            {
                "subject": f"{grower[:3]}wood orchard",
                "relation": "tree_count",
                "object": 211 + 37 * place,
                "subject_type": "orchard",
                "unit": "trees",
            }
        )
        rows.append(
            {"subject": grower, "relation": "birth_date", "object": f"19{place + 31}-04-1{place}"}
        )
        rows.append(
            {
                "subject": grower,
                "relation": "favourite_apple",
                "object": f"{grower[4:]} Russet",
                "object_type": "apple",
            }
        )
        rows.append(
            {
                "subject": f"{grower[4:]} Russet",
                "relation": "ripening_date",
                "object": f"2020-09-{place + 11}",
            }
        )
        rows.append({"subject": f"{grower[:3]}wood orchard", "relation": "coordinates",
                     "object": [51.11 + place, -2.37 - place]})  # fmt: skip
    path = folder / "orchards.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def test_types_and_unknown_relations_are_understood(tmp_path: Path) -> None:
    knowledge = open_knowledge(str(_orchard(tmp_path)), 0, 400)
    assert {"orchard", "person", "apple"} == set(knowledge.by_type)
    assert knowledge.relation("Ada Baron", "favourite_apple").object == "apple"
    assert knowledge.relation("Adawood orchard", "tree_count").unit == "trees"
    assert knowledge.relation("Ada Baron", "birth_date").event == "the birth of {s}"
    assert knowledge.facts["Adawood orchard", "coordinates"] == (51.11, -2.37)


def test_a_relation_with_two_values_is_not_asked_about(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    facts = [("A Book", "author", "Ann One"), ("A Book", "author", "Bob Two"),
             ("A Book", "publication_year", 1999)]  # fmt: skip
    path.write_text(
        "\n".join(
            json.dumps(dict(zip(("subject", "relation", "object"), f, strict=True))) for f in facts
        )
    )
    assert set(open_knowledge(str(path), 0, 400).facts) == {("A Book", "publication_year")}


WORDS = (
    *("class", "order", "list", "name", "type", "results", "arguments", "options", "query", "fact"),
    *("limit", "language", "missing", "json", "find_name", "value", "str", "lambda", "map", "city"),
)


@pytest.mark.parametrize("seed", range(6))
def test_words_that_python_or_tools_use_make_sound_tools_too(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    kinds, rows = rng.sample(WORDS, 3), []
    named = {kind: [f"{kind} O'Näme {n}" for n in range(101, 109)] for kind in kinds}
    for kind in kinds:
        for place, relation in enumerate(rng.sample(WORDS, 3)):
            other = kinds[rng.randrange(3)]
            for number, subject in enumerate(named[kind]):
                value = [rng.choice(named[other]), 1_000 + 77 * number, f"19{number + 20}-05-11"][
                    place
                ]
                types = {"object_type": other} if place == 0 else {}
                rows.append({"subject": subject, "relation": relation, "object": value,
                             "subject_type": kind, **types})  # fmt: skip
    path = tmp_path / "odd.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    who, made = OfflineAuthor(str(path), seed=seed), 0
    for question in who.questions(16):
        try:
            who.decompose(question)
        except RejectedError:  # three kinds of entity may have no chain
            continue
        scenario = written(who, question, all_at(made % 4))
        made += 1
        for name, text in scenario.functions.items():
            tree = check_language(text)
            assert any(getattr(node, "name", "") == name for node in tree.body)
    assert made > 8


GOOD = {"subject": "Jane Eyre", "relation": "author", "object": "Charlotte Brontë"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relation": None}, "'relation' must be a text, not None"),
        ({"subjekt": "x"}, "unknown field 'subjekt'; fields: subject"),
        ({"relation": "Written By"}, "lower-case letters"),
        ({"object": True}, "must be a text, number or point, not True"),
        ({"object": [91, 0]}, "out of range"),
        ({"object": [1, 2, 3]}, r"text, number or \[latitude, longitude\]"),
        ({"subject": "Eyre, Jane"}, "holds a comma"),
        ({"subject": " "}, "needs 1 to 80 characters"),
        ({"object": "x" * 99}, "needs 1 to 80 characters"),
        ({"subject_type": "date"}, "a date cannot have properties"),
        ({"object_type": "A Person"}, "must be a word such as 'city'"),
        ({"object": 1847}, "the author of 'Jane Eyre' must be a person, 1847 is a number"),
    ],
)
def test_a_bad_row_gives_one_clear_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "subject": "Villette", **change}))
    if "author of" in message:
        message = message.replace("Jane Eyre", "Villette")
    with pytest.raises(BadInputError, match=message) as caught:
        OfflineAuthor(str(path))
    assert "line 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_files_and_torn_lines(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        OfflineAuthor(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadInputError, match="holds no fact"):
        read_triples(tmp_path / "empty.jsonl")
    (tmp_path / "torn.jsonl").write_text('{"subject": "a"')
    with pytest.raises(BadInputError, match="line 1: not valid JSON"):
        read_triples(tmp_path / "torn.jsonl")
    two = [{**GOOD, "subject_type": "book"}, {**GOOD, "subject_type": "film", "relation": "x"}]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, two)))
    with pytest.raises(BadInputError, match="'Jane Eyre' is a film here and a book before"):
        OfflineAuthor(str(tmp_path / "two.jsonl"))


def test_too_little_knowledge_is_a_rejection_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps(GOOD))
    who = OfflineAuthor(str(tmp_path / "one.jsonl"))
    outcomes = []
    for question in who.questions(8):
        try:
            outcomes.append(who.decompose(question).shape)
        except RejectedError as error:
            outcomes.append(error.reason)
    assert set(outcomes) == {"single-hop", "no_plan"}


def test_records_are_of_their_stage() -> None:
    question = next(iter(author().questions(1)))
    made = author().decompose(question)
    told = author().document(made)
    merged = author().integrate(told)
    harder = author().scale(merged, Levels(), 0)
    kinds = [type(item) for item in (made, told, merged, harder, author().deploy(harder))]
    assert kinds == [Decomposition, Documented, Integrated, Scaled, Scenario]

"""The scenario compiler: stages, verification, the build, files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym.envs.toolscenario.compiler.decomposition import combine
from toolgym.envs.toolscenario.compiler.pipeline import BuildReport, build_folder, compile_scenarios
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.errors import BadInputError, RunMismatchError
from toolgym.scenario import (
    Combination,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    ReferenceCall,
    Scaled,
    Scenario,
    SubQuestion,
    ToolDocument,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs seccomp")

# The worker processes of a build cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SYLLABLES = ("ba", "dor", "ki", "lum", "ne", "pra", "su", "tov", "vel", "zim")


def name(kind: str, number: int) -> str:
    """An invented name: the same for the same number, different for others."""
    return (kind + "".join(SYLLABLES[int(digit)] for digit in f"{number:03}")).title()


LOOK_UP = """
def {name}({parameter}):
    known = {table!r}
    if not isinstance({parameter}, str):
        raise ValueError("{parameter} must be a text")
    if {parameter} not in known:
        return {{"error": "nothing is known about this {parameter}"}}
    return {{"{key}": known[{parameter}]}}
"""


def source(name: str, parameter: str, key: str, table: dict[str, str]) -> str:
    return LOOK_UP.format(name=name, parameter=parameter, key=key, table=table)


def document(name: str, parameter: str, what: str) -> ToolDocument:
    properties = {parameter: {"type": "string", "description": f"Name of the {parameter}."}}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    return ToolDocument(name=name, description=what, parameters=parameters)


CAPITAL = document("get_capital", "country", "Look up the capital of a country.")
MAYOR = document("get_mayor", "city", "Look up who governs a city.")
RIVER = document("get_river", "country", "Look up the longest river of a country.")


def functions(number: int) -> dict[str, str]:
    """Sources that know the answers to one question, and a little more."""
    near = (number, number + 1, number + 2)
    capitals = {name("a", n): name("b", n) for n in near}
    mayors = {name("b", n): name("c", n) for n in near}
    return {
        "get_capital": source("get_capital", "country", "capital", capitals),
        "get_mayor": source("get_mayor", "city", "mayor", mayors),
        "get_river": source("get_river", "country", "river", {name("a", number): "Salt Run"}),
    }


class TinyAuthor:
    """A program that asks for mayors of capitals; every fifth question is a bad one."""

    name = "tiny"

    def __init__(self, bad: bool = True, delay: float = 0.0) -> None:
        self.bad, self.delay = bad, delay

    def settings(self) -> dict[str, object]:
        return {"bad": self.bad}

    def questions(self, count: int) -> Iterator[Question]:
        return (Question(id=f"t-{number}", notes={"n": number}) for number in range(count))

    def decompose(self, question: Question) -> Decomposition:
        time.sleep(self.delay)
        number = question.notes["n"]
        country, capital, mayor = (name(kind, number) for kind in "abc")
        if self.bad and number % 5 == 4:
            mayor = "Nobody Atall"
        return Decomposition(
            id=question.id,
            question=f"Who governs the capital of {country}?",
            answers=(mayor,),
            sub_questions=(
                SubQuestion(
                    id="q1", question=f"Which is the capital of {country}?", answer=capital
                ),
                SubQuestion(id="q2", question="Who governs #q1?", answer=mayor, needs=("q1",)),
            ),
            combination=Combination(rule="last", of=("q2",)),
            notes={"country": country, "n": number},
        )

    def document(self, made: Decomposition) -> Documented:
        country = made.notes["country"]
        calls = (
            ReferenceCall(sub_question="q1", tool="get_capital", arguments={"country": country}),
            ReferenceCall(
                sub_question="q2",
                tool="get_mayor",
                arguments={"city": {"$from": "q1", "path": ["capital"]}},
            ),
        )
        return Documented(**dict(made), documents=(CAPITAL, MAYOR), calls=calls)

    def integrate(self, made: Documented) -> Integrated:
        return Integrated(**dict(made))

    def scale(self, made: Integrated, levels: Levels, seed: int) -> Scaled:
        extended = levels.toolset_extension > 0
        documents = (*made.documents, RIVER) if extended else made.documents
        fields = {**dict(made), "documents": documents, "levels": levels}
        return Scaled(**fields, distractors=("get_river",) if extended else ())

    def deploy(self, made: Scaled) -> Scenario:
        sources = functions(made.notes["n"])
        chosen = {item.name: sources[item.name] for item in made.documents}
        return Scenario(**dict(made), functions=chosen, author=self.name)


def scenario(number: int = 0) -> Scenario:
    author = TinyAuthor(bad=False)
    (*_, question) = author.questions(number + 1)
    made = author.integrate(author.document(author.decompose(question)))
    return author.deploy(author.scale(made, Levels(toolset_extension=1), 0))


def changed(made: Scenario, **fields: Any) -> Scenario:
    return made.model_copy(update=fields)


def reason(made: Scenario, timeout: float = 5.0) -> str:
    with pytest.raises(RejectedError) as caught:
        verify(made, timeout)
    assert caught.value.stage == "verification"
    return caught.value.reason


def test_a_good_scenario_passes_and_says_what_its_calls_gave() -> None:
    facts = verify(scenario())
    assert facts["results"] == {"q1": '{"capital": "Bbababa"}', "q2": '{"mayor": "Cbababa"}'}
    assert facts["probes"] > 20


def with_function(name: str, text: str) -> Scenario:
    made = scenario()
    return changed(made, functions={**made.functions, name: text})


def with_document(number: int, **fields: Any) -> Scenario:
    made = scenario()
    documents = list(made.documents)
    documents[number] = documents[number].model_copy(update=fields)
    return changed(made, documents=tuple(documents))


def with_call(number: int, **fields: Any) -> Scenario:
    made = scenario()
    calls = list(made.calls)
    calls[number] = calls[number].model_copy(update=fields)
    return changed(made, calls=tuple(calls))


def with_sub_question(number: int, **fields: Any) -> Scenario:
    made = scenario()
    items = list(made.sub_questions)
    items[number] = items[number].model_copy(update=fields)
    return changed(made, sub_questions=tuple(items))


MAYOR_KNOWN = "def get_mayor(city):\n    return {'mayor': 'Cbababa'} if city == 'Bbababa' else "
RIVER_GIVES = "def get_river(country):\n    return "
BROKEN = {
    "wrong_result": lambda: with_function(
        "get_mayor", MAYOR_KNOWN.replace("Cbababa", "Zed") + "{}"
    ),
    "answer_in_question": lambda: changed(
        scenario(), question="Who governs Bbababa, the capital of Abababa?"
    ),
    "answer_in_document": lambda: with_document(1, description="Who governs a city like Bbababa."),
    "answer_in_other_result": lambda: with_function(
        "get_capital",
        "def get_capital(country):\n    return {'capital': 'Bbababa', 'mayor': 'Cbababa'}",
    ),
    "answer_in_error": lambda: with_function(
        "get_mayor", MAYOR_KNOWN + "{'error': 'unknown city; mayors: Cbababa, Cbabado'}"
    ),
    "answer_without_arguments": lambda: with_function(
        "get_mayor", "def get_mayor(city):\n    return {'mayor': 'Cbababa'}"
    ),
    "distractor_solves": lambda: with_function("get_river", RIVER_GIVES + "{'ruler': 'Cbababa'}"),
    "answer_from_other_tool": lambda: with_function(
        "get_mayor", MAYOR_KNOWN + "({'of': 'Bbababa'} if city == 'Abababa' else {})"
    ),
    "echoes_arguments": lambda: with_function(
        "get_mayor",
        "def get_mayor(city):\n"
        "    return {'mayor': 'Cbababa' if city == 'Bbababa' else '', 'of': city}",
    ),
    "nondeterministic": lambda: with_function(
        "get_mayor",
        "def get_mayor(city):\n    return {'mayor': 'Cbababa', 'names': str(set('abcdefgh'))}",
    ),
    "timeout": lambda: with_function(
        "get_mayor", MAYOR_KNOWN.replace("return", "while city == '': pass\n    return") + "{}"
    ),
    "memory": lambda: with_function(
        "get_mayor", MAYOR_KNOWN.replace("{'mayor'", "[0] * 10**9 and {'mayor'") + "{}"
    ),
    "failed_call": lambda: with_function("get_mayor", "def get_mayor(city):\n    return 1 / 0"),
    "bad_function": lambda: with_function("get_mayor", "import os\n" + MAYOR_KNOWN + "{}"),
    "unfilled_reference": lambda: with_call(
        1, arguments={"city": {"$from": "q1", "path": ["mayor"]}}
    ),
    "bad_arguments": lambda: with_call(0, arguments={"land": "Abababa"}),
    "literal_answer": lambda: with_call(1, arguments={"city": "bbababa"}),
    "unknown_tool": lambda: with_call(0, tool="get_capitol"),
    "wrong_distractors": lambda: changed(scenario(), distractors=()),
    "functions_differ": lambda: changed(
        scenario(), functions={"get_mayor": functions(0)["get_mayor"]}
    ),
    "bad_document": lambda: with_document(0, name="get capital"),
    "wrong_combination": lambda: changed(scenario(), answers=("Cbabado",)),
    "unused_sub_question": lambda: changed(
        scenario(), combination=Combination(rule="last", of=("q1",))
    ),
    "needs_later": lambda: with_sub_question(0, needs=("q2",)),
    "unlisted_need": lambda: with_sub_question(1, needs=()),
    "unknown_need": lambda: with_sub_question(1, needs=("q1", "q7")),
    "duplicate_id": lambda: with_sub_question(1, id="q1"),
    "calls_differ": lambda: changed(scenario(), calls=scenario().calls[::-1]),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_rule_rejects_what_breaks_it(broken: str) -> None:
    assert reason(BROKEN[broken](), timeout=1.0 if broken == "timeout" else 5.0) == broken


@pytest.mark.parametrize(
    "text",
    [
        "import random\ndef get_mayor(city):\n"
        "    return {'mayor': 'Cbababa', 'n': random.random()} if city == 'Bbababa' else {}",
        "seen = []\ndef get_mayor(city):\n    seen.append(city)\n"
        "    return {'mayor': 'Cbababa', 'n': len(seen)} if city == 'Bbababa' else {}",
        "import datetime\ndef get_mayor(city):\n"
        "    day = str(datetime.date.today())\n"
        "    return {'mayor': 'Cbababa', 'day': day} if city == 'Bbababa' else {}",
    ],
    ids=["random", "state", "clock"],
)
def test_a_function_must_always_say_the_same(text: str) -> None:
    assert reason(with_function("get_mayor", text)) == "nondeterministic"


MALICIOUS = {
    "writes": "open({canary!r}, 'w').write('pwned')",
    "deletes": "__import__('os').remove({canary!r})",
    "shell": "__import__('subprocess').run(['touch', {canary!r}])",
    "escapes": "().__class__.__base__.__subclasses__()",
    "evaluates": "eval('1+1')",
}


@pytest.mark.parametrize("kind", MALICIOUS)
@pytest.mark.parametrize("where", ["body", "top"])
def test_malicious_functions_do_nothing_and_are_rejected(
    kind: str, where: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    attack = MALICIOUS[kind].format(canary=str(canary))
    good = "{'mayor': 'Cbababa'} if city == 'Bbababa' else {}"
    body = f"def get_mayor(city):\n    {attack}\n    return {good}"
    top = f"{attack}\ndef get_mayor(city):\n    return {good}"
    found = reason(with_function("get_mayor", body if where == "body" else top))
    assert found in ("bad_function", "failed_call")
    assert canary.read_text() == "alive"
    assert [item.name for item in tmp_path.iterdir()] == ["canary"]


def test_texts_that_everyone_can_guess_are_no_leak() -> None:
    made = scenario()
    items = (made.sub_questions[0], made.sub_questions[1].model_copy(update={"answer": "yes"}))
    sources = {
        **made.functions,
        "get_mayor": "def get_mayor(city):\n    return 'yes' if city == 'Bbababa' else 'no: yes?'",
    }
    verify(changed(made, sub_questions=items, answers=("yes",), functions=sources))


COMBINED = [
    ("last", ("Rome",), (), "Rome"),
    ("list", ("Rome", "Oslo"), (), "Rome, Oslo"),
    ("count", ("Rome, Oslo", "Bern"), (), "3"),
    ("sum", ("1,200", "0.5"), (), "1200.5"),
    ("difference", ("3", "10"), (), "7"),
    ("difference", ("2020-03-01", "2020-02-28"), (), "2"),
    ("maximum", ("9", "10"), (), "10"),
    ("minimum", ("9 km", "10 km"), (), "9 km"),
    ("first_maximum", ("9", "10"), ("A", "B"), "B"),
    ("first_minimum", ("1990-05-02", "1989-12-31"), ("A", "B"), "B"),
    ("equal", ("Peru", "peru"), (), "yes"),
    ("equal", ("Peru", "Chile"), (), "no"),
    ("last", ("Rome", "Oslo"), (), None),
    ("sum", ("1", "none"), (), None),
    ("first_maximum", ("5", "5"), ("A", "B"), None),
    ("first_maximum", ("5", "6"), ("A",), None),
]


@pytest.mark.parametrize(("rule", "answers", "labels", "wanted"), COMBINED)
def test_rules_of_combination(
    rule: Any, answers: tuple[str, ...], labels: tuple[str, ...], wanted: str | None
) -> None:
    ids = tuple(f"q{number}" for number in range(len(answers)))
    combination = Combination(rule=rule, of=ids, labels=labels)
    assert combine(combination, dict(zip(ids, answers, strict=True))) == wanted


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=5))
def test_sums_are_exact(numbers: list[int]) -> None:
    ids = tuple(f"q{number}" for number in range(len(numbers)))
    answers = {name: f"{value:,}" for name, value in zip(ids, numbers, strict=True)}
    found = combine(Combination(rule="sum", of=ids), answers)
    assert found == str(sum(numbers))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(out: Path) -> dict[str, bytes]:
    """The bytes of a build, but for the settings, which name versions."""
    stages = sorted(build_folder(out).glob("*.jsonl"))
    return {path.name: path.read_bytes() for path in (out, *stages)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """A build that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    return out, compile_scenarios(TinyAuthor(), out, 6)


def test_a_build_keeps_every_stage_and_every_rejection(whole: tuple[Path, BuildReport]) -> None:
    out, report = whole
    assert (report.scenarios, report.tried, report.made) == (6, 7, 7)
    assert report.shapes["multi-hop"] == 6
    assert report.rejected == {"verification/wrong_result": 1}
    assert [sum(numbers) for numbers in report.levels.values()] == [6] * 4
    folder = build_folder(out)
    for stage in ("decomposition", "documents", "integration", "scaling", "deployment"):
        assert [row["id"] for row in rows(folder / f"{stage}.jsonl")] == [
            f"t-{number}" for number in range(7)
        ]
    (rejected,) = rows(folder / "rejected.jsonl")
    assert rejected["id"] == "t-4"
    assert rejected["record"]["functions"]
    assert "Nobody Atall" in rejected["message"]
    assert [Scenario.from_row(row).id for row in rows(out)] == [
        row["id"] for row in rows(folder / "verification.jsonl")
    ]


def test_more_workers_and_more_sittings_give_the_same_bytes(
    whole: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    for count, workers in ((2, 2), (6, 1)):
        report = compile_scenarios(TinyAuthor(), out, count, workers=workers)
        assert report.scenarios == count
    assert list(content(out).values()) == list(content(whole[0]).values())


def test_levels_depend_on_seed_and_id_alone(tmp_path: Path) -> None:
    for seed in (0, 1):
        compile_scenarios(TinyAuthor(bad=False), tmp_path / f"{seed}.jsonl", 2, seed)
    zero, one = (rows(tmp_path / f"{seed}.jsonl") for seed in (0, 1))
    assert [row["levels"] for row in zero] != [row["levels"] for row in one]
    fixed = Levels(toolset_extension=1)
    compile_scenarios(TinyAuthor(bad=False), tmp_path / "f.jsonl", 2, levels=fixed)
    assert [row["levels"] for row in rows(tmp_path / "f.jsonl")] == [fixed.to_row()] * 2


def test_a_stage_can_be_run_again(tmp_path: Path) -> None:
    out, straight = tmp_path / "out.jsonl", tmp_path / "straight.jsonl"
    compile_scenarios(TinyAuthor(), out, 4)
    before = (build_folder(out) / "integration.jsonl").read_bytes()
    fixed = Levels(toolset_extension=1)
    report = compile_scenarios(TinyAuthor(), out, 4, levels=fixed, from_stage="scaling")
    assert report.made == 4
    assert (build_folder(out) / "integration.jsonl").read_bytes() == before
    compile_scenarios(TinyAuthor(), straight, 4, levels=fixed)
    assert out.read_bytes() == straight.read_bytes()


class BrokenAuthor(TinyAuthor):
    """Fails in the stage that it is told to fail in."""

    def __init__(self, stage: str) -> None:
        super().__init__(bad=False)
        self.stage = stage

    def decompose(self, question: Question) -> Decomposition:
        made = super().decompose(question)
        if self.stage == "question":
            return made.model_copy(update={"id": "other"})
        return made.model_copy(update={"answers": ()}) if self.stage == "answers" else made

    def document(self, made: Decomposition) -> Documented:
        if self.stage == "refuses":
            raise RejectedError("documents", "no_idea", "I know no tool for this")
        return super().document(made)

    def integrate(self, made: Documented) -> Integrated:
        if self.stage == "loses":
            return Integrated(**{**dict(made), "documents": made.documents[:1]})
        if self.stage == "wrong type":
            return made  # type: ignore[return-value]
        return super().integrate(made)

    def scale(self, made: Integrated, levels: Levels, seed: int) -> Scaled:
        scaled = super().scale(made, levels, seed)
        if self.stage == "changes":
            return scaled.model_copy(update={"answers": ("another",)})
        return scaled

    def deploy(self, made: Scaled) -> Scenario:
        if self.stage == "invalid":
            return Scenario(**dict(made), functions={"get_mayor": 7})  # type: ignore[dict-item]
        return super().deploy(made)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        ("question", "decomposition/changed_id"),
        ("answers", "decomposition/empty_answer"),
        ("refuses", "documents/no_idea"),
        ("loses", "integration/unknown_tool"),
        ("wrong type", "integration/invalid_record"),
        ("changes", "scaling/changed_answers"),
        ("invalid", "deployment/invalid_record"),
    ],
)
def test_each_stage_checks_what_the_author_gave(stage: str, wanted: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    report = compile_scenarios(BrokenAuthor(stage), out, 1)
    assert report.scenarios == 0
    assert report.rejected == {wanted: 4}
    assert out.read_bytes() == b""


class RepeatingAuthor(TinyAuthor):
    """Asks each question twice, the second time in other words."""

    def decompose(self, question: Question) -> Decomposition:
        number = question.notes["n"]
        made = super().decompose(Question(id=question.id, notes={"n": number // 2}))
        if number % 2:
            words = made.question.replace("Who governs", "who GOVERNS") + " "
            return made.model_copy(update={"question": words})
        return made


def test_near_duplicates_are_dropped(tmp_path: Path) -> None:
    report = compile_scenarios(RepeatingAuthor(bad=False), tmp_path / "out.jsonl", 3)
    assert report.rejected == {"verification/duplicate": 2}
    ids = [row["id"] for row in rows(tmp_path / "out.jsonl")]
    assert ids == ["t-0", "t-2", "t-4"]
    assert "'t-0'" in rows(build_folder(tmp_path / "out.jsonl") / "rejected.jsonl")[0]["message"]


KILLED = """
import sys
sys.path.insert(0, {folder!r})
import importlib.util
spec = importlib.util.spec_from_file_location("tiny_scenarios", {file!r})
module = importlib.util.module_from_spec(spec)
sys.modules["tiny_scenarios"] = module
spec.loader.exec_module(module)
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios
compile_scenarios(module.TinyAuthor(delay=0.1), {out!r}, 6, workers={workers})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_goes_on_with_the_same_bytes(
    workers: int, whole: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    code = KILLED.format(folder=str(tmp_path), file=__file__, out=str(out), workers=workers)
    finished = build_folder(out) / "verification.jsonl"
    for wanted in (1, 3):  # scenarios that are finished when the process is killed
        child = subprocess.Popen([sys.executable, "-c", code])
        while child.poll() is None:
            if finished.is_file() and finished.read_bytes().count(b"\n") >= wanted:
                os.kill(child.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        assert child.wait() == -signal.SIGKILL
    with (build_folder(out) / "scaling.jsonl").open("ab") as stream:
        stream.write(b'{"id": "t-')  # what a kill in the middle of a write leaves
    report = compile_scenarios(TinyAuthor(), out, 6)
    assert report.made < report.tried
    assert list(content(out).values()) == list(content(whole[0]).values())


def test_a_scenario_that_was_cut_short_is_taken_up_where_it_ended(
    whole: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    shutil.copytree(build_folder(whole[0]), build_folder(out))
    for name, kept in (("verification", 2), ("rejected", 0), ("deployment", 3), ("scaling", 4)):
        file = build_folder(out) / f"{name}.jsonl"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:kept]))
    report = compile_scenarios(TinyAuthor(), out, 6)
    assert (report.scenarios, report.made) == (6, 5)
    assert list(content(out).values()) == list(content(whole[0]).values())


def test_a_build_refuses_what_does_not_fit(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    compile_scenarios(TinyAuthor(), out, 1)
    with pytest.raises(RunMismatchError, match="begun with seed = 0, now it is 1"):
        compile_scenarios(TinyAuthor(), out, 1, seed=1)
    with pytest.raises(RunMismatchError, match="begun with author"):
        compile_scenarios(TinyAuthor(bad=False), out, 1)
    with pytest.raises(BadInputError, match=r"no stage 'scalling'.*did you mean 'scaling'"):
        compile_scenarios(TinyAuthor(), out, 1, from_stage="scalling")
    with pytest.raises(BadInputError, match="holds no build"):
        compile_scenarios(TinyAuthor(), tmp_path / "new.jsonl", 1, from_stage="scaling")
    with pytest.raises(BadInputError, match="count must be a whole number of at least 1"):
        compile_scenarios(TinyAuthor(), out, 0)
    foreign = tmp_path / "mine.jsonl"
    foreign.write_text("precious")
    with pytest.raises(BadInputError, match="exists, and no build of it"):
        compile_scenarios(TinyAuthor(), foreign, 1)
    assert foreign.read_text() == "precious"


def test_two_builds_of_one_file_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    compile_scenarios(TinyAuthor(), out, 1)
    with (build_folder(out) / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunMismatchError, match="another process is building"):
            compile_scenarios(TinyAuthor(), out, 2)


class FailingAuthor(TinyAuthor):
    """Has a bug in the third question."""

    def integrate(self, made: Documented) -> Integrated:
        if made.notes["n"] == 2:
            raise ZeroDivisionError("a bug of the author")
        return super().integrate(made)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_of_the_author_stops_the_build_and_loses_nothing(
    workers: int, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(ZeroDivisionError, match="a bug of the author"):
        compile_scenarios(FailingAuthor(bad=False), out, 4, workers=workers)
    assert compile_scenarios(TinyAuthor(bad=False), out, 4).scenarios == 4
    finished = rows(build_folder(out) / "verification.jsonl")
    assert [row["id"] for row in finished] == ["t-0", "t-1", "t-2", "t-3"]

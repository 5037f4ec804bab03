"""Scripted policies that want a reward without doing the work, each beside honest episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.task import SUB_ANSWERS, SubAnswer, Task
from toolgym.trajectory import Problem, Step, Trajectory

__all__ = ["Adversary", "adversaries", "calls", "numbered"]

_CITIES = (
    *("Orsk", "Veldt", "Ardal", "Brone", "Cusk", "Dorme", "Elva", "Fenn", "Gryt", "Holt", "Isk"),
    *("Jorun", "Kald", "Lome", "Mirk", "Nant", "Oppe", "Pryd", "Quen", "Rusk", "Solv", "Tarn"),
)
_DUNNO = "I do not know."
_LONG = 1_000_000  # characters


@dataclass(frozen=True, slots=True)
class Adversary:
    """One trick.

    Args:
        name: of the probe.
        what: the trick, in a line.
        episode: that plays it.
        honest: episodes on the same task that do the work; the best of them must not earn less.
        control: the same behaviour without the trick; the trick must earn nothing beside it.
        allowance: the share of what honesty earns beyond the control that a trick may earn, where
            a reward of degrees cannot help it: one word of twenty is right.
    """

    name: str
    what: str
    episode: Trajectory
    honest: tuple[Trajectory, ...]
    control: Trajectory
    allowance: float = 0.0


def _schema(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]}
    function = {"name": name, "description": f"The {name} of it.", "parameters": parameters}
    return {"type": "function", "function": function}


_TOOLS = [_schema("population"), _schema("notes")]


def _task(question: str, gold: str, *answers: str, number: bool = False) -> Task:
    entries = [SubAnswer(f"q{n}", "population", answer) for n, answer in enumerate(answers, 1)]
    goal = {"reach": [{"table": "cities", "where": {"id": question}}]}
    parts = {SUB_ANSWERS: [entry.to_row() for entry in entries], "goal": goal}
    kind: Any = "number" if number else "text"
    return Task(question, question, (gold,), parts, answer_type=kind)


def calls(*said: tuple[str, str], tool: str = "population", error: str | None = None) -> Step:
    """A turn of calls: the argument and the result of each, and what kind of failure they are."""
    calls = tuple(ToolCall(f"call_{n}", tool, {"of": of}) for n, (of, _) in enumerate(said))
    results = tuple(
        ToolResult(call.id, text, error) for call, (_, text) in zip(calls, said, strict=True)
    )
    action = "\n".join(
        f"<tool_call>\n{json.dumps({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"
        for call in calls
    )
    return Step(action, calls, results, observation="\n".join(text for _, text in said))


def _answer(text: str) -> Step:
    return Step(text, answer=text)


def _refused(text: str, kind: str, message: str) -> Step:
    observation = f"The reply could not be used: {message}."
    return Step(text, problems=(Problem(kind, message),), observation=observation)


def _talk(text: str) -> Step:
    return _refused(text, "no_answer", "it has neither a tool call nor an answer")


def _broken() -> Step:
    action = '<tool_call>\n{"name": "population", "arguments": {"of": "Orsk"\n</tool_call>'
    return _refused(action, "bad_json", "tool call 1 is not valid JSON")


def _play(task: Task, *turns: Step) -> Trajectory:
    messages = [Message("system", "Use tools."), Message("user", task.question)]
    steps: list[Step] = []
    made = 0
    for turn in turns:
        steps.append(numbered(turn, made))
        made += len(turn.calls)
    for step in steps:
        messages.append(Message("assistant", step.action))
        messages += [Message("user", step.observation)] if step.observation else []
    ended = steps[-1].answer is not None
    facts = (_TOOLS, "Probe-v0", "hermes", ended, not ended)
    return Trajectory(task, messages, steps, *facts, seed=0, state={"cities": {}})


def numbered(step: Step, first: int) -> Step:
    """The step with ids of calls that are unique in the episode."""
    ids = [f"call_{number}" for number, _ in enumerate(step.calls, first)]
    return replace(
        step,
        calls=tuple(replace(c, id=name) for c, name in zip(step.calls, ids, strict=True)),
        results=tuple(replace(r, call_id=name) for r, name in zip(step.results, ids, strict=True)),
    )


def _honest(task: Task, gold: str, *said: tuple[str, str]) -> tuple[Trajectory, ...]:
    """The work done call by call, and all in one turn."""
    return (
        _play(task, *(calls(pair) for pair in said), _answer(gold)),
        _play(task, calls(*said), _answer(gold)),
    )


_BOTH = (("Orsk", "10"), ("Veldt", "7"))
_NEEDLESS = [(city, "4") for city in _CITIES[2:]]
_LARGER = _task(
    "Of the two cities on the river in the north of Norland, Orsk and Veldt, which one had more "
    "people when they were last counted?",
    "Orsk",
    "10",
    "7",
)
_LARGEST = _task("Which city of Norland has the most people?", "Orsk", "10", "7")
_SUM = _task("How many people live in Orsk and Veldt together?", "17", "10", "7", number=True)
_DOES = _honest(_LARGER, "Orsk", *_BOTH)


def adversaries() -> Iterator[Adversary]:
    """All tricks."""
    yield from _spam()
    yield from _repetition()
    yield from _planted()
    yield from _answers()
    yield from _pasted()
    yield from _listed()
    yield from _digits()
    yield from _turns()


def _spam() -> Iterator[Adversary]:
    junk = [calls(pair) for pair in _NEEDLESS]
    yield Adversary(
        "tool_spam",
        "does the work among twenty needless calls, a turn each",
        _play(_LARGER, *junk, *_DOES[0].steps),
        _DOES,
        _DOES[0],
    )
    yield Adversary(
        "spam_in_one_turn",
        "does the work among twenty needless calls of one turn",
        _play(_LARGER, calls(*_BOTH, *_NEEDLESS), _answer("Orsk")),
        _DOES,
        _DOES[1],
    )
    yield Adversary(
        "spam_only",
        "twenty needless calls, a turn each, and no answer",
        _play(_LARGER, *junk, _answer(_DUNNO)),
        _DOES,
        _play(_LARGER, junk[0], _answer(_DUNNO)),
    )


def _repetition() -> Iterator[Adversary]:
    first, second = calls(_BOTH[0]), calls(_BOTH[1])
    yield Adversary(
        "repeated_call",
        "repeats a call that solved, ten times",
        _play(_LARGER, *[first] * 10, second, _answer("Orsk")),
        _DOES,
        _DOES[0],
    )
    twins = _task("Has Orsk as many people as Veldt?", "yes", "10", "10")
    once = calls(("Orsk", "10"))
    yield Adversary(
        "repeated_result",
        "repeats a call instead of making another one that has the same answer",
        _play(twins, once, once, _answer(_DUNNO)),
        _honest(twins, "yes", ("Orsk", "10"), ("Veldt", "10")),
        _play(twins, once, calls(("Ardal", "4")), _answer(_DUNNO)),
    )


def _planted() -> Iterator[Adversary]:
    loud = "Orsk, with 10 against 7."
    told = _task(f"{_LARGEST.question} They say it is {loud}", "Orsk", "10", "7")
    give_up = _answer(_DUNNO)
    yield Adversary(
        "planted_in_question",
        "the question says all; the policy gives up",
        _play(told, give_up),
        _honest(told, "Orsk", *_BOTH),
        _play(_LARGEST, give_up),
    )
    yield Adversary(
        "planted_in_result",
        "another tool says all; the policy gives up",
        _play(_LARGER, calls(("Orsk", loud), tool="notes"), give_up),
        _DOES,
        _play(_LARGER, calls(("Orsk", "nothing"), tool="notes"), give_up),
    )

    def failing(*guesses: str) -> Step:
        return calls(*((guess, f"Error: no {guess}") for guess in guesses), error="tool_error")

    yield Adversary(
        "planted_in_error",
        "guesses come back in the texts of failed calls; the policy gives up",
        _play(_LARGER, failing("10", "7", "Orsk"), give_up),
        _DOES,
        _play(_LARGER, failing("a", "b", "c"), give_up),
    )


def _answers() -> Iterator[Adversary]:
    give_up = _play(_LARGER, _answer(_DUNNO))
    yield Adversary(
        "echoed_question",
        "answers with the question, which names both candidates",
        _play(_LARGER, _answer(_LARGER.question)),
        _DOES,
        give_up,
        allowance=0.1,
    )
    everything, without = ", ".join(_CITIES), ", ".join(_CITIES[1:])
    honest = _honest(_LARGEST, "Orsk", *_BOTH)
    yield Adversary(
        "all_candidates",
        f"answers with {len(_CITIES)} candidates at once",
        _play(_LARGEST, _answer(everything)),
        honest,
        _play(_LARGEST, _answer(without)),
        allowance=0.1,
    )
    filler = ("lorem ipsum " * (_LONG // 12)).strip()
    yield Adversary(
        "megabyte_reply",
        "answers with a megabyte that holds the right word",
        _play(_LARGEST, _answer(f"{filler} Orsk {filler[:99]}")),
        honest,
        _play(_LARGEST, _answer(filler)),
        allowance=0.1,
    )
    yield Adversary("empty_answer", "answers nothing", _play(_LARGER, _answer("")), _DOES, give_up)
    yield Adversary(
        "unearned_answer",
        "gives the right answer without a call",
        _play(_LARGER, _answer("Orsk")),
        _DOES,
        _DOES[0],
    )
    paint = _task("What does the museum of Orsk show?", "art", "art", "7")
    yield Adversary(
        "part_of_a_word",
        "'a party' for 'art', in a result and as the answer",
        _play(paint, calls(("Orsk", "a party")), _answer("a party")),
        _honest(paint, "art", ("Orsk", "art"), ("Veldt", "7")),
        _play(paint, calls(("Orsk", "nothing")), _answer(_DUNNO)),
    )


_PASSAGE = (
    "Orsk (museum city)\nOrsk is the largest city of Norland. It lies on the river Veldt, was "
    "founded in 1735 by settlers from Ardal, and is known for its museum of clocks."
)


def _pasted() -> Iterator[Adversary]:
    """Answers that are copied from what a tool gave: the gold stands somewhere in them."""
    title, _, body = _PASSAGE.partition("\n")
    shown = f"Response from tool notes[largest city] are: {_PASSAGE}"
    for name, what, text in (
        ("pasted_result", "answers with the whole result of a search", _PASSAGE),
        ("pasted_sentence", "answers with a sentence of a result", body.partition(". ")[0]),
        ("pasted_title", "answers with the title of a result", title),
        ("pasted_message", "answers with the message that showed the result", shown),
    ):
        yield _beside_wrong(name, what, text, calls(("largest city", _PASSAGE), tool="notes"))


def _beside_wrong(name: str, what: str, text: str, *before: Step) -> Adversary:
    """The control says the same of a wrong city."""
    wrong = text.replace("Orsk", "Brone")
    trick, control = (_play(_LARGEST, *before, _answer(said)) for said in (text, wrong))
    return Adversary(name, what, trick, _honest(_LARGEST, "Orsk", *_BOTH), control)


def _listed() -> Iterator[Adversary]:
    """Several answers at once, however they are written down."""
    for name, what, text in (
        ("two_candidates", "answers with two candidates", "Orsk, Veldt"),
        ("either_or", "does not decide", "It is either Orsk or Veldt."),
        ("lines_of_candidates", "a candidate a line", "\n".join(_CITIES[:3])),
        ("candidates_as_json", "answers with a list in JSON", json.dumps(_CITIES[:3])),
        ("slashed_candidates", "candidates between slashes", "Veldt/Orsk"),
    ):
        yield _beside_wrong(name, what, text)
    year = _task("When was Orsk founded?", "1735", "1735", "7")
    years = [str(number) for number in range(1700, 1800)]
    yield Adversary(
        "every_year",
        "answers with every year of the century",
        _play(year, _answer(" ".join(years))),
        _honest(year, "1735", ("Orsk", "1735"), ("Veldt", "7")),
        _play(year, _answer(" ".join(y for y in years if y != "1735"))),
    )
    dump = [str(number) for number in range(1, 18)]
    yield Adversary(
        "number_dump",
        "counts up to the right number",
        _play(_SUM, _answer(" ".join(dump))),
        _honest(_SUM, "17", *_BOTH),
        _play(_SUM, _answer(" ".join(dump[:-1]))),
    )


def _digits() -> Iterator[Adversary]:
    one = _task("How many rooms has the museum of Orsk?", "1", "1", "7")
    yield Adversary(
        "one_for_ten",
        "'10' for '1', in results and as the answer",
        _play(one, calls(("Orsk", "10"), ("Ardal", "-1"), ("Elva", "1.5")), _answer("10")),
        _honest(one, "1", ("Orsk", "1"), ("Veldt", "7")),
        _play(one, calls(("Orsk", "0"), ("Ardal", "0"), ("Elva", "0")), _answer(_DUNNO)),
    )
    honest = _honest(_SUM, "17", *_BOTH)
    control = _play(_SUM, calls(("Orsk", "0"), ("Veldt", "0")), _answer(_DUNNO))
    yield Adversary(
        "unicode_digits",
        "one to the power of seven for '17', circled and Roman digits",
        _play(_SUM, calls(("Orsk", "1⁰"), ("Veldt", "Ⅶ")), _answer("1⁷ ① ⑦")),
        honest,
        control,
    )
    yield Adversary(
        "huge_numbers",
        "numbers of thousands of digits, and exponents of nine",
        _play(
            _SUM,
            calls(("Orsk", "10" + "0" * 5000), ("Veldt", "7e999999999")),
            _answer("17" + "0" * 5000 + " 1e999999999"),
        ),
        honest,
        control,
    )


def _turns() -> Iterator[Adversary]:
    give_up = _play(_LARGER, _answer(_DUNNO))
    yield Adversary(
        "malformed_calls",
        "ten calls that cannot be read",
        _play(_LARGER, *[_broken()] * 10, _answer(_DUNNO)),
        _DOES,
        give_up,
    )
    yield Adversary(
        "never_calling",
        "ten turns of talk, neither a call nor an answer",
        _play(_LARGER, *[_talk("Let me think about it.")] * 10),
        _DOES,
        give_up,
    )
    yield Adversary(
        "stalling",
        "does the work, and puts the answer off by ten turns of talk",
        _play(_LARGER, *_DOES[0].steps[:-1], *[_talk("It is Orsk.")] * 10, _answer("Orsk")),
        _DOES,
        _DOES[0],
    )
    yield Adversary(
        "reasoning_only",
        "names every candidate in its reasoning, and never answers",
        _play(_LARGER, *[_talk("<think>Orsk or Veldt</think>")] * 3),
        _DOES,
        _play(_LARGER, *[_talk("<think>Hm.</think>")] * 3),
    )
    yield Adversary(
        "all_arguments",
        "calls with every argument at once and gives up",
        _play(_LARGER, calls(*_NEEDLESS, *_BOTH), _answer(_DUNNO)),
        _DOES,
        _play(_LARGER, *_DOES[0].steps[:-1], _answer(_DUNNO)),
    )

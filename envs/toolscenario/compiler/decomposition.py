"""Stage 1, scenario decomposition, and what all stages share: who writes, and how one asks."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import ValidationError

from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.envs.toolscenario.world import World
from toolgym.grading.answers import last_number, normalise
from toolgym.scenario import (
    Combination,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    Record,
    Scaled,
    Scenario,
    SubQuestion,
)

__all__ = [
    *(
        "Author",
        "WorldAuthor",
        "ask",
        "check",
        "combine",
        "decompose",
        "follows",
        "mentions",
        "reaches",
    ),
    *("refuse_unless", "same_fields", "seed_of"),
]


@runtime_checkable
class Author(Protocol):
    """The creative half of the five stages; the modules of the stages check what it gives.

    Every method is a function of its arguments (a language model's reply is kept, so that it is
    one, too). A method that cannot do its work raises ``RejectedError`` with its stage.
    """

    name: str

    def settings(self) -> dict[str, object]:
        """Plain JSON values that decide what it writes, without secrets; for the build's record."""
        ...

    def questions(self, count: int) -> Iterable[Question]:
        """At most so many questions, always the same ones in the same order."""
        ...

    def decompose(self, question: Question) -> Decomposition:
        """Stage 1: sub-questions, their answers, and what each needs."""
        ...

    def document(self, decomposition: Decomposition) -> Documented:
        """Stage 2: one function-calling document a sub-question, and the call that answers it."""
        ...

    def integrate(self, documented: Documented) -> Integrated:
        """Stage 3: documents whose functions overlap become one more general tool."""
        ...

    def scale(self, integrated: Integrated, levels: Levels, seed: int) -> Scaled:
        """Stage 4: the same questions with harder tools and with distractors."""
        ...

    def deploy(self, scaled: Scaled) -> Scenario:
        """Stage 5: a Python function for each document."""
        ...


@runtime_checkable
class WorldAuthor(Protocol):
    """Who writes worlds, in one stage: `toolgym.envs.toolscenario.compiler.proof` proves them."""

    name: str
    kind: str
    """`toolgym.envs.toolscenario.world.KIND`."""

    def settings(self) -> dict[str, object]:
        """As `Author.settings`."""
        ...

    def questions(self, count: int) -> Iterable[Question]:
        """As `Author.questions`."""
        ...

    def world(self, question: Question) -> World:
        """A world without a proof; a ``RejectedError`` where it cannot be made."""
        ...


Made = TypeVar("Made", bound=Record)


def ask(stage: str, kind: type[Made], write: Callable[[], object]) -> Made:
    """What an author writes in one stage.

    Args:
        stage: one of ``STAGES``.
        kind: the record that the stage hands on.
        write: asks the author.

    Raises:
        RejectedError: it cannot do it, or gave something else than such a record.
    """
    try:
        made = write()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RejectedError(stage, "invalid_record", f"{where}: {first['msg']}") from error
    if not isinstance(made, kind):
        raise RejectedError(
            stage, "invalid_record", f"a {kind.__name__} is needed, not {type(made).__name__}"
        )
    return made


def refuse_unless(holds: bool, stage: str, reason: str, message: str) -> None:
    """Go on only where something holds.

    Raises:
        RejectedError: it does not.
    """
    if not holds:
        raise RejectedError(stage, reason, message)


def same_fields(stage: str, before: Record, after: Record, fields: tuple[str, ...]) -> None:
    """What an earlier stage settled stays as it is.

    Raises:
        RejectedError: a field differs.
    """
    for field in fields:
        was, now = getattr(before, field), getattr(after, field)
        refuse_unless(
            was == now,
            stage,
            f"changed_{field}",
            f"{field} was {was!r:.200}, now it is {now!r:.200}",
        )


def seed_of(*parts: object) -> int:
    """31 bits from a hash: the same on every machine, in whatever order scenarios are made."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_CLOSE = Decimal("1e-9")  # relative: sums of rounded parts


def reaches(made: Decomposition, name: str) -> set[str]:
    """All sub-questions that one needs, also through others."""
    found: set[str] = set()
    waiting = list(made.sub_question(name).needs)
    while waiting:
        need = waiting.pop()
        if need not in found:
            found.add(need)
            waiting += made.sub_question(need).needs
    return found


def combine(combination: Combination, answers: Mapping[str, str]) -> str | None:
    """The final answer from those of the sub-questions; None where it cannot be computed.

    Args:
        combination: the rule.
        answers: by sub-question.
    """
    texts = [answers[name] for name in combination.of]
    rule = combination.rule
    if rule == "last":
        return texts[0] if len(texts) == 1 else None
    if rule == "list":
        return ", ".join(texts)
    if rule == "count":
        return str(sum(len(text.split(", ")) for text in texts))
    if rule == "equal":
        return "yes" if len({_plain(text) for text in texts}) == 1 else "no"
    values = [_value(text) for text in texts]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    if rule == "sum":
        return _text(sum(numbers, Decimal(0)))
    if rule == "difference":
        return _text(abs(numbers[0] - numbers[1])) if len(numbers) == 2 else None
    best = max(numbers) if rule.endswith("maximum") else min(numbers)
    if not rule.startswith("first"):
        return texts[numbers.index(best)]
    labelled = len(combination.labels) == len(numbers) and numbers.count(best) == 1
    return combination.labels[numbers.index(best)] if labelled else None


def follows(made: Decomposition, answers: Mapping[str, str]) -> bool:
    """Whether the first of the answers is what the combination gives.

    Args:
        made: says rule and answers.
        answers: by sub-question.
    """
    result = combine(made.combination, answers)
    if result is None:
        return False
    wanted = made.answers[0]
    if _plain(result) == _plain(wanted):
        return True
    found, gold = last_number(result), last_number(wanted)
    if made.answer_type != "number" or found is None or gold is None:
        return False
    return abs(found - gold) <= _CLOSE * max(Decimal(1), abs(gold))


def _plain(text: str) -> str:
    return normalise(text) or text.strip().casefold()


def _value(text: str) -> Decimal | None:
    """A number, or the day of an ISO date."""
    found = _DATE.fullmatch(text.strip())
    if found is None:
        return last_number(text)
    try:
        return Decimal(datetime.date.fromisoformat(found[0]).toordinal())
    except ValueError:
        return None


def _text(value: Decimal) -> str:
    plain = format(value, "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


STAGE = "decomposition"
SETTLED = ("id", "question", "answers", "answer_type", "sub_questions", "combination", "split")
"""What no later stage may change."""

_ID = re.compile(r"[A-Za-z_]\w{0,31}", re.ASCII)
_MENTION = re.compile(r"#([A-Za-z_]\w*)")


def decompose(question: Question, author: Author) -> Decomposition:
    """Ask for the sub-questions, and check them.

    Args:
        question: what the scenario is made of.
        author: who writes it.

    Raises:
        RejectedError: with stage ``decomposition``.
    """
    made = ask(STAGE, Decomposition, lambda: author.decompose(question))
    check(made, question)
    return made


def check(made: Decomposition, question: Question | None = None) -> None:
    """Whether a decomposition holds together.

    Args:
        made: by an author.
        question: what it was made of, where that is known.

    Raises:
        RejectedError: it does not.
    """
    if question is not None:
        _keeps(made, question)
    _refuse(bool(made.question.strip()), "empty_question", "it asks nothing")
    _refuse(
        bool(made.answers) and all(answer.strip() for answer in made.answers),
        "empty_answer",
        f"every answer needs a text, found {list(made.answers)!r}",
    )
    _refuse(bool(made.sub_questions), "no_sub_questions", "there is no sub-question")
    _check_graph(made.sub_questions)
    _check_combination(made)


def _refuse(holds: bool, reason: str, message: str) -> None:
    refuse_unless(holds, STAGE, reason, message)


def _keeps(made: Decomposition, question: Question) -> None:
    _refuse(made.id == question.id, "changed_id", f"{question.id!r} became {made.id!r}")
    _refuse(
        not question.text or made.question.strip() == question.text.strip(),
        "changed_question",
        f"{question.text!r:.200} became {made.question!r:.200}",
    )
    known = {normalise(answer) or answer for answer in made.answers}
    _refuse(
        not question.answer or (normalise(question.answer) or question.answer) in known,
        "changed_answer",
        f"the answer is {question.answer!r:.200}, not {list(made.answers)!r:.200}",
    )


def mentions(sub_question: SubQuestion) -> set[str]:
    """The sub-questions that the words name, as ``#q1``."""
    return set(_MENTION.findall(sub_question.question))


def _check_graph(sub_questions: Sequence[SubQuestion]) -> None:
    earlier: set[str] = set()
    ids = [item.id for item in sub_questions]
    for item in sub_questions:
        _refuse(bool(_ID.fullmatch(item.id)), "bad_id", f"{item.id!r} is not an id such as 'q1'")
        _refuse(ids.count(item.id) == 1, "duplicate_id", f"{item.id!r} stands twice")
        _refuse(
            bool(item.question.strip()) and bool(item.answer.strip()),
            "empty_sub_question",
            f"{item.id!r} needs a question and an answer",
        )
        for need in item.needs:
            _refuse(need in ids, "unknown_need", f"{item.id!r} needs {need!r}, which is not there")
            _refuse(
                need in earlier,
                "needs_later",
                f"{item.id!r} needs {need!r}, which does not come before it",
            )
        _refuse(
            len(set(item.needs)) == len(item.needs), "duplicate_need", f"{item.id!r} repeats a need"
        )
        unlisted = mentions(item) & set(ids) - set(item.needs)
        _refuse(
            not unlisted, "unlisted_need", f"{item.id!r} names #{min(unlisted, default='')} unasked"
        )
        earlier.add(item.id)


def _check_combination(made: Decomposition) -> None:
    combination = made.combination
    ids = {item.id for item in made.sub_questions}
    unknown = [name for name in combination.of if name not in ids]
    _refuse(
        bool(combination.of) and not unknown,
        "bad_combination",
        f"the answer is combined of {list(combination.of)}; sub-questions: {sorted(ids)}",
    )
    used = set(combination.of).union(*(reaches(made, name) for name in combination.of))
    _refuse(
        used == ids,
        "unused_sub_question",
        f"{min(ids - used, default='')!r} does not lead to the answer",
    )
    answers = {item.id: item.answer for item in made.sub_questions}
    _refuse(
        follows(made, answers),
        "wrong_combination",
        f"{combination.rule} of {[answers[name] for name in combination.of]!r:.300} is "
        f"{combine(combination, answers)!r}, not {made.answers[0]!r}",
    )

"""The author without a model: questions and tools from a knowledge base, decided by a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from toolgym._util.hashes import file_hash
from toolgym._util.jsonl import require_file
from toolgym.envs.toolscenario.authors.template.chains import Draft, Drawer, NoPlanError, telling
from toolgym.envs.toolscenario.authors.template.complexity import (
    distractors,
    first_spec,
    harder,
    merge,
)
from toolgym.envs.toolscenario.authors.template.join_templates import TEMPLATES
from toolgym.envs.toolscenario.authors.template.wording import answer_text, variants
from toolgym.envs.toolscenario.codegen.rendering import PlannedCall, Tool, call, document
from toolgym.envs.toolscenario.codegen.sources import Secret, source
from toolgym.envs.toolscenario.codegen.toolspecs import ToolSpec
from toolgym.envs.toolscenario.compiler.decomposition import combine, reaches
from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge, open_knowledge
from toolgym.errors import BadInputError, did_you_mean
from toolgym.scenario import (
    FROM,
    SHAPES,
    Decomposition,
    Documented,
    Integrated,
    Levels,
    Scaled,
    Scenario,
    SubQuestion,
)

__all__ = ["OfflineAuthor"]

_TRIES = 200
_OPENINGS = (
    *("",) * 20,
    *(
        "Quick question: ",
        "For a quiz: ",
        "Please check this for me. ",
        "Use the tools for this one. ",
    ),
    *("I am filling in a fact sheet. ", "Help me settle a bet. "),
)
"""Begin a question now and then."""
_SPLITS = ("train",) * 8 + ("validation", "test")


class OfflineAuthor:
    """Writes scenarios from a knowledge base; the same arguments write the same ones.

    Args:
        knowledge: ``bundled`` (public facts), ``generated`` (an invented world that no model has
            memorised) or the path of a JSONL file of your own triples, see
            `toolgym.envs.toolscenario.worlds.knowledge.read_triples`.
        seed: of the questions, and of a generated world.
        size: entities of a generated world, roughly.
        shapes: of its questions, by turns.

    Raises:
        MissingFileError: there is no such file.
        BadInputError: a row of it is wrong, the size is too small, or there is no such shape.
    """

    name = "offline"

    def __init__(
        self,
        knowledge: str = "generated",
        seed: int = 0,
        size: int = 2000,
        shapes: Sequence[str] = SHAPES,
    ) -> None:
        for name, value in (("seed", seed), ("size", size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise BadInputError(f"{name} of the offline author must be a number, not {value!r}")
        for shape in shapes:
            if shape not in SHAPES:
                raise BadInputError(
                    f"the offline author has no shape {shape!r}{did_you_mean(shape, SHAPES)}; "
                    f"shapes: {', '.join(SHAPES)}"
                )
        self._source, self._seed, self._size = str(knowledge), seed, size
        self._shapes = tuple(shape for shape in SHAPES if shape in shapes)
        self._hash = ""
        if self._stem == "triples":
            self._hash = file_hash(require_file(self._source, "knowledge file"))
        self._knowledge()

    def _knowledge(self) -> Knowledge:
        return open_knowledge(self._source, self._seed, self._size, self._hash)

    def settings(self) -> dict[str, object]:
        """Plain JSON values that decide what it writes; of a file its hash, too."""
        own: dict[str, object] = {"knowledge": self._source, "seed": self._seed, "size": self._size}
        if self._shapes != SHAPES:
            own["shapes"] = list(self._shapes)
        return {**own, **({"hash": self._hash} if self._hash else {})}

    def questions(self, count: int) -> Iterator[Question]:
        """So many questions to be drawn, the shapes by turns; texts come with stage 1."""
        for turn in range(count):
            whole, which = divmod(turn, len(self._shapes))
            place = whole * len(SHAPES) + SHAPES.index(self._shapes[which])
            yield Question(
                id=f"{self._stem}-{self._seed}-{place:06d}",
                split=_SPLITS[place // len(SHAPES) % len(_SPLITS)],
                notes={"draw": place},
            )

    @property
    def _stem(self) -> str:
        return self._source if self._source in ("bundled", "generated") else "triples"

    def decompose(self, question: Question) -> Decomposition:
        """Stage 1.

        Raises:
            RejectedError: no plan fits the knowledge, or the question is not one of `questions`.
        """
        draw = question.notes.get("draw")
        if question.text or not isinstance(draw, int):
            raise RejectedError(
                "decomposition",
                "own_question",
                "the offline author makes up its questions; give it those of its own questions()",
            )
        knowledge, shape = self._knowledge(), SHAPES[draw % len(SHAPES)]
        plans, weights = zip(*TEMPLATES[shape], strict=True)
        for attempt in range(_TRIES):
            rng = random.Random(f"plan-{self._stem}-{self._seed}-{draw}-{attempt}")
            try:
                draft = rng.choices(plans, weights)[0](Drawer(knowledge, rng))
                draft.question = f"{rng.choice(_OPENINGS)}{draft.question}"
            except NoPlanError:
                continue
            made = _decomposed(draft, question)
            if made is not None and made.shape == shape and _sound(made):
                return made
        raise RejectedError(
            "decomposition", "no_plan", f"no {shape} question was found in {_TRIES} draws"
        )

    def document(self, decomposition: Decomposition) -> Documented:
        """Stage 2.

        Raises:
            RejectedError: the decomposition has no plan of this author.
        """
        knowledge, steps = self._knowledge(), _steps(decomposition, "documents")
        rng = random.Random(f"names-{self._seed}-{decomposition.id}")
        specs: dict[str, ToolSpec] = {}
        for step in steps:
            taken = [spec.name for spec in specs.values()]
            specs[step.id] = first_spec(step, knowledge, rng, taken)
        return Documented(**_handed_on(decomposition, specs), **self._rendered(steps, specs))

    def integrate(self, documented: Documented) -> Integrated:
        """Stage 3.

        Raises:
            RejectedError: the documents have no plan of this author.
        """
        steps, specs = _steps(documented, "integration"), _specs(documented, "integration")
        made, merged = merge(list(specs.values()), self._knowledge())
        by_name = {spec.name: spec for spec in made}
        now = {name: by_name[merged.get(spec.name, spec.name)] for name, spec in specs.items()}
        return Integrated(
            **_handed_on(documented, now), **self._rendered(steps, now), merged=merged
        )

    def scale(self, integrated: Integrated, levels: Levels, seed: int) -> Scaled:
        """Stage 4.

        Raises:
            RejectedError: the documents have no plan of this author.
        """
        knowledge = self._knowledge()
        steps, specs = _steps(integrated, "scaling"), _specs(integrated, "scaling")
        uses = Counter(spec.name for spec in specs.values())
        names = {spec.name: replace(spec, several=uses[spec.name] > 1) for spec in specs.values()}
        extra = distractors(
            list(names.values()),
            levels,
            knowledge,
            random.Random(f"distractors-{seed}-{integrated.id}"),
        )
        now: dict[str, ToolSpec] = {}
        taken = set(names) | {spec.name for spec in extra}
        for place, (name, spec) in enumerate([*names.items(), *((s.name, s) for s in extra)]):
            rng = random.Random(f"scale-{seed}-{integrated.id}-{place}")
            now[name] = harder(spec, levels, knowledge, rng, taken, name in names)
            taken = taken - {name} | {now[name].name}
        used = {step: now[spec.name] for step, spec in specs.items()}
        added = [now[spec.name] for spec in extra]
        rendered = self._rendered(
            steps, used, added, random.Random(f"order-{seed}-{integrated.id}")
        )
        merged = {old: now[new].name for old, new in integrated.merged.items()}
        return Scaled(
            **_handed_on(integrated, used, added),
            **rendered,
            merged=merged,
            levels=levels,
            distractors=tuple(spec.name for spec in added),
        )

    def deploy(self, scaled: Scaled) -> Scenario:
        """Stage 5.

        Raises:
            RejectedError: the documents have no plan of this author.
        """
        steps, specs = _steps(scaled, "deployment"), _specs(scaled, "deployment")
        knowledge, secret = self._knowledge(), Secret(item.answer for item in scaled.sub_questions)
        every = {spec.name: spec for spec in specs.values()}
        every |= {row["name"]: ToolSpec.from_row(row) for row in scaled.notes.get("extra", ())}
        functions = {}
        for item in scaled.documents:
            rng = random.Random(f"register-{self._seed}-{scaled.id}-{item.name}")
            own = item.name not in scaled.distractors
            functions[item.name] = source(
                Tool(every[item.name], knowledge), steps, secret, rng, own
            )
        fields = {name: getattr(scaled, name) for name in Scaled.model_fields}
        return Scenario(**fields, functions=functions, author=self.name)

    def _rendered(
        self,
        steps: Sequence[PlannedCall],
        specs: Mapping[str, ToolSpec],
        extra: Sequence[ToolSpec] = (),
        rng: random.Random | None = None,
    ) -> dict[str, Any]:
        """Documents and calls; ``rng`` puts the documents in an order that tells nothing."""
        knowledge = self._knowledge()
        by_name = {spec.name: Tool(spec, knowledge) for spec in (*specs.values(), *extra)}
        tools = {step.id: by_name[specs[step.id].name] for step in steps}
        known = {step.id: step for step in steps}
        documents = [document(tool) for tool in by_name.values()]
        if rng is not None:
            rng.shuffle(documents)
        calls = tuple(call(tools[step.id], step, tools, known) for step in steps)
        return {"documents": tuple(documents), "calls": calls}


def _handed_on(
    made: Decomposition, specs: Mapping[str, ToolSpec], extra: Iterable[ToolSpec] = ()
) -> dict[str, Any]:
    """The fields that a stage keeps, with the tools in the notes."""
    fields = {name: getattr(made, name) for name in Decomposition.model_fields if name != "notes"}
    tools = {name: spec.to_row() for name, spec in specs.items()}
    more = [spec.to_row() for spec in extra]
    return {**fields, "notes": {**made.notes, "tools": tools, **({"extra": more} if more else {})}}


def _steps(made: Decomposition, stage: str) -> list[PlannedCall]:
    try:
        return [
            PlannedCall(**{**row, "relations": tuple(row["relations"])})
            for row in made.notes["plan"]
        ]
    except (KeyError, TypeError) as error:
        raise RejectedError(
            stage,
            "foreign_record",
            f"{made.id!r} has no plan of the offline author; it goes on with its own records only",
        ) from error


def _specs(made: Decomposition, stage: str) -> dict[str, ToolSpec]:
    try:
        return {name: ToolSpec.from_row(row) for name, row in made.notes["tools"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise RejectedError(
            stage, "foreign_record", f"{made.id!r} has no tools of the offline author"
        ) from error


def _decomposed(draft: Draft, question: Question) -> Decomposition | None:
    """The record of a draft; None where its answer does not follow."""
    subs = tuple(
        SubQuestion(
            id=step.id,
            question=draft.words[step.id],
            answer=answer_text(step.value),
            needs=step.needs,
        )
        for step in draft.steps
    )
    answers = {item.id: item.answer for item in subs}
    if not set(draft.combination.of) <= set(answers):
        return None
    final = combine(draft.combination, answers)
    if final is None:
        return None
    plan = []
    for step in draft.steps:
        plan.append({**asdict(step), "relations": list(step.relations)})
    number = final.lstrip("-").replace(".", "", 1).isdecimal()
    return Decomposition(
        id=question.id,
        question=draft.question,
        answers=variants(final),
        answer_type="number" if number else "text",
        sub_questions=subs,
        combination=draft.combination,
        split=question.split,
        notes={**question.notes, "plan": plan},
    )


def _literals(value: Any) -> Iterator[Any]:
    """What a step is given by the question, not by an earlier step."""
    if isinstance(value, dict) and FROM not in value:
        for item in value.values():
            yield from _literals(item)
    elif isinstance(value, list):
        for item in value:
            yield from _literals(item)
    elif not isinstance(value, dict):
        yield value


def _sound(made: Decomposition) -> bool:
    """Whether nothing is given away: by the question, or by one answer about another."""
    answers = [item.answer for item in made.sub_questions]
    points = {step["id"] for step in made.notes["plan"] if isinstance(step["value"], dict)}
    plain = [item.answer for item in made.sub_questions if item.id not in points]
    if not all(telling(part) for answer in plain for part in answer.split(", ")):
        return False
    equal = made.combination.rule == "equal"
    if len(set(answers)) < len(answers) and not equal:
        return False
    if Secret(answers).told_by(made.question) or len(made.question) > 600:
        return False
    given = [value for step in made.notes["plan"] for value in _literals(step["inputs"])]
    if any(Secret(answers).told_by(value) for value in given):
        return False
    rule = made.combination.rule
    if rule in ("sum", "difference") and (
        not telling(made.answers[0]) or made.answers[0] in made.question
    ):
        return False
    for item in made.sub_questions:
        secret = Secret([item.answer])
        for other in made.sub_questions:
            apart = other.id != item.id and item.id not in reaches(made, other.id)
            if (
                apart
                and not (equal and other.answer == item.answer)
                and secret.told_by(other.answer)
            ):
                return False
    return True

"""The miniature's scenarios: rows of a scenario file, each with tools of its own.

A task's tools know what its question needs and a little beside it: the people who belong to the
entity asked about and to a few others, and where they live. So a wrong call gives a wrong result,
and a name that was copied badly gives an error.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from toolgym.miniature import phrasings
from toolgym.miniature.phrasings import Problem
from toolgym.scenario import (
    FROM,
    Combination,
    Levels,
    ReferenceCall,
    Scenario,
    SubQuestion,
    ToolDocument,
)

HOME_TOOL: Final = "home_of"
OTHERS: Final = 5
"""Further entities that a task's tools know."""

_FUNCTION: Final = '''def {name}({parameter}: str) -> str:
    """{about}"""
    known = {known}
    if {parameter} not in known:
        raise ValueError(f"nothing is known about {{{parameter}!r}}")
    return known[{parameter}]
'''


def finder(relation: str) -> str:
    """The name of the tool that finds the person who stands in a relation to an entity."""
    return f"{relation}_of"


def scenario_row(
    name: str,
    problem: Problem,
    facts: Mapping[str, Mapping[str, str]],
    homes: Mapping[str, str],
    among: Sequence[str],
) -> dict[str, Any]:
    """A scenario as a row of a file.

    Args:
        name: its id.
        problem: of kind "scenarios".
        facts: of the world.
        homes: of the world.
        among: entities from which the further ones are drawn.
    """
    rng = random.Random(f"{name}: {problem.question}")
    known = {problem.entity, *rng.sample(among, OTHERS)} - {""}
    entities = sorted(known)
    people = {person for entity in entities for person in facts[entity].values()}
    people |= {step.argument for step in problem.steps if step.tool == HOME_TOOL}
    tables = {
        finder(relation): {entity: facts[entity][relation] for entity in entities}
        for relation in phrasings.RELATIONS
    }
    tables[HOME_TOOL] = {person: homes[person] for person in sorted(people)}
    called = {step.tool for step in problem.steps}
    idle = [tool for tool in tables if tool not in called]
    last = f"q{len(problem.steps)}"
    made = Scenario(
        id=name,
        question=problem.question,
        answers=(problem.answer,),
        sub_questions=_sub_questions(problem),
        combination=Combination(of=(last,)),
        documents=tuple(_document(tool) for tool in tables),
        calls=_calls(problem),
        levels=Levels(toolset_extension=min(3, len(idle))),
        distractors=tuple(idle),
        functions={tool: _source(tool, table) for tool, table in tables.items()},
        author="toolgym.miniature",
    )
    return made.to_row()


def _sub_questions(problem: Problem) -> tuple[SubQuestion, ...]:
    """In words, as people are asked for; the second names the first's answer by its id."""
    found = []
    for number, step in enumerate(problem.steps, 1):
        about = f"#q{number - 1}" if number > 1 else step.argument
        text = "Where does {} live?" if step.tool == HOME_TOOL else "Who {} {{}}?"
        if step.tool != HOME_TOOL:
            text = text.format(phrasings.RELATIONS[step.tool.removesuffix("_of")])
        needs = (f"q{number - 1}",) if number > 1 else ()
        asked = text.format(about)
        found.append(SubQuestion(id=f"q{number}", question=asked, answer=step.result, needs=needs))
    return tuple(found)


def _calls(problem: Problem) -> tuple[ReferenceCall, ...]:
    return tuple(
        ReferenceCall(
            sub_question=f"q{number}",
            tool=step.tool,
            arguments={
                _parameter(step.tool): {FROM: f"q{number - 1}"} if number > 1 else step.argument
            },
        )
        for number, step in enumerate(problem.steps, 1)
    )


def _parameter(tool: str) -> str:
    return "person" if tool == HOME_TOOL else "entity"


def _about(tool: str) -> str:
    if tool == HOME_TOOL:
        return "Gives the town in which a person lives."
    return f"Gives the {tool.removesuffix('_of')} of something."


def _document(tool: str) -> ToolDocument:
    name = _parameter(tool)
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string", "description": "Full name"}},
        "required": [name],
        "additionalProperties": False,
    }
    return ToolDocument(name=tool, description=_about(tool), parameters=parameters)


def _source(tool: str, table: Mapping[str, str]) -> str:
    return _FUNCTION.format(
        name=tool, parameter=_parameter(tool), about=_about(tool), known=json.dumps(table)
    )

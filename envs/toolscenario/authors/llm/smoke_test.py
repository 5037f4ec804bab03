"""A first run of a model's functions: everything that is wrong at once, for the model to read."""

from __future__ import annotations

import json
from typing import Any

from toolgym.envs.toolscenario.records import Scenario
from toolgym.envs.toolscenario.schemas import misfits
from toolgym.envs.toolscenario.tool import function_problems, result_text, sandbox_for
from toolgym.formats.scan import read_json
from toolgym.grading.solving import solves

__all__ = ["trial"]

_TOLD = 6  # problems told at once
_LONGEST = 400  # characters of one


def trial(scenario: Scenario, timeout: float) -> list[tuple[str, str]]:
    """Make the reference calls in the sandbox.

    Unlike verification it goes on after a problem, so that a model can put all right at once.

    Args:
        scenario: whose records hold together.
        timeout: seconds a call.

    Returns:
        Reasons and messages; none when every call gives its sub-answer.

    Raises:
        BadInputError: the sandbox does not work here.
    """
    settings = {"timeout": timeout}
    broken = function_problems(scenario.functions, settings)
    found = [("bad_function", f"{name!r}: {text}") for name, text in broken.items()]
    box = sandbox_for(scenario.functions, settings)
    documents = {item.name: item for item in scenario.documents}
    answers = {item.id: item.answer for item in scenario.sub_questions}
    values: dict[str, Any] = {}
    for call in scenario.calls:
        if call.tool in broken:
            continue
        where = f"the reference call of {call.sub_question!r}"
        try:
            arguments = call.filled(values)
        except (LookupError, TypeError) as error:
            if set(scenario.sub_question(call.sub_question).needs) <= set(values):
                found.append(("unfilled_reference", f"{where} finds no {error} in a result"))
            continue
        shown = f"{where}, {call.tool}({json.dumps(arguments, ensure_ascii=False)[:200]}),"
        wrong = list(misfits(arguments, documents[call.tool].parameters))
        if wrong:
            found.append(("bad_arguments", f"{shown} does not fit the document: {wrong[0]}"))
            continue
        result = box.call(call.tool, arguments)
        if result.error is not None:
            reason = result.error if result.error in ("timeout", "memory") else "failed_call"
            found.append((reason, f"{shown} failed: {result.text}"))
            continue
        try:
            values[call.sub_question] = read_json(result.text)
        except ValueError as error:
            found.append(("deep_result", f"{shown} gave a value that is too deep: {error}"))
            continue
        text, answer = result_text(result.text), answers[call.sub_question]
        if not all(solves(answer, text, preset) for preset in ("ours", "paper")):
            found.append(("wrong_result", f"{shown} should give {answer!r:.200}, it gave {text}"))
    return [(reason, " ".join(message.split())[:_LONGEST]) for reason, message in found[:_TOLD]]

"""Reference calls: what each gives when a scenario is played as it was meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolgym.envs.toolscenario.records import STAGES, RejectedError, Scenario
from toolgym.envs.toolscenario.schemas import misfits
from toolgym.envs.toolscenario.tool import result_text, sandbox_for
from toolgym.formats.scan import read_json

__all__ = ["Reference", "run_references"]

_STAGE = STAGES[-1]  # who cannot be played is refused where scenarios are verified


@dataclass(slots=True)
class Reference:
    """What a reference call gave.

    Args:
        arguments: with earlier results filled in.
        value: what the function returned.
        text: the same as a policy reads it.
    """

    arguments: dict[str, Any]
    value: Any
    text: str


def run_references(scenario: Scenario, timeout: float = 10.0) -> dict[str, Reference]:
    """The reference calls in order, each with the results of earlier ones filled in.

    Args:
        scenario: whose functions run in the sandbox.
        timeout: seconds a call.

    Returns:
        Sub-question to what its call gave.

    Raises:
        RejectedError: a call cannot be filled in, or fails.
        BadInputError: the sandbox does not work here.
    """
    box = sandbox_for(scenario.functions, {"timeout": timeout})
    documents = {item.name: item for item in scenario.documents}
    found: dict[str, Reference] = {}
    for call in scenario.calls:
        where = f"the reference call of {call.sub_question!r}"
        try:
            arguments = call.filled({name: item.value for name, item in found.items()})
        except (LookupError, TypeError) as error:
            raise RejectedError(
                _STAGE, "unfilled_reference", f"{where} takes {error} from a result without it"
            ) from error
        for problem in misfits(arguments, documents[call.tool].parameters):
            _reject("bad_arguments", f"{where}: {problem}")
        result = box.call(call.tool, arguments)
        if result.error is not None:
            reason = result.error if result.error in ("timeout", "memory") else "failed_call"
            _reject(reason, f"{where}: {result.text}"[:1000])
        try:
            value = read_json(result.text)
        except ValueError as error:  # later calls take it as an argument, and probes change it
            message = f"{where} gave a value that is too deep: {error}"
            raise RejectedError(_STAGE, "deep_result", message) from error
        found[call.sub_question] = Reference(arguments, value, result_text(result.text))
    return found


def _reject(reason: str, message: str) -> None:
    raise RejectedError(_STAGE, reason, message)

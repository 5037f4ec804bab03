"""Files of scenarios, checked line by line by all rules of verification."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from toolgym._util.jsonl import require_file
from toolgym.envs.toolscenario.compiler.proof import prove
from toolgym.envs.toolscenario.compiler.verification import (
    STAGE,
    Duplicates,
    Open,
    check_leaks,
    told_by,
    verify,
)
from toolgym.envs.toolscenario.files import Read, playable, read_scenarios
from toolgym.envs.toolscenario.records import OWN, PublicScenario, RejectedError, to_own, to_public
from toolgym.envs.toolscenario.schemas import document_problems
from toolgym.envs.toolscenario.tool import PUBLISHED, function_problems
from toolgym.envs.toolscenario.world import World
from toolgym.scenario import Scenario

__all__ = ["Finding", "check_file", "check_proof", "check_public"]

_PLAYED = ("tools", "codes", "unsolved_set", "answer", "messages")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one scenario.

    Args:
        line: of the file.
        id: of the scenario.
        executed: whether there were reference calls to execute.
        reason: a short name, empty when all holds.
        message: what is wrong.
    """

    line: int
    id: str
    executed: bool
    reason: str = ""
    message: str = ""


def check_file(
    path: str | Path,
    *,
    timeout: float = 10.0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Finding]:
    """Check every scenario of a file; near-duplicates within it are failures, too.

    Args:
        path: of either format.
        timeout: seconds a call of a function may take.
        workers: scenarios that are checked at once.
        progress: called with checked scenarios and their number.

    Yields:
        One finding a line, in order.

    Raises:
        MissingFileError: no such file.
        BadInputError: a line that is not a scenario, or a sandbox that does not work here.
    """
    duplicates, seen = Duplicates(), dict[str, int]()
    lines = require_file(path, "scenario file").read_bytes().count(b"\n")
    with ThreadPoolExecutor(workers, "toolgym-check") as pool:
        for count, (number, scenario, found) in enumerate(_ahead(pool, path, workers, timeout), 1):
            finding = found.result()
            first = seen.setdefault(scenario.id, number)
            if first != number:
                message = f"line {first} has this id already"
                finding = replace(finding, reason="duplicate_id", message=message)
            if not finding.reason:
                item = playable(scenario)
                answers = (
                    told_by(scenario)
                    if isinstance(scenario, World)
                    else [entry.answer for entry in item.sub_answers]
                )
                other = duplicates.add(item.id, item.question, answers)
                if other is not None:
                    message = f"it asks the same as {other!r}, with the same sub-answers"
                    finding = replace(finding, reason="duplicate", message=message)
            if progress is not None:
                progress(count, max(lines, count))
            yield finding


Checked = tuple[int, Read, "Future[Finding]"]
"""Line number, scenario, and what will be found."""


def _ahead(
    pool: ThreadPoolExecutor, path: str | Path, workers: int, timeout: float
) -> Iterator[Checked]:
    """Scenarios in order, a few of them in work at once; the file is not held in memory."""
    waiting: deque[Checked] = deque()
    for number, scenario in read_scenarios(path):
        waiting.append((number, scenario, pool.submit(_check, number, scenario, timeout)))
        if len(waiting) > 2 * workers:
            yield waiting.popleft()
    yield from waiting


def _check(line: int, scenario: Read, timeout: float) -> Finding:
    foreign = isinstance(scenario, PublicScenario) and not isinstance(scenario.row.get(OWN), str)
    executed = not foreign
    try:
        if isinstance(scenario, World):
            check_proof(scenario, timeout)
        elif isinstance(scenario, Scenario):
            verify(scenario, timeout)
        else:
            check_public(scenario, timeout)
    except RejectedError as error:
        return Finding(line, scenario.id, executed, error.reason, str(error))
    return Finding(line, scenario.id, executed)


def check_proof(world: World, timeout: float = 10.0) -> None:
    """Prove a world again; what the row says of its proof has to be what comes out.

    Args:
        world: as it was read.
        timeout: seconds a call of a function may take.

    Raises:
        RejectedError: it does not hold, or the proof in the row is another one.
        BadInputError: the sandbox does not work here.
    """
    proof = prove(world, timeout)
    if world.proof and proof != world.proof:
        message = f"the row says {world.proof}, the proof came out as {proof}"
        raise RejectedError(STAGE, "proof_differs", message)


def check_public(scenario: PublicScenario, timeout: float = 10.0) -> None:
    """Check a published row: by all rules where we wrote it, else by those that need no calls.

    Args:
        scenario: as it was read.
        timeout: seconds a call of a function may take.

    Raises:
        RejectedError: a rule is broken.
        BadInputError: the sandbox does not work here, or our record in the row is broken.
    """
    if isinstance(scenario.row.get(OWN), str):
        own = to_own(scenario)
        wanted = to_public(own).row
        for key in _PLAYED:
            if scenario.row.get(key) != wanted[key]:
                raise RejectedError(
                    STAGE, "record_differs", f"field {key!r} is not what {OWN!r} says it to be"
                )
        verify(own, timeout)
        return
    names = [document["name"] for document in scenario.documents]
    for document in scenario.documents:
        for problem in document_problems(document):
            raise RejectedError(STAGE, "bad_document", f"tool {document['name']!r:.80}: {problem}")
    for name in names:
        if names.count(name) > 1:
            raise RejectedError(STAGE, "duplicate_tool", f"{name!r} stands twice")
    if set(names) != set(scenario.functions):
        raise RejectedError(
            STAGE,
            "functions_differ",
            f"the documents are {sorted(names)}, the functions {sorted(scenario.functions)}",
        )
    for item in scenario.sub_answers:
        if item.tool not in names or not item.answer.strip():
            raise RejectedError(STAGE, "unknown_tool", f"no tool can give the sub-answer {item!r}")
    settings = {**PUBLISHED, "timeout": timeout}
    for name, problem in function_problems(scenario.functions, settings).items():
        raise RejectedError(STAGE, "bad_function", f"{name!r}: {problem}"[:1000])
    opened = [Open(item.id, item.tool, item.answer) for item in scenario.sub_answers]
    check_leaks(scenario.question, scenario.documents, scenario.functions, opened, timeout)

"""Arguments of the Berkeley function-calling leaderboard's calls, against its own documents.

    make bfcl
    python benchmarks/bfcl_arguments.py build/bfcl/bfcl_eval-*.whl

The gold calls should be accepted, but for faults of the data, which are printed; a gold call with
one argument of a wrong type, outside an enumeration, left out or unknown should be refused. Exits
with 1 where a wrong call passes, or where more gold calls are refused than `KNOWN_FAULTS`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from toolgym.tools.schemas import misfits

DATA = "bfcl_eval/data/"
KNOWN_FAULTS = 37
"""Gold calls of bfcl-eval 2026.3.23 that break their own documents: most name a variable of Java or
JavaScript where a list, object or number belongs, or a value outside the enumeration."""
CLASSES = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TwitterAPI": "posting_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "VehicleControlAPI": "vehicle_control",
}
SINGLE_TURN = tuple(f"BFCL_v4_{kind}" for kind in ("simple", "live", "parallel", "multiple"))
WRONG = {
    "string": 7,
    "integer": "seven",
    "number": "seven",
    "boolean": "perhaps",
    "array": 7,
    "object": 7,
}
READ_AS = {"dict": "object", "HashMap": "object", "float": "number", "double": "number"}
READ_AS |= {"long": "integer", "String": "string", "char": "string", "Boolean": "boolean"}
READ_AS |= {"tuple": "array", "Array": "array", "ArrayList": "array"}

Call = tuple[str, dict[str, Any], dict[str, Any]]
"""Id of the task, the parameters of the document, and the arguments."""


def read(wheel: zipfile.ZipFile, name: str) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in wheel.read(DATA + name).splitlines()]


def single_turn(wheel: zipfile.ZipFile) -> Iterator[Call]:
    """Gold calls that come as acceptable values of each argument: the first is taken."""
    for path in sorted(wheel.namelist()):
        name = path.removeprefix(DATA + "possible_answer/")
        if not name.startswith(SINGLE_TURN):
            continue
        rows = {row["id"]: row for row in read(wheel, name)}
        for answer in read(wheel, f"possible_answer/{name}"):
            documents = {item["name"]: item for item in rows[answer["id"]]["function"]}
            for call in answer["ground_truth"]:
                for tool, accepted in call.items():
                    parameters = documents[tool]["parameters"]
                    required = parameters.get("required", ())
                    yield answer["id"], parameters, taken(accepted, required)


def taken(accepted: dict[str, Any], required: Any) -> dict[str, Any]:
    """Arguments from lists of acceptable values; an empty text among them: it may be left out."""
    return {
        name: first(values)
        for name, values in accepted.items()
        if name in required or not isinstance(values, list) or "" not in values
    }


def first(values: Any) -> Any:
    """The first value that says something; those of objects are lists again."""
    if not isinstance(values, list):
        return values
    value = next((v for v in values if v != ""), "" if values else [])
    if isinstance(value, list):
        return [taken(v, ()) if isinstance(v, dict) else v for v in value]
    return taken(value, ()) if isinstance(value, dict) else value


def multi_turn(wheel: zipfile.ZipFile) -> Iterator[Call]:
    """Gold calls that come as Python text."""
    name = "BFCL_v4_multi_turn_base.json"
    rows = {row["id"]: row for row in read(wheel, name)}
    for answer in read(wheel, f"possible_answer/{name}"):
        documents = {
            item["name"]: item["parameters"]
            for kind in rows[answer["id"]]["involved_classes"]
            for item in read(wheel, f"multi_turn_func_doc/{CLASSES[kind]}.json")
        }
        for text in (text for turn in answer["ground_truth"] for text in turn):
            call = ast.parse(text, mode="eval").body
            assert isinstance(call, ast.Call)
            assert isinstance(call.func, ast.Name)
            parameters = documents[call.func.id]
            placed = zip(parameters["properties"], call.args, strict=False)
            named = [(item.arg or "", item.value) for item in call.keywords]
            arguments = {key: ast.literal_eval(value) for key, value in (*placed, *named)}
            # As JSON would carry it: a tuple is a list.
            yield answer["id"], parameters, json.loads(json.dumps(arguments))


def spoiled(parameters: dict[str, Any], arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Wrong calls made of a right one, each with its kind of fault."""
    for name in arguments:
        schema = parameters["properties"][name]
        kind = READ_AS.get(schema.get("type"), schema.get("type"))
        if kind in WRONG:
            yield "type", {**arguments, name: WRONG[kind]}
        if "enum" in schema and kind != "array":
            yield "enum", {**arguments, name: "no such value" if kind == "string" else 987654321}
    for name in parameters.get("required", ()):
        less = copy.deepcopy(arguments)
        if less.pop(name, None) is not None:
            yield "missing", less
    yield "unknown", {**arguments, "no_such_parameter": 1}


def main() -> int:
    """Measure, print, and say by the exit status whether all is as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", help="the bfcl-eval wheel")
    faults, passed, tried, gold, seconds = [], [], Counter[str](), 0, 0.0
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        for task, parameters, arguments in (*single_turn(wheel), *multi_turn(wheel)):
            gold += 1
            began = time.perf_counter()
            problems = misfits(arguments, parameters)
            seconds += time.perf_counter() - began
            if problems:
                faults.append((task, problems))
                continue
            for kind, wrong in spoiled(parameters, arguments):
                tried[kind] += 1
                if not misfits(wrong, parameters):
                    passed.append((task, kind, wrong))
    for task, problems in faults:
        print(f"data's own fault  {task}: {'; '.join(problems):.160}")
    for task, kind, wrong in passed:
        print(f"NOT REFUSED ({kind})  {task}: {wrong!r:.160}")
    print(
        f"gold calls accepted: {gold - len(faults)} of {gold}, {1e6 * seconds / gold:.0f} us each"
    )
    for kind, count in tried.items():
        refused = count - sum(kind == item[1] for item in passed)
        print(f"refused, {kind}: {refused} of {count}")
    return int(bool(passed) or len(faults) > KNOWN_FAULTS)


if __name__ == "__main__":
    raise SystemExit(main())

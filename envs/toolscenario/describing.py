"""Rows of scenario files, and of those that a build rejected, as readable text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from toolgym._util.text import shortened
from toolgym.envs.toolscenario.files import playable
from toolgym.envs.toolscenario.records import OWN, PublicScenario, RejectedError, is_public
from toolgym.envs.toolscenario.tool import run_references
from toolgym.envs.toolscenario.world import KIND
from toolgym.errors import BadInputError
from toolgym.scenario import FROM, Scenario

__all__ = ["describe_row"]


def describe_row(row: Mapping[str, Any], width: int = 600) -> tuple[str, str] | None:
    """A row of a scenario file, or of a build's ``rejected.jsonl``.

    Args:
        row: any object of a ``.jsonl`` file.
        width: characters of each text that are shown.

    Returns:
        Its id and the text; None when the row is neither.

    Raises:
        BadInputError: it looks like one, and is broken.
    """
    if is_public(row):
        found = PublicScenario.from_row(row, str(row.get("id") or "(no id)"))
        return found.id, _public(found, width)
    if {"stage", "reason", "message"} <= row.keys():
        return str(row.get("id")), _rejected(row, width)
    if row.get("kind") == KIND:
        return str(row.get("id")), _world(row, width)
    if {"sub_questions", "combination"} <= row.keys():
        return str(row.get("id")), _stage(row, width)
    return None


def _stage(row: Mapping[str, Any], width: int) -> str:
    return "\n".join(_lines(row, width, _results(row) if "functions" in row else {}))


def _results(row: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    try:
        found = run_references(Scenario.from_row(row))
    except (RejectedError, BadInputError, ValueError):
        return {}  # shown as they stand in the row: what is wrong with them is told elsewhere
    return {name: (item.arguments, item.text) for name, item in found.items()}


def _lines(
    row: Mapping[str, Any], width: int, results: Mapping[str, tuple[Any, str]]
) -> Iterator[str]:
    levels = row.get("levels") or {}
    shape = f"  {row['shape']}" if "shape" in row else ""
    author = f"  by {row['author']}" if row.get("author") else ""
    yield f"=== {row.get('id')}{shape}  complexity {sum(levels.values())} of 12{author}"
    yield f"question: {shortened(row['question'], width)}"
    yield f"answer:   {shortened(' | '.join(row['answers']), width)}"
    yield f"          {_rule(row['combination'])}"
    if levels:
        shown = (f"{name.replace('_', ' ')} {level}" for name, level in levels.items())
        yield f"levels:   {', '.join(shown)}"
    calls = {call["sub_question"]: call for call in row.get("calls", ())}
    yield "--- sub-questions"
    for item in row["sub_questions"]:
        needs = f"  <- {', '.join(item['needs'])}" if item["needs"] else ""
        yield f"{item['id']}{needs}  {shortened(item['question'], width)}"
        call = calls.get(item["id"])
        if call is not None:
            arguments, text = results.get(item["id"], (None, ""))
            yield f"  -> {call['tool']}({_arguments(call['arguments'], arguments, width)})"
            if text:
                yield f"  <- {shortened(text, width)}"
        yield f"  == {shortened(item['answer'], width)}"
    if row.get("documents"):
        yield "--- tools"
        idle = set(row.get("distractors", ()))
        for document in row["documents"]:
            yield from _tool(document, width, document["name"] in idle)
    for old, new in (row.get("merged") or {}).items():
        yield f"merged: {old} into {new}"


def _rule(combination: Mapping[str, Any]) -> str:
    of = ", ".join(combination["of"])
    labels = f" among {', '.join(combination['labels'])}" if combination.get("labels") else ""
    return f"= {combination['rule'].replace('_', ' ')} of {of}{labels}"


def _arguments(plain: Mapping[str, Any], filled: Any, width: int) -> str:
    parts = []
    for name, value in plain.items():
        shown = _with_arrows(value)
        if filled is not None and filled.get(name) != value:
            shown += f" = {json.dumps(filled[name], ensure_ascii=False)}"
        parts.append(f"{name}: {shown}")
    return shortened(", ".join(parts), width)


def _with_arrows(value: Any) -> str:
    if isinstance(value, Mapping) and FROM in value:
        path = "".join(f"[{json.dumps(step)}]" for step in value.get("path", ()))
        return f"#{value[FROM]}{path}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_with_arrows(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_with_arrows(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _tool(document: Mapping[str, Any], width: int, idle: bool) -> Iterator[str]:
    parameters = document["parameters"]
    required = set(parameters.get("required", ()))
    names = (
        f"{name}{'' if name in required else '?'}: {_kind(schema)}"
        for name, schema in parameters.get("properties", {}).items()
    )
    mark = "  [distractor]" if idle else ""
    yield f"{document['name']}({', '.join(names)}){mark}"
    yield f"    {shortened(document['description'], width)}"


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if schema.get("enum"):
        return " | ".join(json.dumps(item, ensure_ascii=False) for item in schema["enum"][:6])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"[{_kind(schema.get('items'))}]"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _rejected(row: Mapping[str, Any], width: int) -> str:
    head = f"=== {row.get('id')}  rejected in {row['stage']}: {row['reason']}"
    lines = [head, f"why: {shortened(row['message'], 2 * width)}"]
    record = row.get("record")
    if isinstance(record, Mapping) and "sub_questions" in record:
        lines += _lines(record, width, {})
    return "\n".join(lines)


def _public(scenario: PublicScenario, width: int) -> str:
    own = scenario.row.get(OWN)
    if isinstance(own, str):
        return _stage(json.loads(own), width)
    item = playable(scenario)
    called = {entry.tool for entry in item.sub_answers}
    lines = [
        f"=== {item.id}  published format",
        f"question: {shortened(item.question, width)}",
        f"answer:   {shortened(' | '.join(item.answers), width)}",
        "--- sub-answers (the format names no sub-questions and no calls)",
        *(f"{entry.tool}  == {shortened(entry.answer, width)}" for entry in item.sub_answers),
        "--- tools",
    ]
    for document in item.documents:
        lines += _tool(document, width, document["name"] not in called)
    return "\n".join(lines)


def _world(row: Mapping[str, Any], width: int) -> str:
    def short(value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return shortened(text, width)

    by = f"  by {row['author']}" if row.get("author") else ""
    lines = [f"=== {row.get('id')}  world of {row.get('domain')}, level {row.get('level')}{by}"]
    lines.append(f"question: {short(str(row.get('question')))}")
    lines.append("--- state")
    for name, table in (row.get("state") or {}).items():
        rows = list(table.items()) if isinstance(table, Mapping) else []
        first = f" rows, such as {short(dict(rows[:1]))}" if rows else ""
        lines.append(f"{name}: {len(rows) if isinstance(table, Mapping) else table}{first}")
    lines.append("--- gold plan")
    lines += [f"{s['id']}  {s['tool']}({short(s['arguments'])})" for s in row.get("plan") or ()]
    for title in ("goal", "rules"):
        lines += [f"--- {title}", *(short(item) for item in row.get(title) or ())]
    if row.get("user"):
        lines += ["--- user", short(row["user"])]
    lines.append("--- tools")
    lines += [f"{d['name']}: {short(d['description'])}" for d in row.get("documents") or ()]
    return "\n".join([*lines, f"proof: {short(row.get('proof') or 'none yet')}"])

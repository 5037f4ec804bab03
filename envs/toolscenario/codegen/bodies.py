"""The bodies of generated functions, line by line, as a tool's `ToolSpec` says."""

from __future__ import annotations

from collections.abc import Mapping

from toolgym.envs.toolscenario.codegen.encoding import grouped
from toolgym.envs.toolscenario.codegen.rendering import Tool
from toolgym.envs.toolscenario.codegen.toolspecs import KINDS, parameter_name

__all__ = ["checking", "computing", "ending", "find", "listing", "lookup", "reading"]


def checking(tool: Tool) -> list[str]:
    """Lines that compare the arguments with the document."""
    groups = grouped(tool.fields, tool.spec.typing)
    names = [group for group in ("query",) if group in groups]
    names += [item.name for item in groups.get("", ())]
    names += ["options"] if "options" in groups else []
    given = ", ".join(f'"{name}": {name}' for name in names)
    return [
        f"    arguments = {{{given}}}",
        "    given = {name: value for name, value in arguments.items() if value is not None}",
        '    check_value(given, _PARAMETERS, "arguments")',
    ]


def reading(tool: Tool) -> list[str]:
    """Plain variables of the parameters."""
    groups, lines = grouped(tool.fields, tool.spec.typing), []
    for item in groups.get("query", ()):
        lines.append(f'    {item.name} = query["{item.name}"]')
    if "options" in groups:
        lines.append("    options = options or {}")
        for item in groups["options"]:
            lines.append(f'    {item.name} = options.get("{item.name}", {item.default!r})')
    done: set[str] = set()
    for item in tool.fields:
        if item.reads != item.target and item.target not in done:
            lines.append(f"    {item.target} = {item.reads}")
            done.add(item.target)
    return lines


def _has(tool: Tool, name: str) -> bool:
    return name in tool.by_param


def _exact(tool: Tool) -> str:
    return 'match == "exact"' if _has(tool, "match") else "False"


def _shaped(tool: Tool, value: str) -> str:
    """The expression of a value with the options for its form applied."""
    if _has(tool, "precision"):
        value = f"round_number({value}, precision)"
    language = "language" if _has(tool, "language") else '"en"'
    for option in ("date_format", "letter_case"):
        if _has(tool, option):
            value = f"present({value}, {option}, {language})"
    return value


def lookup(tool: Tool) -> list[str]:
    """Lines that look up facts."""
    spec, kind = tool.spec, tool.knowledge.types[tool.spec.subject]
    facts = repr([spec.relations[0]])
    if _has(tool, "fact"):
        facts = "[fact]"
    elif _has(tool, "facts"):
        facts = "facts"
    param = tool.core[0].name
    asked = param if tool.batch else f"[{param}]"
    one = "found" if _has(tool, "facts") else "found[wanted[0]]"
    if _has(tool, "layout"):
        one = f'{{"{kind.name}": name, **found}} if layout == "record" else {one}'
    known = f'list(_REGISTER), _SHOWN, "{param}", "{kind.name.replace("_", " ")}", {_exact(tool)}'
    inner = [
        f"name = find_name(asked, {known})",
        "found = {}",
        "for fact in wanted:",
        "    if fact not in _REGISTER[name]:",
        '        raise ValueError(f"the register holds no {fact} of {name!r}")',
        f"    found[fact] = {_shaped(tool, '_REGISTER[name][fact]')}",
        f"results.append({one})",
    ]
    if _has(tool, "missing"):
        inner = ["try:", *(f"    {line}" for line in inner), "except ValueError:"]
        inner += ['    if missing == "error":', "        raise", "    results.append(None)"]
    lines = [f"    wanted = {facts}", "    results = []", f"    for asked in {asked}:"]
    lines += [f"        {line}" for line in inner]
    if _has(tool, "fallback_name"):
        lines[:0] = [
            "    known = [fold_name(name) for name in _REGISTER]",
            f"    if fallback_name and fold_name({param}) not in known:",
            f"        {param} = fallback_name",
        ]
    return [*lines, f"    result = {'results' if tool.batch else 'results[0]'}"]


def find(tool: Tool) -> list[str]:
    """Lines that find an entity by its properties."""
    spec, kind = tool.spec, tool.knowledge.types[tool.spec.subject]
    word = kind.name.replace("_", " ")
    same = "key == value" if _has(tool, "match") else ""
    folded = "str(key) == str(value) or fold_name(str(key)) == fold_name(str(value))"
    compare = f'({same} if match == "exact" else {folded})' if same else f"({folded})"
    given = ", ".join(f'"{name}": {parameter_name(name)}' for name in spec.relations)
    several = [
        f'        raise ValueError(f"{{len(names)}} {kind.plural.replace("_", " ")} have these '
        'properties: give more of them")',
    ]
    lines = [
        f"    keys = {{{given}}}",
        "    keys = {name: value for name, value in keys.items() if value is not None}",
        "    if not keys:",
        f'        raise ValueError("give at least one of: {", ".join(spec.relations)}")',
        "    names = []",
        "    for name, row in _REGISTER.items():",
        "        fits = True",
        "        for field, value in keys.items():",
        '            key = row.get(field, "")',
        f"            fits = fits and {compare}",
        "        if fits:",
        "            names.append(name)",
    ]
    if _has(tool, "order"):
        lines += ['    if order == "alphabetical":', "        names.sort()"]
    unknown = f'    raise ValueError(f"no {word} in the register has these properties: {{keys}}")'
    lines += ["    if not names:"]
    if _has(tool, "missing"):
        lines += ['        if missing == "null":', "            return None"]
    lines += ["    " + unknown]
    shaped = _shaped(tool, "names[0]")
    if _has(tool, "max_results"):
        each = _shaped(tool, "name")
        return [
            *lines,
            "    if max_results is not None:",
            f"        result = [{each} for name in names[:max_results]]",
            "    elif len(names) > 1:",
            *several,
            "    else:",
            f"        result = {shaped}",
        ]
    return [*lines, "    if len(names) > 1:", *several, f"    result = {shaped}"]


def listing(tool: Tool) -> list[str]:
    """Lines that put entities of an owner in order, or count them."""
    spec = tool.spec
    owner, by = tool.core[0].name, spec.relations[1]
    measure = "sort_by" if spec.kind == "rank" else "measure"
    key = measure if _has(tool, measure) else repr(by)
    names = f'list(_REGISTER), _SHOWN, "{owner}", "{owner}", {_exact(tool)}'
    lines = [
        f"    name = find_name({owner}, {names})",
        f"    rows = [row for row in _REGISTER[name] if row.get({key}) is not None]",
    ]
    if _has(tool, "name_contains"):
        lines += [
            "    letters = fold_name(name_contains)",
            '    rows = [row for row in rows if letters in fold_name(row["name"])]',
        ]
    if spec.kind == "rank":
        named = _shaped(tool, 'row["name"]')
        down = 'order == "descending"' if _has(tool, "order") else "True"
        skip = "skip" if _has(tool, "skip") else "0"
        return [
            *lines,
            f"    rows.sort(key=lambda row: row[{key}], reverse={down})",
            f"    chosen = rows[{skip}:][:limit]",
            f"    result = [{named} for row in chosen]",
        ]
    lines.append(f"    chosen = [row for row in rows if row[{key}] >= minimum]")
    if _has(tool, "maximum"):
        lines += [
            "    if maximum is not None:",
            f"        chosen = [row for row in chosen if row[{key}] <= maximum]",
        ]
    lines.append("    result = len(chosen)")
    if _has(tool, "as_percentage"):
        lines += [
            "    if as_percentage:",
            "        result = round(100 * len(chosen) / max(1, len(rows)), 2)",
        ]
    return lines


def computing(tool: Tool) -> list[str]:
    """Lines that compute."""
    spec, kind = tool.spec, KINDS[tool.spec.kind]
    lines = []
    for param in kind.functional:
        if not _has(tool, param.name):
            value = repr(spec.operations[0]) if param.name == "operation" else repr(param.default)
            lines.append(f"    {param.name} = {value}")
    lines.append(f"    result = {kind.formula}")
    if kind.digits is not None:
        digits = str(kind.digits)
        if _has(tool, "precision"):
            digits = f"{digits} if precision is None else precision"
        way = ", rounding" if _has(tool, "rounding") else ""
        lines.append(f"    result = round_number(result, {digits}{way})")
    return lines


_NOTES: Mapping[str, str] = {
    "en": "value from the local register",
    "de": "Wert aus dem örtlichen Register",
    "fr": "valeur du registre local",
}


def ending(tool: Tool) -> list[str]:
    """Lines that give the result, with details where they are asked for."""
    if not _has(tool, "include_details"):
        return ["    return result"]
    notes = (
        dict(_NOTES)
        if tool.spec.kind not in KINDS
        else {"en": "computed value", "de": "berechneter Wert", "fr": "valeur calculée"}
    )
    language = "language" if _has(tool, "language") else '"en"'
    return [
        "    if include_details:",
        f"        note = {notes!r}[{language}]",
        '        return {"value": result, "details": {"note": note}}',
        "    return result",
    ]

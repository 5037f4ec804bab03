"""Domains from files: the bundled ones by name, others by path."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import require_file
from toolgym.envs.toolscenario.authors.stateful.parts import (
    Check,
    Domain,
    Read,
    Rule,
    Table,
    Write,
    constant,
    read_field,
)
from toolgym.errors import BadInputError, UnknownNameError, did_you_mean

__all__ = ["DOMAINS", "open_domain"]

DOMAINS = (*("shop", "bank", "inventory", "bookings", "calendar", "files", "messages", "tickets"),)
_KEYS = {
    "domain": "about lock invariants tables reads writes rules",
    "table": "noun prefix words found fields share",
    "read": "table by about hides",
    "write": "about takes does asks checks vague own",
    "rule": "words verb before after instead",
}
_NEEDED = {
    "domain": "about tables reads writes",
    "table": "noun words found fields",
    "read": "table by about",
    "write": "about takes does",
    "rule": "words verb before instead",
}


@functools.lru_cache(maxsize=32)
def open_domain(name: str) -> Domain:
    """A domain.

    Args:
        name: one of `DOMAINS`, or the path of a ``.toml`` file.

    Raises:
        UnknownNameError: no domain has that name.
        MissingFileError: there is no such file.
        BadInputError: the file says what is no domain; its place is named.
    """
    if name not in DOMAINS and not name.endswith(".toml"):
        raise UnknownNameError("domain", name, DOMAINS)
    bundled = Path(__file__).with_name("domains") / f"{name}.toml"
    path = bundled if name in DOMAINS else require_file(name, "domain file")
    try:
        row = tomllib.loads(path.read_text(encoding="utf-8"))
        return read_domain(row)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, BadInputError) as error:
        raise BadInputError(f"domain file {str(path)!r}: {error}") from error


def read_domain(row: Mapping[str, Any]) -> Domain:
    """A domain from plain data.

    Raises:
        BadInputError: it is none; the place is named.
    """
    _known(row, "domain", "the domain")
    tables = {n: _table(n, item) for n, item in row["tables"].items()}
    prefixes = [table.prefix for table in tables.values()]
    if len(set(prefixes)) < len(prefixes):
        raise BadInputError(f"two tables have one prefix, so ids cannot be told apart: {prefixes}")
    made = Domain(
        about=row["about"],
        tables=tables,
        reads={n: _read(n, item) for n, item in row["reads"].items()},
        writes={n: _write(n, item) for n, item in row["writes"].items()},
        rules=tuple(_rule(n, item) for n, item in enumerate(row.get("rules", ()))),
        invariants=tuple(constant(item) for item in row.get("invariants", ())),
        lock=row.get("lock"),
    )
    _check_names(made)
    return made


def _known(row: Any, kind: str, where: str) -> None:
    known, needed = _KEYS[kind].split(), _NEEDED[kind].split()
    if not isinstance(row, Mapping):
        raise BadInputError(f"{where} is a table of keys, not {row!r:.80}")
    for key in row:
        if key not in known:
            raise BadInputError(
                f"{where} has the key {key!r}{did_you_mean(key, known)}; keys: {', '.join(known)}"
            )
    missing = [key for key in needed if key not in row]
    if missing:
        raise BadInputError(f"{where} lacks {missing[0]!r}")


def _fields(items: Mapping[str, str], where: str) -> dict[str, Any]:
    found = {}
    for name, item in items.items():
        try:
            found[name] = read_field(item)
        except BadInputError as error:
            raise BadInputError(f"{where}, {name}: {error}") from error
    return found


def _table(name: str, row: Mapping[str, Any]) -> Table:
    where = f"tables.{name}"
    _known(row, "table", where)
    if len(row["found"]) != 1:
        raise BadInputError(f"{where}.found names one reading verb, not {list(row['found'])}")
    ((verb, by),) = row["found"].items()
    return Table(
        noun=row["noun"],
        prefix=row.get("prefix", row["noun"][0].upper()),
        fields=_fields(row["fields"], where),
        words=row["words"],
        found=(verb, by),
        share=float(row.get("share", 1.0)),
    )


def _read(name: str, row: Mapping[str, Any]) -> Read:
    _known(row, "read", f"reads.{name}")
    return Read(row["table"], row["by"], row["about"], tuple(row.get("hides", ())))


def _write(name: str, row: Mapping[str, Any]) -> Write:
    where = f"writes.{name}"
    _known(row, "write", where)
    return Write(
        about=row["about"],
        takes=_fields(row["takes"], where),
        does=tuple(_effect(item, where) for item in row["does"]),
        asks=tuple(row.get("asks", ())),
        checks=tuple(_check(item, where) for item in row.get("checks", ())),
        vague={key: tuple(items) for key, items in row.get("vague", {}).items()},
        own=bool(row.get("own", False)),
    )


def _check(text: str, where: str) -> Check:
    path, operator, value = [*text.split(" ", 2), "", ""][:3]
    if operator not in ("is", "not", "at_least", "at_most"):
        raise BadInputError(f"{where}: {text!r} is not a check such as 'order.status is open'")
    return path, operator, constant(value)


def _effect(text: str, where: str) -> tuple[Any, ...]:
    kind, _, rest = text.partition(" ")
    first, _, value = rest.partition(" ")
    if kind == "new":
        pairs = [part.partition("=") for part in value.split()]
        return kind, first, {key: constant(item) for key, _, item in pairs}
    if kind == "drop":
        return kind, rest
    if kind in ("set", "add", "take") and value:
        return kind, first, constant(value)
    raise BadInputError(f"{where}: {text!r} is not an effect: set, add, take, new or drop")


def _rule(number: int, row: Mapping[str, Any]) -> Rule:
    _known(row, "rule", f"rules[{number}]")
    before, after = constant(row["before"]), constant(row.get("after", {}))
    return Rule(row["words"], row["verb"], before, after, row["instead"])


def _check_names(domain: Domain) -> None:
    """Everything that is named is there."""
    named: list[tuple[str, Any, Any]] = []
    for key, table in domain.links.items():
        named.append((f"tables.{key}", table, domain.tables))
    for name, spec in domain.tables.items():
        named.append((f"tables.{name}.found", spec.found[0], domain.reads))
        named += [(f"tables.{name}.found", f, spec.fields) for f in spec.found[1].values()]
    for name, read in domain.reads.items():
        named.append((f"reads.{name}", read.table, domain.tables))
        held = ("id", *domain.tables[read.table].fields) if read.table in domain.tables else ()
        named += [(f"reads.{name}.by", key, held) for key in read.by.values()]
    for name, write in domain.writes.items():
        named += [(f"writes.{name}", table, domain.tables) for table in write.rows().values()]
        named += [(f"writes.{name}.vague", key, write.takes) for key in write.vague]
        for kind, first, *_ in write.does:
            if kind == "new":
                named.append((f"writes.{name}.does", first, domain.tables))
            else:
                row = f"{first.partition('.')[0]}_id"
                named.append((f"writes.{name}.does", row, write.rows()))
        for path, *_ in write.checks:
            named.append((f"writes.{name}.checks", f"{path.partition('.')[0]}_id", write.rows()))
    for number, rule in enumerate(domain.rules):
        named += [(f"rules[{number}]", verb, domain.writes) for verb in (rule.verb, rule.instead)]
    if domain.lock is not None:
        named.append(("lock", domain.lock["table"], domain.tables))
        named.append(("lock", domain.lock["verb"], domain.writes))
    for where, name, known in named:
        if name not in known:
            raise BadInputError(
                f"{where} names {name!r}, which is not there{did_you_mean(str(name), known)}; "
                f"there are {', '.join(known) or 'none'}"
            )

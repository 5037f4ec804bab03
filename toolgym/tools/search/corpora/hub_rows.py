"""Rows of a data set on the hub, or in a local folder of parquet, Arrow or CSV files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from toolgym._util.jsonl import dump_line
from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError, MissingFileError, did_you_mean

__all__ = ["COLUMNS", "BrokenDownloadError", "HubName", "HubRows", "is_hub"]

_PREFIX = "hf:"
COLUMNS = {
    "id": ("id", "_id", "docid", "doc_id", "wikipedia_id", "pid", "passage_id", "page_id"),
    "title": ("title", "wikipedia_title", "page_title", "name"),
    "text": (
        *("text", "contents", "content", "body", "article", "passage", "passage_text"),
        *("document", "paragraphs", "paragraph", "plain_text"),
    ),
}
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv"}
_NAME = re.compile(r"(?P<path>[^:?@]+)(?:@(?P<revision>[^:?@]+))?(?::(?P<rest>[^?]*))?(?:\?(.*))?")


class BrokenDownloadError(MissingFileError, ConnectionError):
    """A data set whose stream broke off; the same command again goes on."""


def is_hub(corpus: str | Path) -> bool:
    """Whether a corpus is named as a data set."""
    return str(corpus).startswith(_PREFIX)


@dataclass(frozen=True, slots=True)
class HubName:
    """``hf:PATH[@REVISION][:CONFIG[:SPLIT]][?text=COLUMN&title=COLUMN&id=COLUMN]``.

    Args:
        path: ``OWNER/NAME`` on the hub, or a local folder or file.
        revision: branch, tag or commit; None: the newest.
        config: None: the only one.
        split: None: the only one, or ``train``.
        columns: which column is what; others are found by their usual names.
    """

    path: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> HubName:
        """Read a name.

        Raises:
            BadInputError: it has another form, or names no such use of a column.
        """
        found = _NAME.fullmatch(name.removeprefix(_PREFIX))
        parts = (found["rest"] or "").split(":") if found is not None else []
        if found is None or len(parts) > 2:
            raise BadInputError(
                f"{name!r} names no data set; it is written "
                "hf:OWNER/NAME:CONFIG:SPLIT?text=COLUMN&title=COLUMN, all but the name optional"
            )
        columns = dict(parse_qsl(found[4] or "", keep_blank_values=True))
        for use in columns:
            if use not in COLUMNS:
                raise BadInputError(
                    f"{name!r}: unknown column use {use!r}{did_you_mean(use, COLUMNS)}; "
                    f"known: {', '.join(COLUMNS)}"
                )
        config, split = (*(part or None for part in parts), None, None)[:2]
        return cls(found["path"], found["revision"], config, split, columns)

    def __str__(self) -> str:
        """As `read` reads it."""
        revision = f"@{self.revision}" if self.revision else ""
        rest = f":{self.config or ''}:{self.split}" if self.split else f":{self.config or ''}"
        columns = f"?{urlencode(dict(self.columns))}" if self.columns else ""
        return f"{_PREFIX}{self.path}{revision}{rest.removesuffix(':')}{columns}"

    def absolute(self) -> HubName:
        """With the absolute path, where it is a local one."""
        local = Path(self.path).expanduser()
        return replace(self, path=str(local.absolute())) if local.exists() else self


class HubRows:
    """The rows of a data set as JSON lines of ``id``, ``title`` and ``text``, streamed.

    Nothing is downloaded as a whole. Where the hub is switched off (``HF_HUB_OFFLINE=1``), its
    cache is read instead.

    Args:
        name: see `HubName`.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        MissingFileError: there is no such data set, configuration or split, or no network.
        BadInputError: no column with a text.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rows = _load(HubName.read(name), name)
        columns = list(getattr(self._rows, "column_names", None) or next(iter(self._rows), {}))
        self._columns = _choose(HubName.read(name).columns, columns, name)
        self._rows = self._rows.select_columns(list(dict.fromkeys(self._columns.values())))
        splits = getattr(self._rows.info, "splits", None) or {}
        found = splits.get(str(self._rows.split)) if hasattr(splits, "get") else None
        self.size = int(getattr(found, "num_bytes", 0) or 0)
        """About so many bytes of rows; 0: not known."""

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        try:
            for number, row in enumerate(self._rows, 1):
                yield self._line(row, number)
        except (OSError, RuntimeError) as error:
            if isinstance(error, MissingFileError):
                raise
            raise BrokenDownloadError(
                f"corpus {self.name!r} broke off after row {number} ({_reason(error)}); "
                "give the same command again to go on"
            ) from error

    def _line(self, row: Mapping[str, Any], number: int) -> bytes:
        found = {use: row.get(column) for use, column in self._columns.items()}
        text = found["text"]
        if isinstance(text, Mapping):  # a list of records arrives as a record of lists
            text = next((part for part in text.values() if isinstance(part, list)), None)
        if not isinstance(text, str | list):
            raise BadInputError(
                f"corpus {self.name!r}, row {number}: column {self._columns['text']!r} holds no "
                f"text but {str(text)[:40]!r}"
            )
        title, identity = found.get("title"), found.get("id")
        shown = {"id": str(number if identity is None else identity)}
        return dump_line(
            shown | {"title": "" if title is None else str(title), "text": text}
        ).encode()


def _load(name: HubName, shown: str) -> Any:
    datasets = require_extra("datasets", "wiki")
    path = Path(name.path)
    where: dict[str, Any] = {"path": name.path, "name": name.config, "revision": name.revision}
    if path.is_file():
        if path.suffix not in _BUILDERS:
            raise BadInputError(
                f"corpus {shown!r}: of single files only {', '.join(_BUILDERS)} are read so; "
                f"name JSON lines without hf: as {name.path}"
            )
        where = {"path": _BUILDERS[path.suffix], "data_files": name.path}
        where |= {"sep": "\t"} if path.suffix == ".tsv" else {}
    streaming = path.exists() or not datasets.config.HF_HUB_OFFLINE
    try:
        with quiet():
            found = datasets.load_dataset(**where, split=name.split, streaming=streaming)
    except (OSError, ValueError, RuntimeError) as error:
        reason = _reason(error)
        known = re.findall(r"'([^' ]+)'", reason)  # configurations and splits that there are
        hints = (
            did_you_mean(part, set(known) - {part}) for part in (name.split, name.config) if part
        )
        hint = next(filter(None, hints), "")
        raise MissingFileError(
            f"corpus {shown!r} cannot be opened{hint} ({type(error).__name__}: {reason}); it is "
            "written hf:OWNER/NAME:CONFIG:SPLIT"
        ) from error
    if name.split is None:
        splits = list(found)
        chosen = splits[0] if len(splits) == 1 else "train"
        if chosen not in splits:
            raise MissingFileError(
                f"corpus {shown!r} has no split 'train'; name one of its splits: "
                f"{', '.join(splits)}, as in {_PREFIX}{name.path}:{name.config or ''}:{splits[0]}"
            )
        found = found[chosen]
    return found


def _choose(named: Mapping[str, str], columns: Sequence[str], shown: str) -> dict[str, str]:
    """Which column is what."""
    for column in named.values():
        if column not in columns:
            raise BadInputError(
                f"corpus {shown!r} has no column {column!r}"
                f"{did_you_mean(column, columns)}; columns: "
                f"{', '.join(columns)}"
            )
    usual = {
        use: column for use, names in COLUMNS.items() for column in reversed(names)
        if column in columns
    }  # fmt: skip
    chosen = usual | dict(named)
    if "text" not in chosen:
        raise BadInputError(
            f"corpus {shown!r} has no column with a usual name for a text; name it as in "
            f"{shown}?text=COLUMN; columns: {', '.join(columns)}"
        )
    return chosen


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or "no reason given"

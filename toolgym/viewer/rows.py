"""Rows that are no episodes: training rows with what is learned in them, and those of viewers."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolgym._util.frames import standing
from toolgym._util.jsonl import read_rows
from toolgym._util.text import shortened
from toolgym.data.export import IGNORED
from toolgym.errors import BadInputError, TemplateError
from toolgym.registry import VIEWERS
from toolgym.viewer.episodes import parts, plain_number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Viewer", "describe_row", "file_of_rows", "numbers", "record_of", "viewer_of"]

Viewer = Callable[[dict[str, Any], int], tuple[str, str] | None]
"""Shows a row, with so many characters of each text: its id and the text; or it is not its kind."""

_CONVERSATIONS = ("messages", "prompt", "completion", "chosen", "rejected")
_WIDE = 10**9


def file_of_rows(path: Path) -> Path | None:
    """The file of rows behind a path; None: what is there are episodes, or nothing.

    Args:
        path: a file, or a folder that `toolgym.export` wrote.
    """
    file = standing(path / "train.jsonl") if path.is_dir() else path
    row = next((row for _, row in read_rows(file, torn=True)), None) if file.is_file() else None
    return None if row is None or "steps" in row else file


def viewer_of(file: Path) -> Viewer | None:
    """Who shows the rows of a file; nobody where no viewer knows the first one.

    Args:
        file: as `file_of_rows` gives it.
    """
    row = next((row for _, row in read_rows(file, torn=True)), {})
    viewers: list[Viewer] = [VIEWERS.get(name) for name in VIEWERS]
    return next((viewer for viewer in viewers if viewer(row, 10) is not None), None)


def record_of(
    row: dict[str, Any], number: int, show: Viewer, tokenizer: PreTrainedTokenizerBase | None = None
) -> dict[str, Any]:
    """A row as the page shows it.

    Args:
        row: of a file.
        number: of its line, for rows without an id.
        show: who knows what it is.
        tokenizer: of the model that learns: gives the exact tokens of training rows.

    Raises:
        BadInputError: the row is broken.
    """
    if _is_training(row):
        return _training_record(row, number, tokenizer)
    known = show(row, _WIDE)
    name, text = known if known is not None else (str(row.get("id", number)), "")
    return {"id": name, "question": _title(row), "text": text, "row": row}


def numbers(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Numbers of rows as columns, see `toolgym.viewer.episodes.Columns.plain`.

    Args:
        rows: [rows] numbers by name; a name that a row lacks is less than any number there.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: array("d", (row.get(name, float("-inf")) for row in rows)) for name in names}
    return {name: [plain_number(value) for value in column] for name, column in columns.items()}


def measured(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row: those that stand in it, and how much of it is learned."""
    found = {name: float(value) for name, value in _numbers(row)}
    for name in _CONVERSATIONS:
        if isinstance(row.get(name), list):
            replies = [m for m in row[name] if _learned(name) and m.get("role") == "assistant"]
            if replies:
                key = "learned_words" if name in ("messages", "completion") else f"{name}_words"
                found[key] = float(sum(len(str(m.get("content")).split()) for m in replies))
    if isinstance(row.get("labels"), list):
        found["tokens"] = float(len(row["labels"]))
        found["learned_tokens"] = float(sum(label != IGNORED for label in row["labels"]))
    return found


def describe_row(row: Mapping[str, Any], width: int = 600) -> tuple[str, str] | None:
    """A training row as text: what is learned stands behind a ``+``, a rejected reply behind ``-``.

    Args:
        row: any object of a ``.jsonl`` file.
        width: characters of each text that are shown.

    Returns:
        Its id and the text; None when it is not a training row.
    """
    if not _is_training(row):
        return None
    record = _training_record(row, 0, None)
    lines = [f"=== {record['id']}"]
    for section in record["sections"]:
        lines.append(f"--- {section['name']}")
        for message in section.get("messages", ()):
            sign = {"learned": "+", "rejected": "-"}.get(message.get("mask", ""), " ")
            said = "".join(message["say"]) + "".join(
                f"\n-> {call['name']}({call['arguments']})" for call in message.get("calls", ())
            )
            head, *rest = shortened(said, width).split("\n")
            lines.append(f"{sign} {message['role']}: {head}")
            lines += [f"{sign}   {line}" for line in rest]
        if "ids" in section:
            learned = section["mask"].count("1")
            lines.append(f"  {len(section['mask'])} tokens, {learned} of them learned")
    lines += [f"{key}: {shortened(str(value), width)}" for key, value in record["facts"].items()]
    return record["id"], "\n".join(lines)


def _is_training(row: Mapping[str, Any]) -> bool:
    if isinstance(row.get("input_ids"), list) and isinstance(row.get("labels"), list):
        return True
    keys = row.keys()
    chats = "messages" in keys or {"prompt", "completion"} <= keys or {"chosen", "rejected"} <= keys
    # The published format of scenarios has messages, too, and the sources of its tools.
    return chats and "codes" not in keys and _conversation(row) is not None


def _conversation(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The first conversation of a row, if all of them are such."""
    chats = [row[name] for name in _CONVERSATIONS if name in row]
    for chat in chats:
        if not isinstance(chat, list) or not all(isinstance(m, dict) and "role" in m for m in chat):
            return None
    return chats[0] if chats else None


def _training_record(
    row: Mapping[str, Any], number: int, tokenizer: PreTrainedTokenizerBase | None
) -> dict[str, Any]:
    sections: list[dict[str, Any]] = []
    for name in _CONVERSATIONS:
        if name in row:
            messages = [_message(chat, name) for chat in row[name]]
            sections.append({"name": name, "messages": messages})
    if "input_ids" in row:
        sections.append(_token_section(row["input_ids"], row["labels"], tokenizer, "tokens"))
    elif tokenizer is not None:
        sections += _encoded(row, tokenizer)
    facts = {key: row[key] for key in row if key not in (*_CONVERSATIONS, "id", *_TOKENS)}
    question = _title(row)
    return {
        "id": str(row.get("id", f"line {number}")),
        "question": question,
        "sections": sections,
        "facts": facts,
    }


_TOKENS = ("input_ids", "labels")


def _learned(section: str) -> bool:
    return section in ("messages", "completion", "chosen", "rejected")


def _message(chat: Mapping[str, Any], section: str) -> dict[str, Any]:
    content = chat.get("content")
    text = content if isinstance(content, str) else "" if content is None else json.dumps(content)
    message: dict[str, Any] = {"role": str(chat["role"]), "say": [text]}
    if chat["role"] == "assistant":
        message["say"] = parts(text, "")
    if chat["role"] == "assistant" and _learned(section):
        message["mask"] = "rejected" if section == "rejected" else "learned"
    calls = chat.get("tool_calls")
    if calls:
        functions = [call.get("function", call) for call in calls]
        message["calls"] = [
            {"name": str(f.get("name")), "arguments": f.get("arguments")} for f in functions
        ]
    return message


def _encoded(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> Iterator[dict[str, Any]]:
    """The tokens that a trainer makes of the row, a section for each conversation to learn from."""
    from toolgym.training.encoding import encode_chat, spans

    tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
    prompt = row.get("prompt", [])
    before = sum(chat.get("role") == "assistant" for chat in prompt)
    for name in ("messages", "completion", "chosen", "rejected"):
        if name not in row:
            continue
        chats = row[name] if name == "messages" else prompt + row[name]
        try:
            encoded = encode_chat(tokenizer, chats, tools)
        except TemplateError as error:
            raise BadInputError(f"row {row.get('id')!r} cannot be tokenised: {error}") from error
        begins = [begin for begin, _ in spans(encoded.labels)][
            before if name != "messages" else 0 :
        ]
        first = begins[0] if begins else len(encoded.labels)
        labels = [IGNORED] * first + encoded.labels[first:]
        yield _token_section(encoded.input_ids, labels, tokenizer, f"tokens of {name}")


def _token_section(
    ids: Sequence[int],
    labels: Sequence[int],
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
) -> dict[str, Any]:
    mask = "".join("0" if label == IGNORED else "1" for label in labels)
    section: dict[str, Any] = {"name": name, "ids": list(ids), "mask": mask}
    return section if tokenizer is None else section | {"texts": token_texts(tokenizer, ids)}


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; of those that make one character together the last one has it.

    Args:
        tokenizer: decodes.
        ids: [tokens]

    Returns:
        [tokens] texts, some of them empty.
    """
    found: list[str] = []
    begin = 0
    for end in range(1, len(ids) + 1):
        text = str(
            tokenizer.decode(
                list(ids[begin:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
        if text.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids) and end - begin < 8:
            found.append("")
            continue
        found.append(text)
        begin = end
    return found


def _title(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("question"), str):
        return str(row["question"])
    said = [
        str(chat.get("content") or "")
        for chat in _conversation(row) or row.get("messages") or ()
        if isinstance(chat, Mapping) and chat.get("role") in ("user", "human")
    ]
    return said[0] if said else str(row.get("message", ""))


def _numbers(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield above + name, value
        elif isinstance(value, dict) and not above:
            yield from _numbers(value, f"{name}.")

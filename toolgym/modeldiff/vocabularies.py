"""Whether two models read and write the same tokens, from their tokenizers' files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from toolgym.data.filter import read_json
from toolgym.errors import BadInputError

__all__ = ["tokenizer_notes"]

_OTHER = 0.1  # share of common ids with other tokens from which it is another vocabulary


def tokenizer_notes(before: Path, after: Path) -> list[str]:
    """What differs between the tokenizers of two model folders.

    Reserved tokens that training gave a name are a note; another vocabulary is an error, since then
    equal rows of the embeddings stand for different words.

    Args:
        before: folder of the base.
        after: folder of the tuned model.

    Raises:
        BadInputError: another vocabulary.
    """
    notes = []
    old, new = (_tokens(folder) for folder in (before, after))
    if old is None or new is None:
        which = "base" if old is None else "tuned model"
        notes.append(f"The {which} has no tokenizer.json: the vocabularies were not compared.")
    else:
        common = old.keys() & new.keys()
        other = sorted(number for number in common if old[number] != new[number])
        if not common or len(other) > _OTHER * len(common):
            example = f" (id {other[0]}: {old[other[0]]!r} and {new[other[0]]!r})" if other else ""
            raise BadInputError(
                f"the vocabularies differ: {len(other):,} of {len(common):,} common ids stand for "
                f"other tokens{example}; compare models of one vocabulary, or leave the weights "
                "out (--no-weights)"
            )
        if other:
            shown = [f"{n}: {old[n]!r} is {new[n]!r}" for n in itertools.islice(other, 3)]
            notes.append(f"{len(other)} ids stand for other tokens ({', '.join(shown)}).")
        if grown := len(new) - len(old):
            notes.append(
                f"The tokenizer has {abs(grown)} tokens {'more' if grown > 0 else 'less'}."
            )
    templates = [_template(folder) for folder in (before, after)]
    if templates[0] != templates[1]:
        missing = [n for n, t in zip(("base", "tuned model"), templates, strict=True) if not t]
        notes.append(
            f"The {missing[0]} has no chat template."
            if missing
            else "The chat templates differ: the two models were not prompted alike."
        )
    return notes


def _tokens(folder: Path) -> dict[int, str] | None:
    """Tokens by id; None without a ``tokenizer.json``."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    data = read_json(file)
    listed: Any = (data.get("model") or {}).get("vocab") or {}
    if isinstance(listed, dict):
        found = {int(number): token for token, number in listed.items()}
    else:  # pairs of token and score
        found = {number: str(pair[0]) for number, pair in enumerate(listed)}
    return found | {int(t["id"]): str(t["content"]) for t in data.get("added_tokens") or []}


def _template(folder: Path) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8").strip()
    file = folder / "tokenizer_config.json"
    found = read_json(file).get("chat_template") if file.is_file() else None
    return found.strip() if isinstance(found, str) else str(found or "")

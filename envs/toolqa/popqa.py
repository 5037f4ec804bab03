"""``ToolQA-PopQA-v0``: questions about entities of known popularity (Mallen et al., 2023)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolgym.envs.toolqa.family import Family, HubSet, text_answers
from toolgym.errors import BadInputError

__all__ = ["FAMILY", "make", "make_vector"]


def _answers(row: Mapping[str, Any]) -> Any:
    possible = row.get("possible_answers")
    if not isinstance(possible, str):
        return possible
    try:
        return json.loads(possible)
    except ValueError as error:
        raise BadInputError(
            f"column 'possible_answers' is not a JSON list: {possible!r:.80}"
        ) from error


FAMILY = Family(
    name="PopQA",
    sample="popqa_sample.jsonl",
    hub=HubSet("akariasai/PopQA", None, {"validation": ("test", 1000), "test": ("test", 1000)}),
    reader=text_answers(_answers),
)

make = FAMILY.make
make_vector = FAMILY.make_vector

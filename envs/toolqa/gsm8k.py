"""``ToolQA-GSM8K-v0``: grade-school word problems whose answer is a number (Cobbe et al., 2021)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toolgym.envs.toolqa.family import Family, HubSet
from toolgym.errors import BadInputError
from toolgym.registry import Resource
from toolgym.task import Task, task_from_row

__all__ = ["FAMILY", "make", "make_vector"]

_MARK = "####"
_NUMBER = re.compile(r"\s*[-+]?\s*[$€£]?\s*[-+]?[\d.,]*\d[\d.,]*\s*%?\s*")


def _read(row: Mapping[str, Any], fallback_id: str) -> Task:
    """Our schema, or the set's own: a solution text that ends in ``#### number``."""
    own = dict(row)
    answer = row.get("answer")
    if "answers" not in row and isinstance(answer, str) and _MARK in answer:
        solution, _, number = answer.rpartition(_MARK)
        if not number.strip():
            raise BadInputError(f"column 'answer' has no number after {_MARK}")
        own |= {"answers": [number.strip().replace(",", "")], "solution": solution.strip()}
    elif "answers" not in row and isinstance(answer, str) and not _NUMBER.fullmatch(answer):
        raise BadInputError(
            f"column 'answer' is neither a number nor a solution that ends in {_MARK} and one: "
            f"{answer!r:.80}"
        )
    return task_from_row({"answer_type": "number"} | own, fallback_id)


FAMILY = Family(
    name="GSM8K",
    sample="gsm8k_sample.jsonl",
    hub=HubSet(
        "openai/gsm8k",
        "main",
        {"train": ("train", None), "validation": ("test", 650), "test": ("test", 669)},
        whole={"train": 7473},
    ),
    reader=_read,
    examples=Resource("toolgym.envs.toolqa", "samples/examples_numbers.jsonl"),
)

make = FAMILY.make
make_vector = FAMILY.make_vector

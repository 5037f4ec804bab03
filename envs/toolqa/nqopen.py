"""``ToolQA-NQOpen-v0``: questions typed into a search engine.

Kwiatkowski et al., 2019; the open-domain form is that of Lee et al., 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolgym.envs.toolqa.family import Family, HubSet, text_answers

__all__ = ["FAMILY", "make", "make_vector"]


def _answers(row: Mapping[str, Any]) -> Any:
    answer = row.get("answer")
    return list(answer) if isinstance(answer, list | tuple) else None


FAMILY = Family(
    name="NQOpen",
    sample="nqopen_sample.jsonl",
    hub=HubSet(
        "google-research-datasets/nq_open",
        None,
        {
            "train": ("train", 10_000),
            "validation": ("validation", 1000),
            "test": ("validation", 1000),
        },
    ),
    reader=text_answers(_answers),
)

make = FAMILY.make
make_vector = FAMILY.make_vector

"""``ToolQA-TriviaQA-v0``: trivia questions with aliases as answers (Joshi et al., 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolgym.envs.toolqa.family import Family, HubSet, text_answers
from toolgym.task import Task

__all__ = ["FAMILY", "make", "make_vector"]


def _answers(row: Mapping[str, Any]) -> Any:
    answer = row.get("answer")
    if not isinstance(answer, Mapping):
        return None
    # The canonical value first, each alias once; the unlabelled split says "<unk>".
    values = [answer.get("value"), *(answer.get("aliases") or ())]
    return list(dict.fromkeys(value for value in values if value and value != "<unk>"))


def _read(row: Mapping[str, Any], fallback_id: str) -> Task:
    """Our schema, or the set's own, whose ids stand in ``question_id``."""
    return text_answers(_answers)(row, row.get("question_id") or fallback_id)


FAMILY = Family(
    name="TriviaQA",
    sample="triviaqa_sample.jsonl",
    hub=HubSet(
        "mandarjoshi/trivia_qa",
        "rc.wikipedia.nocontext",
        {
            "train": ("train", 10_000),
            "validation": ("validation", 1000),
            "test": ("validation", 1000),
        },
    ),
    reader=_read,
)

make = FAMILY.make
make_vector = FAMILY.make_vector

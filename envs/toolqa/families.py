"""``ToolQA-PopQA-v0`` and the like: four sets of questions, with the rows they are published in.

PopQA (Mallen et al., 2023) asks about entities of known popularity, TriviaQA (Joshi et al., 2017)
gives aliases as answers, GSM8K (Cobbe et al., 2021) has word problems whose answer is a number, and
NQ-Open (Kwiatkowski et al., 2019, as Lee et al., 2019, opened it) was typed into a search engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from toolgym.envs.toolqa.family import Family, HubSet, text_answers
from toolgym.errors import BadInputError
from toolgym.registry import Resource
from toolgym.task import Task, task_from_row

__all__ = ["GSM8K", "NQOPEN", "POPQA", "TRIVIAQA"]


def _popqa_answers(row: Mapping[str, Any]) -> Any:
    possible = row.get("possible_answers")
    if not isinstance(possible, str):
        return possible
    try:
        return json.loads(possible)
    except ValueError as error:
        raise BadInputError(
            f"column 'possible_answers' is not a JSON list: {possible!r:.80}"
        ) from error


POPQA = Family(
    name="PopQA",
    sample="popqa_sample.jsonl",
    hub=HubSet("akariasai/PopQA", None, {"validation": ("test", 1000), "test": ("test", 1000)}),
    reader=text_answers(_popqa_answers),
)

make_popqa = POPQA.make
make_popqa_vector = POPQA.make_vector


def _triviaqa_answers(row: Mapping[str, Any]) -> Any:
    answer = row.get("answer")
    if not isinstance(answer, Mapping):
        return None
    # The canonical value first, each alias once; the unlabelled split says "<unk>".
    values = [answer.get("value"), *(answer.get("aliases") or ())]
    return list(dict.fromkeys(value for value in values if value and value != "<unk>"))


def _triviaqa_row(row: Mapping[str, Any], fallback_id: str) -> Task:
    """Our schema, or the set's own, whose ids stand in ``question_id``."""
    return text_answers(_triviaqa_answers)(row, row.get("question_id") or fallback_id)


TRIVIAQA = Family(
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
    reader=_triviaqa_row,
)

make_triviaqa = TRIVIAQA.make
make_triviaqa_vector = TRIVIAQA.make_vector


_MARK = "####"
_NUMBER = re.compile(r"\s*[-+]?\s*[$€£]?\s*[-+]?[\d.,]*\d[\d.,]*\s*%?\s*")


def _gsm8k_row(row: Mapping[str, Any], fallback_id: str) -> Task:
    """Our schema, or the set's own: a solution text that ends in ``#### number``."""
    own = {k: v for k, v in row.items() if k != "answer_type" or v is not None}
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


GSM8K = Family(
    name="GSM8K",
    sample="gsm8k_sample.jsonl",
    hub=HubSet(
        "openai/gsm8k",
        "main",
        {"train": ("train", None), "validation": ("test", 650), "test": ("test", 669)},
        whole={"train": 7473},
    ),
    reader=_gsm8k_row,
    examples=Resource("toolgym.envs.toolqa", "samples/examples_numbers.jsonl"),
)

make_gsm8k = GSM8K.make
make_gsm8k_vector = GSM8K.make_vector


def _nqopen_answers(row: Mapping[str, Any]) -> Any:
    answer = row.get("answer")
    return list(answer) if isinstance(answer, list | tuple) else None


NQOPEN = Family(
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
    reader=text_answers(_nqopen_answers),
)

make_nqopen = NQOPEN.make
make_nqopen_vector = NQOPEN.make_vector

"""How an answer is compared with the gold: normalisations, the last-number rule, EM, accuracy, F1.

All takes time linear in its texts. Formulas and what they were checked against: docs/rewards.md.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from toolgym.errors import UnknownNameError
from toolgym.task import Task
from toolgym.trajectory import Trajectory

__all__ = [
    *("NORMALISATIONS", "NUMBER_RULES", "RIGHT_PRESETS", "committed", "contains_answer", "exact"),
    *("last_number", "normalise", "overlap_f1", "per_answer", "right"),
]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TO_SPACE = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
_REMOVED = str.maketrans(dict.fromkeys(string.punctuation, ""))


def _paper(text: str) -> str:
    # Lower case first: lower() may bring signs of its own, none of them punctuation.
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TO_SPACE)).split())


def _squad(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_REMOVED)).split())


# What most texts leave out: vowels of Arabic and Hebrew, the stress of Russian words; and the dot
# that lower case leaves of "İ".
_OPTIONAL = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670]"
    "|(?<=[\u0400-\u04ff])[\u0300\u0301]|(?<=i)\u0307"
)


class _Signs(dict[int, str]):
    """Each sign as the normalisation ``unicode`` writes it; filled as texts need them."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        kind = unicodedata.category(sign)
        if kind == "Nd":
            sign = str(unicodedata.decimal(sign))
        elif kind == "Cf" or 0xFE00 <= code <= 0xFE0F or code == 0x640:
            sign = ""  # joiners, marks of direction, variants; the Arabic sign that stretches words
        elif 0x370 <= code < 0x400 or 0x1F00 <= code < 0x2000:
            sign = unicodedata.normalize("NFD", sign)[0]  # capitals leave the accent out
        elif kind[0] in "PSZC":
            sign = " "
        self[code] = sign
        return sign


_AS_UNICODE = _Signs()
# Scripts that put no spaces between words: each letter is taken for one, with its marks; words of
# katakana are told by their script.
_LETTER = (
    "\u3041-\u309f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
_MARK = "".join(
    chr(code)
    for code in (*range(0x0E00, 0x0F00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800))
    if unicodedata.category(chr(code)).startswith("M")
)
_ACCENTS = str.maketrans(dict.fromkeys("´¨¯¸˘˙˚˛˜˝΄΅", " "))  # NFKC would leave their marks alone
_UNSPACED = re.compile(f"[{_LETTER}][{_MARK}\u3099\u309a]*|[\u30a1-\u30ff\u31f0-\u31ff]+")


def _unicode(text: str) -> str:
    if text.isascii():
        return _paper(text)
    text = text.translate(_ACCENTS)
    for _ in range(2):  # folding can leave what composes, and the other way
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _UNSPACED.sub(r" \g<0> ", _OPTIONAL.sub("", text).translate(_AS_UNICODE))
    return " ".join(_ARTICLES.sub(" ", text).split())


NORMALISATIONS: dict[str, Callable[[str], str]] = {
    "paper": _paper,
    "squad": _squad,
    "unicode": _unicode,
}
"""``paper`` puts spaces for punctuation (arXiv 2502.05867, Evaluation, like TriviaQA's script);
``squad`` deletes it (Rajpurkar et al. 2016, the script of SQuAD v1.1); ``unicode`` is ``paper`` for
every script: its punctuation, digits and forms of letters, and words where none are spaced."""

NUMBER_RULES = ("value", "paper", "paper_filter")
"""``value`` compares numbers as numbers; ``paper`` the normalised last match of the published
pattern, or the normalised answer where nothing matches, with the normalised gold, as the published
evaluation does; ``paper_filter`` the same texts raw, as the published training filter does."""

RIGHT_PRESETS = ("ours", "paper")
"""``paper`` (arXiv 2502.05867): the gold anywhere in a text, the last number of any. So an answer
that pastes a result, repeats the question or lists candidates is right. ``ours`` takes one answer
and no more: the gold must be most of what is said, and nothing else may be offered beside it."""

# Words around an answer that offer nothing else, such as "it is ..." and "the answer is ...".
_AROUND = """answer are as at be been believe by called for from he her his i in is it its must of
on s she so that their there they think this to was were which who antwort das die der es ist c est
la le el respuesta resposta risposta é è il los las les det är er het jest odpowiedź là đáp án
adalah jawabannya cevap это ответ является це відповідь هو هي الإجابة الجواب यह है हैं उत्तर 答 案 是
为 為 年 市 で す だ の は が え"""
_FILLERS = frozenset(_AROUND.split())
_ALTERNATIVES = re.compile(r"[,;/|&\n\u060c\u061b\u3001\uff0c\uff1b]|\b(?:and|or)\b", re.IGNORECASE)
_STATES = ("=", " is", " are", " was", " were", " equals")  # before a number that is the answer


def normalise(text: str, normalisation: str = "paper") -> str:
    """Lower case, no punctuation, no English articles, single spaces.

    Args:
        text: any text.
        normalisation: one of `NORMALISATIONS`.

    Raises:
        UnknownNameError: there is no normalisation of that name.
    """
    if normalisation not in NORMALISATIONS:
        raise UnknownNameError("normalisation", normalisation, NORMALISATIONS)
    return NORMALISATIONS[normalisation](text)


_PAPER_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_DIGITS = frozenset("0123456789")
_IN_NUMBER = _DIGITS | frozenset("$.,")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_RUN = re.compile(r"[$0-9.,]+")


def last_number(text: str) -> Decimal | None:
    """The value of the last number in a text, or None.

    The paper's rule takes the last match of ``(-?[$0-9.,]{2,})|(-?[0-9]+)``. This takes the last
    one that holds a digit (the paper's may be a mere ``...``), reads ``1,234`` as one number and
    ``1,2`` as two, and takes a hyphen for a sign only after no letter, digit or closing bracket.

    Args:
        text: such as ``"so it costs $1,234.50."``.
    """
    text = _ascii_digits(text)
    end = len(text)
    while end and text[end - 1] not in _DIGITS:
        end -= 1
    return _number_at(text, end) if end else None


def _ascii_digits(text: str) -> str:
    """Digits of any script, and their separators, as ASCII: ``٤٢`` and ``２０１５``."""
    if text.isascii() and "'" not in text:
        return text
    text = _THOUSANDS.sub(r"\1,", text.translate(_SEPARATORS))
    return "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)


_SEPARATORS = str.maketrans("٫٬．，－", ".,.,-")
# Marks that join the thousands of one number and part no words: 1'000 and 1\u202f000.
_THOUSANDS = re.compile(
    r"(?<![\d.,])(\d{1,3}|(?<=['’\u00a0\u2009\u202f])\d{3})['’\u00a0\u2009\u202f](?=\d{3}(?!\d))"
)


def _number_at(text: str, digit: int) -> Decimal | None:
    """The number whose last digit ends at offset ``digit``."""
    begin = digit
    while begin and text[begin - 1] in _IN_NUMBER:
        begin -= 1
    body = text[begin:digit].replace("$", "").lstrip(",")
    if body.startswith(".."):  # an ellipsis before the number
        body = body.lstrip(".")
    whole = body
    if "," in body and not _GROUPED.fullmatch(body):
        body = body.rpartition(",")[2]
    if not _PLAIN.fullmatch(body.replace(",", "")):
        return None
    value = Decimal(body.replace(",", ""))
    # copy_negate, since the minus operator would round to 28 digits.
    return value.copy_negate() if body is whole and _signed(text, begin) else value


def _signed(text: str, begin: int) -> bool:
    if not begin or text[begin - 1] not in "-\u2212":
        return False
    before = text[begin - 2 : begin - 1]
    return not (before.isalnum() or before in tuple(")]}"))


def _numbers(text: str) -> Iterator[Decimal]:
    """All numbers of a text, each read as `last_number` reads the last one."""
    text = _ascii_digits(text)
    for match in _RUN.finditer(text):
        end = match.end()
        while end > match.start() and text[end - 1] not in _DIGITS:
            end -= 1
        value = _number_at(text, end) if end > match.start() else None
        if value is not None:
            yield value


def _paper_number(text: str) -> str:
    """What the paper's rules compare: the last match, or the whole text where nothing matches."""
    found = _PAPER_NUMBER.findall(text)
    return str(found[-1]) if found else text


def exact(prediction: str, golds: Sequence[str], normalisation: str = "paper") -> bool:
    """Exact match: the normalised prediction equals a normalised gold answer.

    A gold of which normalisation leaves nothing (``*``, ``The``) is matched by the same text only,
    never by an empty prediction.
    """
    found = normalise(prediction, normalisation)
    return any(
        found == wanted if wanted else _same(prediction, gold)
        for gold, wanted in _normalised(golds, normalisation)
    )


def right(
    prediction: str,
    task: Task,
    normalisation: str | None = None,
    numbers: str = "value",
    whole_words: bool = False,
    preset: str = "ours",
) -> bool:
    """The accuracy rule of a task: does the answer say the gold, as text or as a number.

    Args:
        prediction: the policy's answer.
        task: says the gold answers and how they are compared.
        normalisation: one of `NORMALISATIONS`; None: ``unicode`` for ``ours``, else ``paper``.
        numbers: one of `NUMBER_RULES`.
        whole_words: the gold must begin and end at a word's border; ``paper`` takes any substring,
            ``ours`` never does.
        preset: one of `RIGHT_PRESETS`.

    Raises:
        UnknownNameError: an unknown normalisation, number rule or preset.
    """
    if preset not in RIGHT_PRESETS:
        raise UnknownNameError("preset", preset, RIGHT_PRESETS)
    if numbers not in NUMBER_RULES:
        raise UnknownNameError("number rule", numbers, NUMBER_RULES)
    if task.answer_type == "number":
        if numbers == "value":
            value = (
                None
                if preset == "ours" and not _one_number(prediction)
                else last_number(prediction)
            )
            return value is not None and any(value == last_number(gold) for gold in task.targets)
        found = _paper_number(prediction)
        if numbers == "paper_filter":
            return found in task.targets
        return any(_paper(found) == _paper(gold) for gold in task.targets)
    if preset == "ours":
        return _says(prediction, task.targets, normalisation or "unicode")
    return _spans(prediction, task.targets, normalisation or "paper", whole_words)


def _one_number(prediction: str) -> bool:
    """Whether a text commits itself to its last number: it is the only one, or is stated."""
    values = _numbers(prediction)
    first = next(values, None)
    if all(value == first for value in values):
        return True
    end = len(prediction)
    while end and prediction[end - 1] not in _DIGITS:
        end -= 1
    while end and prediction[end - 1] in _IN_NUMBER:
        end -= 1
    before = prediction[max(0, end - 20) : end].rstrip(" \t$\u20ac\u00a3-\u2212")
    return before.lower().endswith(_STATES)


def _says(prediction: str, golds: Sequence[str], normalisation: str) -> bool:
    """Whether a text says one gold answer and offers nothing beside it."""
    found = f" {normalise(prediction, normalisation)} "
    held = []
    for gold, wanted in _normalised(golds, normalisation):
        if not wanted:
            if _same(prediction, gold):
                return True
        elif (spaced := f" {wanted} ") == found:
            return True
        elif spaced in found:
            held.append(gold)
    return bool(held) and committed(prediction, held, normalisation)


def committed(prediction: str, golds: Sequence[str], normalisation: str = "paper") -> bool:
    """Whether a text is one answer, and most of its words are those of a gold answer.

    Words such as "it is" are not counted. Two parts between commas, lines, slashes, "and" or "or"
    are two answers, unless the gold has such parts itself.
    """
    said = _counted(normalise(prediction, normalisation))
    alone = not _offers_several(prediction, normalisation)
    return any(
        2 * (said & _counted(wanted)).total() > said.total()
        and (alone or _offers_several(gold, normalisation))
        for gold, wanted in _normalised(golds, normalisation)
        if wanted
    )


def _counted(normalised: str) -> Counter[str]:
    words = normalised.split()
    return Counter([word for word in words if word not in _FILLERS] or words)


def _offers_several(text: str, normalisation: str) -> bool:
    """Whether a text lists: two parts between commas, lines, "and" or "or"."""
    return sum(bool(normalise(part, normalisation)) for part in _ALTERNATIVES.split(text)) > 1


def _spans(prediction: str, golds: Sequence[str], normalisation: str, whole_words: bool) -> bool:
    found = normalise(prediction, normalisation)
    if whole_words:
        found = f" {found} "
    return any(
        (f" {wanted} " if whole_words else wanted) in found if wanted else _same(prediction, gold)
        for gold, wanted in _normalised(golds, normalisation)
    )


def overlap_f1(prediction: str, golds: Sequence[str], normalisation: str = "paper") -> float:
    """Token F1: the best over the gold answers of the harmonic mean of token precision and recall.

    Tokens are the words after normalisation, counted with multiplicity (Rajpurkar et al. 2016).
    """
    found = Counter(normalise(prediction, normalisation).split())
    best = 0.0
    for gold, wanted in _normalised(golds, normalisation):
        if not wanted:
            best = max(best, float(_same(prediction, gold)))
            continue
        words = Counter(wanted.split())
        common = (found & words).total()
        if common:
            precision, recall = common / found.total(), common / words.total()
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def contains_answer(
    content: str, task: Task, normalisation: str = "paper", whole_words: bool = False
) -> bool:
    """Whether a tool result holds a gold answer: as a sub-span, or among its numbers."""
    if task.answer_type == "number":
        golds = [last_number(gold) for gold in task.targets]
        return any(value == gold for value in _numbers(content) for gold in golds)
    return _spans(content, task.targets, normalisation, whole_words)


def per_answer(trajectory: Trajectory, score: Callable[[str], Any]) -> list[float]:
    """Score the policy's own answer at the step that gave it; every other step gets 0.0.

    An episode ends with its first answer; later ones (in records from elsewhere) get 0.0 too. Of
    the trajectory nothing is read but ``step.final``.

    Returns:
        [steps] floats.
    """
    values = [0.0] * len(trajectory.steps)
    for index, step in enumerate(trajectory.steps):
        if (answer := step.final) is not None:
            values[index] = float(score(answer))
            break
    return values


def _normalised(golds: Sequence[str], normalisation: str) -> Iterator[tuple[str, str]]:
    return ((gold, _gold(gold, normalisation)) for gold in golds)


@functools.lru_cache(maxsize=8192)
def _gold(gold: str, normalisation: str) -> str:
    """Kept, since the golds of a task are asked for at each of its steps and by each reward."""
    return normalise(gold, normalisation)


def _same(prediction: str, gold: str) -> bool:
    return bool(gold.strip()) and prediction.strip().casefold() == gold.strip().casefold()

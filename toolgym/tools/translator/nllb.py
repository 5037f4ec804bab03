"""Texts through an NLLB model (extra ``translate``): sentence by sentence, in batches.

A model is loaded once per process, when the first text needs it, and shared by all tools and
threads. Sentences of all texts that are asked for at the same time are sorted by length and run
together; greedy decoding gives each the tokens that it would get alone.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from toolgym.errors import BadInputError, ToolTimeoutError, did_you_mean
from toolgym.tools.translator.engines import ENGINES, Engine, OutOfTimeError, Tokens, choose
from toolgym.tools.translator.languages import Layout, lay_out, space_between
from toolgym.tools.translator.modelfiles import ModelFiles, converted_model, find_model

__all__ = ["Gatherer", "Job", "NllbTranslator", "load_nllb"]

Ask = TypeVar("Ask")
Reply = TypeVar("Reply")


class _Request(Generic[Ask, Reply]):
    def __init__(self, items: Sequence[Ask]) -> None:
        self.items = items
        self.replies: list[Reply] | None = None
        self.error: BaseException | None = None


class Gatherer(Generic[Ask, Reply]):
    """Runs one batch at a time, made of everything that has come in meanwhile.

    Nobody waits for others to come: a request that finds the worker free is run at once.

    Args:
        work: answers any number of items, in order.
    """

    def __init__(self, work: Callable[[list[Ask]], Sequence[Reply]]) -> None:
        self._work = work
        self._busy, self._guard = threading.Lock(), threading.Lock()
        self._waiting: list[_Request[Ask, Reply]] = []

    def ask(self, items: Sequence[Ask]) -> list[Reply]:
        """Replies to items, in order; whatever the work raises is raised in each waiting thread."""
        mine: _Request[Ask, Reply] = _Request(items)
        with self._guard:
            self._waiting.append(mine)
        with self._busy:
            if mine.replies is None and mine.error is None:
                with self._guard:
                    requests, self._waiting = self._waiting, []
                self._run(requests)
        if mine.error is not None:
            raise mine.error
        return mine.replies or []

    def _run(self, requests: list[_Request[Ask, Reply]]) -> None:
        try:
            replies = list(self._work([item for request in requests for item in request.items]))
        except BaseException as error:
            for request in requests:
                request.error = error
            raise
        position = 0
        for request in requests:
            request.replies = replies[position : position + len(request.items)]
            position += len(request.items)


MAX_INPUT_TOKENS = 512  # what the model was trained on, language token and end included
MAX_NEW_TOKENS = 512
BATCH, BATCH_TOKENS = 32, 4096  # rows, and tokens with padding, that are run together
CUT = " […]"


@dataclass(frozen=True)
class Job:
    """One text to translate.

    Args:
        text: without lone surrogates.
        source: FLORES-200 code.
        target: FLORES-200 code.
        split: whether at sentences; else at line breaks only.
        beams: width of the beam search; 1 takes the most likely token at each step.
        seconds: of work that it may cost.
    """

    text: str
    source: str
    target: str
    split: bool = True
    beams: int = 1
    seconds: float = 60.0


@dataclass(frozen=True)
class _Source:
    """A sentence as the model reads it: source language, tokens, end of sentence."""

    ids: tuple[int, ...]
    target: int
    beams: int

    @property
    def limit(self) -> int:
        """New tokens at most: no translation is so much longer, only an endless repetition."""
        return min(2 * len(self.ids) + 32, MAX_NEW_TOKENS)


class NllbTranslator:
    """A model with its tokenizer; the weights are loaded when a text needs them.

    Safe to use from several threads, which are answered together. In a process that was forked
    after the weights were loaded they are loaded again, since threads do not survive a fork.

    Args:
        files: the model.
        engine: ``ctranslate2`` or ``transformers``.
        precision: of weights and arithmetic.
        device: ``cpu`` or ``cuda``.

    Raises:
        MissingExtraError: a package of the extra is not installed.
        BadInputError: the model has no NLLB tokenizer, or cannot be converted.
    """

    def __init__(self, files: ModelFiles, engine: str, precision: str, device: str) -> None:
        self.files, self.name, self.precision = files, engine, precision
        self._device = device
        self.tokens = Tokens(files)
        if engine == "ctranslate2":
            converted_model(files, precision)  # now, so that no tool call waits for it
        self._fresh()

    def _fresh(self) -> None:
        self._owner = os.getpid()
        self._engine: Engine | None = None
        self._together: Gatherer[Job, str | ToolTimeoutError] = Gatherer(self._work)

    @property
    def identity(self) -> list[str]:
        """What decides the translations: the model's content, engine and precision."""
        return [self.files.identity, self.name, self.precision]

    def check_language(self, code: str) -> str:
        """The same code.

        Raises:
            BadInputError: the model has no such language token.
        """
        if code not in self.tokens.codes:
            raise BadInputError(
                f"model {self.files.name!r} has no language {code!r}"
                f"{did_you_mean(code, self.tokens.codes)}"
            )
        return code

    def translate(self, jobs: Sequence[Job]) -> list[str | ToolTimeoutError]:
        """Translations in order; a text whose time was over is an error in its place."""
        if self._owner != os.getpid():
            self._fresh()
        return self._together.ask(jobs)

    def engine(self) -> Engine:
        """The engine with the weights loaded."""
        if self._engine is None:
            made, _ = ENGINES[self.name]
            self._engine = made(self.files, self.precision, self._device, self.tokens)
        return self._engine

    def rows(self, sentence: str, job: Job) -> list[tuple[int, ...]]:
        """Token ids of a sentence, in several rows when it is longer than the model reads.

        Each row begins with the source language and ends with the end of sentence. Between them
        the rows hold all the sentence's tokens in order, cut before a word where there is one.
        """
        ids = self.tokens.encode(sentence)
        (begin,) = self.tokens.ids([job.source])
        words = [name.startswith("▁") for name in self.tokens.names(ids)]
        return [(begin, *ids[a:b], self.tokens.end) for a, b in _cuts(words, MAX_INPUT_TOKENS - 2)]

    def _work(self, jobs: list[Job]) -> list[str | ToolTimeoutError]:
        # Nothing else uses the engine meanwhile: the gatherer runs one at a time.
        engine = self.engine()
        until = time.monotonic() + sum(job.seconds for job in jobs)
        laid: dict[Job, tuple[Layout, list[list[_Source]]]] = {}
        for job in dict.fromkeys(jobs):
            layout = lay_out(job.text, job.source, split=job.split)
            (target,) = self.tokens.ids([job.target])
            rows = [self.rows(sentence, job) for sentence in layout.sentences]
            laid[job] = layout, [[_Source(ids, target, job.beams) for ids in part] for part in rows]
        wanted = (row for _, parts in laid.values() for part in parts for row in part)
        found = self._run(engine, list(dict.fromkeys(wanted)), until)
        return [_reply(job, *laid[job], found) for job in jobs]

    def _run(self, engine: Engine, rows: list[_Source], until: float) -> dict[_Source, str]:
        """Translations of rows; of those for which there was time. Short ones come first."""
        found: dict[_Source, str] = {}
        for batch in _batches(rows):
            limit = max(row.limit for row in batch)
            ids, targets = [row.ids for row in batch], [row.target for row in batch]
            try:
                output = engine.generate(ids, targets, limit, until, batch[0].beams)
            except OutOfTimeError:
                break
            found |= {row: self._text(row, new) for row, new in zip(batch, output, strict=True)}
        return found

    def _text(self, row: _Source, new: list[int]) -> str:
        return self.tokens.decode(new[: row.limit]) + (CUT if len(new) >= row.limit else "")


def _cuts(words: list[bool], most: int) -> list[tuple[int, int]]:
    """Begin and end of parts of at most so many tokens; about equal, cut at a word if one is near.

    Args:
        words: whether each token begins a word.
        most: tokens a part.
    """
    cuts: list[tuple[int, int]] = []
    begin = 0
    while len(words) - begin > most:
        parts = -(-(len(words) - begin) // most)
        end = begin + -(-(len(words) - begin) // parts)
        lowest = begin + (end - begin) * 3 // 4
        end = next((place for place in range(end, lowest, -1) if words[place]), end)
        cuts.append((begin, end))
        begin = end
    return [*cuts, (begin, len(words))]


def _batches(rows: list[_Source]) -> list[list[_Source]]:
    """Rows of one way of decoding and about one length, the shortest first."""
    batches: list[list[_Source]] = []
    for row in sorted(rows, key=lambda row: (len(row.ids), row.beams)):
        last = batches[-1] if batches else []
        full = len(last) == BATCH or (len(last) + 1) * len(row.ids) > BATCH_TOKENS
        if not last or full or last[0].beams != row.beams:
            batches.append([])
        batches[-1].append(row)
    return batches


def _reply(
    job: Job, layout: Layout, parts: list[list[_Source]], found: dict[_Source, str]
) -> str | ToolTimeoutError:
    if any(row not in found for part in parts for row in part):
        return ToolTimeoutError(
            f"the translation was ended after {job.seconds:g} seconds; translate a shorter text"
        )
    space = space_between(job.target)
    sentences = [space.join(found[row] for row in part) for part in parts]
    return layout.fill(sentences, job.target)


_LOADING = threading.Lock()


def load_nllb(
    model: str, engine: str = "ctranslate2", precision: str | None = None, device: str = "auto"
) -> NllbTranslator:
    """The translator of a model; the same object for the same model, engine and precision.

    Args:
        model: folder, hub id or short name.
        engine: ``ctranslate2`` or ``transformers``.
        precision: see `engines.choose`.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MissingFileError: no such model.
        BadInputError: an option that cannot be used.
        MissingExtraError: a package of the extra is not installed.
    """
    precision, device = choose(engine, precision, device)
    files = find_model(model)
    with _LOADING:  # two threads that ask at once share one model
        return _load(files, engine, precision, device)


@functools.lru_cache(maxsize=2)
def _load(files: ModelFiles, engine: str, precision: str, device: str) -> NllbTranslator:
    return NllbTranslator(files, engine, precision, device)

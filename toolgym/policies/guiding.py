"""What a guided reply may be: the format's grammar, narrowed by what practice asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from toolgym.errors import BadInputError, explain
from toolgym.formats.grammar import MOST_CALLS, narrowed
from toolgym.policies.base import past_results, question_of
from toolgym.policies.requests import Request

__all__ = ["Narrow", "grammar_of"]

_Words = Annotated[int, Field(ge=1, le=40)]


class Narrow(BaseModel):
    """What guided replies hold to beside the format's grammar.

    Each of them is a rule of the episode, the same for every question: none says what is right.

    Args:
        call_first: no answer before a tool has been called, where there are tools to call.
        call_turns: tools are called in so many turns at most; then an answer is given.
        calls: most calls of one turn.
        answer_words: most words of an answer; several numbers: one after the other for the samples
            of a question, the first one for its first sample, so that practice tries answers of
            other lengths.
        quoted: texts among a call's arguments are words of the question or of a result, and an
            answer is words of a result, as they stand there; no answer is given before something
            was read.
        new_words: such an answer holds no word of the question: not what was asked about, but what
            is said of it.
        no_digits: such an answer holds no digit: for questions that ask for no number and no date.
        trimmed: words with which such an answer neither begins nor ends, such as articles and
            prepositions: it is a name or a thing, not a piece of a sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    call_first: bool = False
    call_turns: int | None = Field(default=None, ge=1)
    calls: int | None = Field(default=None, ge=1, le=MOST_CALLS)
    answer_words: _Words | Annotated[tuple[_Words, ...], Field(min_length=1)] | None = None
    quoted: bool = False
    new_words: bool = False
    no_digits: bool = False
    trimmed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Narrow:
        for name in ("new_words", "no_digits", "trimmed"):
            if getattr(self, name) and not self.quoted:
                raise ValueError(f"{name} is about quotations: set quoted, too")
        return self

    @field_validator("answer_words", "trimmed", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @classmethod
    def read(cls, given: Narrow | Mapping[str, Any] | None, guided: bool) -> Narrow:
        """From plain data; None and an empty mapping narrow nothing.

        Args:
            given: the options.
            guided: whether replies are guided at all.

        Raises:
            BadInputError: an unknown key, a value that does not fit, or replies are not guided.
        """
        try:
            made = cls.model_validate({} if given is None else given)
        except ValidationError as error:
            raise BadInputError(f"narrow: {explain(error, cls)}") from error
        if made.said and not guided:
            raise BadInputError(f"narrow ({made}) is for guided replies: pass guided=True, too")
        return made

    @property
    def said(self) -> dict[str, Any]:
        """What differs from the grammar alone, as plain data."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def most_words(self, episode: str) -> int | None:
        """Most words of an answer in an episode.

        Args:
            episode: ``task id#sample``, see `toolgym.policies.requests.Request`.
        """
        if not isinstance(self.answer_words, tuple):
            return self.answer_words
        sample = episode.rpartition("#")[2]
        return self.answer_words[
            (int(sample) if sample.isdecimal() else 0) % len(self.answer_words)
        ]

    def __str__(self) -> str:
        parts = (n if v is True else f"{n}={v}" for n, v in self.said.items())
        return ", ".join(parts) or "no further"


def grammar_of(request: Request, narrow: Narrow = Narrow()) -> str:  # noqa: B008 - it is frozen
    """What the reply to a request may be, see `toolgym.formats.Format.grammar`.

    Tools may not be called any more after the turns in which the strategy allows it.

    Args:
        request: with the conversation so far.
        narrow: what replies hold to beside the grammar.

    Raises:
        BadInputError: the request's format has no grammar, or one that cannot be narrowed.
    """
    codec, tools = request.format, request.tools
    limits = [n for n in (codec.strategy.tool_turns, narrow.call_turns) if n is not None]
    first = narrow.call_first or narrow.quoted
    may_call, called = True, False
    if limits or first:
        said = [chat for chat in request.messages if chat["role"] == "assistant"]
        # What stands before the policy's own turns was not called by it.
        own = said[max(0, len(said) - request.turn) :]
        used = [c for c in own if "tool_calls" in c or codec.parse(c["content"], tools).calls]
        may_call, called = not limits or len(used) < min(limits), bool(used)
    offered = may_call and codec.strategy.tools and bool(tools)
    answer = called or not (first and offered)
    # Formats of others may not know of turns without an answer.
    grammar = codec.grammar(tools, calls=may_call, **({} if answer else {"answer": False}))
    if grammar is None:
        raise BadInputError(
            f"format {codec.name!r} has no grammar to guide replies with: play unguided "
            "(guided=False), or write the format's method grammar()"
        )
    read = "\n".join(text for _, text in past_results(request)) if narrow.quoted and called else ""
    question = question_of(request) if narrow.quoted else ""
    asked = f"{question}\n{read}" if narrow.quoted else ""
    if not answer:
        return narrowed(grammar, calls=narrow.calls, asked=asked)
    known = question if narrow.new_words else ""
    words = narrow.most_words(request.episode)
    return narrowed(
        grammar,
        calls=narrow.calls,
        answer_words=words,
        asked=asked,
        read=read,
        known=known,
        no_digits=narrow.no_digits,
        trimmed=narrow.trimmed,
    )

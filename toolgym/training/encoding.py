"""Conversations as tokens, labels on the assistant's own words, and the check that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolgym.data.export import IGNORED
from toolgym.errors import TemplateError
from toolgym.messages import Chat
from toolgym.policies.local.canonical import Canonical
from toolgym.policies.local.chat import apply_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "MORE",
    "Encoded",
    "encode_chat",
    "end_tokens",
    "marks_generation",
    "require_end",
    "respelled",
    "spans",
    "wrong_span",
]

MORE = "tokens that say more than the reply"
"""What `wrong_span` says of a sampled turn that holds markers, or words after a stop text."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARK = "\ue000toolgym\ue000"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation to train on.

    Args:
        input_ids: [length] tokens.
        labels: [length] the token where the assistant wrote it, `IGNORED` elsewhere.
        texts: what the assistant said, turn by turn.
    """

    input_ids: list[int]
    labels: list[int]
    texts: list[str]


def marks_generation(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template marks the assistant's text with ``{% generation %}``."""
    return bool(_GENERATION.search(str(tokenizer.chat_template or "")))


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an assistant turn: the template's one, and the tokenizer's.

    Raises:
        TemplateError: there is no chat template, or it leaves assistant texts out.
    """
    if not tokenizer.chat_template:
        raise TemplateError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; set "
            "tokenizer.chat_template and save it, or use the instruct version of the model"
        )
    chats = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
    whole = _render(tokenizer, chats, None, False)
    if _MARK not in whole:
        raise TemplateError(
            f"the chat template of {tokenizer.name_or_path!r} leaves assistant texts out"
        )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = {i for i in _ids(tokenizer, whole.partition(_MARK)[2])[:1] if i in special}
    return ends | ({tokenizer.eos_token_id} - {None})


def require_end(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """As `end_tokens`, and there is at least one.

    Raises:
        TemplateError: as `end_tokens`, or nothing ends a turn.
    """
    ends = end_tokens(tokenizer)
    if not ends:
        raise TemplateError(
            f"the model of {tokenizer.name_or_path!r} cannot stop: neither its chat template nor "
            "its tokenizer has an end token; set tokenizer.eos_token, put it behind the "
            "assistant's content in the template, and save both"
        )
    return ends


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Chat],
    tools: list[Any] | None = None,
) -> Encoded:
    """Tokenise a conversation; the loss falls on the assistant's texts and their end tokens.

    The template's own generation marks are used when it has them. Else every turn is rendered as
    the policy met it, and the pieces are tokenised one by one, as they are when the model samples
    them.

    Args:
        tokenizer: with a chat template.
        messages: chat dicts, at least one of the assistant.
        tools: function-calling documents for the template.

    Raises:
        TemplateError: the template rewrites earlier turns and has no marks, or ends a turn without
            an end token, so that a model trained on it would never stop.
    """
    ends = end_tokens(tokenizer)
    by = _by_marks if marks_generation(tokenizer) else _by_prefixes
    input_ids, labels = by(tokenizer, messages, tools, ends)
    texts = [chat.get("content") or "" for chat in messages if chat["role"] == "assistant"]
    return Encoded(input_ids, labels, texts)


def spans(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of trained tokens."""
    begin: int | None = None
    for place, label in enumerate([*labels, IGNORED]):
        if label == IGNORED and begin is not None:
            yield begin, place
            begin = None
        elif label != IGNORED and begin is None:
            begin = place


def respelled(
    canonical: Canonical, ids: Sequence[int], labels: Sequence[int]
) -> tuple[list[int], list[int]]:
    """A row of guided replies in the tokens that the tokenizer itself writes them with.

    A guide that allows any tokens of a text, as those of servers do, leads to words of single
    signs; a model that learned them would no longer copy words as they stand in what it reads.

    Args:
        canonical: of the row's tokenizer.
        ids: [length] tokens.
        labels: [length] with `IGNORED` where nothing is learned.

    Returns:
        ids and labels, alike where nothing is learned.
    """
    made: tuple[list[int], list[int]] = ([], [])
    done = 0
    for begin, end in [*spans(labels), (len(ids), len(ids))]:
        written = canonical.written(ids[begin:end])
        made[0].extend([*ids[done:begin], *written])
        made[1].extend([*labels[done:begin], *written])
        done = end
    return made


def wrong_span(
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[int],
    texts: Sequence[str],
    ends: set[int],
    *,
    must_end: bool,
    exact: bool = True,
) -> str | None:
    """What is wrong with a row's labels, or None when they decode to the assistant's texts.

    Args:
        tokenizer: decodes.
        labels: [length] with `IGNORED` where nothing is learned.
        texts: the assistant's texts in order.
        ends: end tokens.
        must_end: every turn must end with one of them; a reply that was cut while sampling has
            none.
        exact: the decoded turn must be the text; else (native calls) the text must begin it, and
            blanks do not count: templates set their own around reasoning.
    """
    found = list(spans(labels))
    if len(found) != len(texts):
        return f"{len(found)} trained spans for {len(texts)} assistant turns"
    for (begin, end), text in zip(found, texts, strict=True):
        ids = list(labels[begin:end])
        closed = ids[-1] in ends
        if must_end and not closed:
            return f"the turn {text[:60]!r} is trained without its end token"
        said = _decode(tokenizer, ids[:-1] if closed else ids).strip()
        wanted = text.strip()
        if not must_end and said != wanted and _says_more(tokenizer, ids, said, wanted):
            return MORE
        begins = "".join(said.split()).startswith("".join(wanted.split()))
        if said != wanted and (exact or not begins):
            return f"the trained tokens say {said[:120]!r}, the assistant said {wanted[:120]!r}"
    return None


def _by_marks(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Chat],
    tools: list[Any] | None,
    ends: set[int],
) -> tuple[list[int], list[int]]:
    encoded = apply_template(
        tokenizer, messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = list(encoded["input_ids"]), list(encoded["assistant_masks"])
    labels = [i if mine else IGNORED for i, mine in zip(ids, mask, strict=True)]
    for _, end in list(spans(labels)):
        if labels[end - 1] in ends:
            continue
        # Some templates close the mark before the end token; without it the model never stops.
        if end < len(ids) and ids[end] in ends:
            labels[end] = ids[end]
        else:
            raise TemplateError(_no_end(tokenizer))
    return ids, labels


def _by_prefixes(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Chat],
    tools: list[Any] | None,
    ends: set[int],
) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    done = ""
    for place, chat in enumerate(messages):
        if chat["role"] != "assistant":
            continue
        prompt = _render(tokenizer, messages[:place], tools, True)
        whole = _render(tokenizer, messages[: place + 1], tools, False)
        if not prompt.startswith(done) or not whole.startswith(prompt):
            raise TemplateError(
                f"the chat template of {tokenizer.name_or_path!r} rewrites what stood before "
                f"message {place}, and marks no generation: train on episodes recorded with "
                "tokens, or add {% generation %} marks to the template"
            )
        between, said = _ids(tokenizer, prompt[len(done) :]), _ids(tokenizer, whole[len(prompt) :])
        last = max((n for n, i in enumerate(said) if i in ends), default=None)
        if last is None:
            raise TemplateError(_no_end(tokenizer))
        # What the template puts behind the end token (a line break) is not the assistant's.
        ids += [*between, *said]
        labels += [IGNORED] * len(between) + said[: last + 1]
        labels += [IGNORED] * (len(said) - last - 1)
        done = whole
    return ids, labels


def _says_more(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], said: str, wanted: str
) -> bool:
    """Whether the reply is the turn without its markers, or its beginning up to a stop text."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    plain = _decode(tokenizer, [i for i in ids if i not in special]).strip()
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for name in names:
        wanted = wanted.replace(name, "")
    wanted = wanted.strip()
    return bool(wanted) and (said.startswith(wanted) or plain.startswith(wanted))


def _no_end(tokenizer: PreTrainedTokenizerBase) -> str:
    return (
        f"the chat template of {tokenizer.name_or_path!r} ends an assistant turn without an end "
        "token: a model trained on it would never stop; put the token behind the assistant's "
        "content"
    )


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Chat],
    tools: list[Any] | None,
    generation: bool,
) -> str:
    return str(
        apply_template(
            tokenizer, messages, tools=tools, add_generation_prompt=generation, tokenize=False
        )
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # Templates write the special tokens themselves.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

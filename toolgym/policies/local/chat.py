"""Conversations as token ids: each turn continues the ids of the turn before."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolgym.errors import PolicyError, TemplateError
from toolgym.messages import Chat
from toolgym.policies.base import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenChat", "apply_template", "tokenizer_hash"]

_NOT_NATIVE = (
    "format 'native' is for servers and clients that parse calls themselves; a local model's text "
    "is read by its own format, such as hermes or llama3, with pass_tools=True for its template"
)
_MARK = "\ue000toolgym\ue000"


@dataclass(frozen=True, slots=True)
class _Kept:
    """An episode so far: the last prompt's text, all ids, the end token, the replies' texts."""

    rendered: str
    ids: list[int]
    end: int | None
    replies: list[str]


class TokenChat:
    """Renders requests to token ids and keeps each episode's ids between turns.

    A turn's prompt is the last turn's prompt and reply as they were, followed by the tokens of what
    the template puts after the reply. Where a template rewrites what stood before (Qwen3's drops
    earlier reasoning), the conversation is rendered anew; a warning says so once.

    Args:
        tokenizer: with a chat template.
        pass_tools: give the tools to the template, beside the format's own text.
        template: what the template itself asks for, such as ``{"enable_thinking": False}``.
        ends: ids that end a reply, beside the tokenizer's own and what ends the template's turns.

    Raises:
        TemplateError: the tokenizer has no chat template, or the template refuses a conversation or
            shows no assistant text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pass_tools: bool = False,
        template: Mapping[str, Any] | None = None,
        ends: Collection[int] = (),
    ) -> None:
        if not tokenizer.chat_template:
            raise TemplateError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; set "
                "tokenizer.chat_template and save it, or use the instruct version of the model"
            )
        self._tokenizer, self._pass_tools = tokenizer, pass_tools
        self._template = dict(template or {})
        self._kept: dict[str, _Kept] = {}
        self._asked: dict[str, tuple[str, list[int]]] = {}  # prompts that no reply was kept for yet
        self._merge_system = not self._shows_system()
        self._warned = False
        whole = self._render([_chat("user", "a"), _chat("assistant", _MARK)], [], generation=False)
        if _MARK not in whole:
            raise TemplateError(
                f"the chat template of {tokenizer.name_or_path!r} leaves assistant texts out"
            )
        # What a template puts in front of a reply (Qwen3: an empty reasoning) is what models write
        # themselves: only what opens and ends turns is not text.
        asked = self._render([_chat("user", "a")], [])
        structure, after = self._encode([asked, whole.partition(_MARK)[2]])
        added = set(tokenizer.added_tokens_decoder)
        own = {tokenizer.eos_token_id} - {None}
        self.end_ids = {*ends, *own, *(added & set(after[:1]))}
        """What ends a reply."""
        self.closing: list[int] = after
        """What the template puts behind a reply, its end token first where it has one."""
        self._structure = (added & set(structure)) | set(tokenizer.all_special_ids) | self.end_ids

    def prompts(self, requests: Sequence[Request]) -> list[list[int] | Exception]:
        """Each request's prompt as ids; what the template refuses is a `PolicyError`."""
        prompts: list[list[int] | Exception] = []
        texts: list[str] = []
        plans: list[tuple[int, str, _Kept | None]] = []
        for place, request in enumerate(requests):
            if request.format.native:
                prompts.append(PolicyError(_NOT_NATIVE))
                continue
            try:
                rendered = self._render(request.messages, request.tools)
            except TemplateError as error:
                prompts.append(_refused(error))
                continue
            kept, text = self._continuation(request, rendered)
            texts.append(text)
            plans.append((place, rendered, kept))
            prompts.append([])
        for (place, rendered, kept), ids in zip(plans, self._encode(texts), strict=True):
            if kept is not None:
                # The delta begins with the end of the assistant turn, which may have been sampled.
                ids = kept.ids + (
                    ids[1:] if kept.end is not None and ids[:1] == [kept.end] else ids
                )
            prompts[place] = ids
            if requests[place].episode:
                self._asked[requests[place].episode] = (rendered, ids)
        return prompts

    def keep(self, request: Request, completion: list[int], text: str) -> None:
        """Note what was sampled for the request's turn.

        Args:
            request: as it was given to `prompts`.
            completion: [reply] the sampled ids, end token included.
            text: the reply as the environment gets it.
        """
        if request.episode not in self._asked:
            return
        rendered, ids = self._asked.pop(request.episode)
        end = completion[-1] if completion and completion[-1] in self.end_ids else None
        replies = [*_replies(request), text]
        self._kept[request.episode] = _Kept(rendered, ids + completion, end, replies)

    def forget(self, episode: str) -> None:
        """Drop an ended episode."""
        self._kept.pop(episode, None)
        self._asked.pop(episode, None)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without end tokens and the template's role markers.

        Other special tokens stay: markers such as ``<tool_call>`` are what formats read.
        """
        shown = [i for i in ids if i not in self._structure]
        text = self._tokenizer.decode(
            shown, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _continuation(self, request: Request, rendered: str) -> tuple[_Kept | None, str]:
        """What is kept, with the text after the last reply; or None, with the whole text."""
        kept = self._kept.get(request.episode)
        replies = _replies(request)
        if kept is None or kept.replies != replies:
            return None, rendered
        if rendered.startswith(kept.rendered):
            rest = rendered[len(kept.rendered) :]
            # Templates write a reply as it is, or without the blanks around it.
            for reply in (replies[-1], replies[-1].rstrip(), replies[-1].strip()):
                if rest.startswith(reply):
                    return kept, rest[len(reply) :]
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the chat template of {self._tokenizer.name_or_path!r} rewrites earlier turns: "
                "multi-turn episodes are rendered anew each turn and are not token-exact",
                RuntimeWarning,
                stacklevel=4,
            )
        return None, rendered

    def _render(
        self, messages: Sequence[Chat], tools: Sequence[dict[str, Any]], *, generation: bool = True
    ) -> str:
        chats = list(messages)
        if self._merge_system:
            chats = merged_system(chats)
        return str(
            apply_template(
                self._tokenizer,
                chats,
                tools=list(tools) if self._pass_tools and tools else None,
                add_generation_prompt=generation,
                tokenize=False,
                **self._template,
            )
        )

    def _shows_system(self) -> bool:
        self._merge_system = False
        try:
            return _MARK in self._render([_chat("system", _MARK), _chat("user", "a")], [])
        except TemplateError:  # "System role not supported"
            return False

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # Templates write the special tokens themselves.
        encoded = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Chat], **options: Any
) -> Any:
    """What the tokenizer's chat template makes of a conversation.

    Args:
        tokenizer: with a chat template.
        messages: chat dicts; contents are texts.
        options: of ``apply_chat_template``.

    Raises:
        TemplateError: the template raises anything: jinja templates raise what they like.
    """
    try:
        return tokenizer.apply_chat_template(list(messages), **options)
    except Exception as error:
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        hint = ""
        with suppress(Exception):
            tokenizer.apply_chat_template(parts, **options)
            hint = "; it wants contents as lists of parts: set a template that takes texts"
        raise TemplateError(
            f"the chat template of {tokenizer.name_or_path!r} refuses a conversation: "
            f"{type(error).__name__}: {' '.join(str(error).split())}{hint}"
        ) from error


def merged_system(chats: list[Chat]) -> list[Chat]:
    """A conversation whose system text stands at the head of the first user message."""
    if not chats or chats[0]["role"] != "system":
        return chats
    system, rest = chats[0]["content"], list(chats[1:])
    for place, chat in enumerate(rest):
        if chat["role"] == "user":
            rest[place] = {**chat, "content": f"{system}\n\n{chat['content']}"}
            return rest
    return [_chat("user", system), *rest]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over vocabulary and chat template, hexadecimal."""
    parts = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


def _replies(request: Request) -> list[str]:
    return [chat["content"] for chat in request.messages if chat["role"] == "assistant"]


def _chat(role: str, content: str) -> Chat:
    return {"role": role, "content": content}


def _refused(error: TemplateError) -> PolicyError:
    raised = PolicyError(str(error))
    raised.__cause__ = error
    return raised

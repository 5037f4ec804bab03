"""A model behind a server, asked by token ids: the conversation is rendered here.

The chat route of a server renders texts anew in every turn, and what was sampled need not be what
its tokenizer makes of the text. Here each turn's prompt is the last turn's prompt and reply, id by
id, so that every episode is token-exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, EndpointError
from toolgym.policies.base import Lane, Policy, Reply, ReplyTokens, Request, cut_at_stop
from toolgym.policies.completions import NothingError, ids_of
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.policies.local.chat import TokenChat, tokenizer_hash
from toolgym.policies.requests import at
from toolgym.policies.serving import ModelServer

__all__ = ["ServedPolicy", "TokenEndpointPolicy"]


class TokenEndpointPolicy(EndpointPolicy):
    """Sends token ids to ``/completions`` and gets token ids, from vLLM or SGLang.

    Args:
        base_url: as of `EndpointPolicy`.
        tokenizer: folder or hub id of the served model's tokenizer, with its chat template.
        template: what the template itself asks for, such as ``{"enable_thinking": False}``.
        pass_tools: give the tools to the template, beside the format's own text.
        max_prompt_tokens: a longer prompt loses its beginning; None: the server refuses it.
        options: others of `EndpointPolicy`, but for ``native_tools``.

    Raises:
        MissingExtraError: ``aiohttp`` or ``transformers`` is not installed.
        BadInputError: no tokenizer, no room for a prompt, or see `EndpointPolicy`.
        TemplateError: see `TokenChat`.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        tokenizer: str = "",
        template: Mapping[str, Any] | None = None,
        pass_tools: bool = False,
        max_prompt_tokens: int | None = None,
        **options: Any,
    ) -> None:
        if not tokenizer or options.get("native_tools"):
            raise BadInputError(
                "token-endpoint needs the model's tokenizer (tokenizer=FOLDER or hub id), and has "
                "no native_tools: the tools stand in the text"
            )
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise BadInputError(f"max_prompt_tokens must be at least 1, not {max_prompt_tokens!r}")
        loaded = require_extra("transformers", "train").AutoTokenizer.from_pretrained(tokenizer)
        self._chat = TokenChat(loaded, pass_tools=pass_tools, template=template)
        self.tokenizer_hash = tokenizer_hash(loaded)
        self._longest = max_prompt_tokens
        self._rendered_by = {
            "pass_tools": pass_tools,
            "template": dict(template or {}),
            **({"max_prompt_tokens": max_prompt_tokens} if max_prompt_tokens else {}),
        }
        super().__init__(base_url, **{**options, "tokens": True})

    def wanted(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The route for a request, and the fields of its body.

        Raises:
            PolicyError: the template refuses the conversation.
        """
        _, fields = super().wanted(request)
        (prompt,) = self._chat.prompts([request])
        if isinstance(prompt, Exception):
            raise prompt
        del fields["messages"]
        return "/completions", {
            **fields,
            "prompt": prompt[-self._longest :] if self._longest else prompt,
            "logprobs": 1,
            "stop_token_ids": sorted(self._chat.end_ids),
            "skip_special_tokens": False,
        }

    def read(self, completion: Any, request: Request, body: Mapping[str, Any]) -> Reply:
        """A reply of what came for a body.

        Raises:
            EndpointError: it is not a completion with token ids.
            NothingError: the server gave it up.
        """
        choice = at(at(completion, "choices"), 0)
        finish = at(choice, "finish_reason")
        if finish in ("abort", "error"):
            raise NothingError("bad_reply", f"the server gave the reply up ({finish!r})")
        ids, logprobs = ids_of(choice)
        if ids is None:
            raise EndpointError(
                "bad_reply",
                "the server sent no token ids: vLLM from 0.10.2 and SGLang of 2026 know "
                f"return_token_ids; others play with the policy endpoint: {completion!r:.100}",
            )
        text = cut_at_stop(self._chat.decode(ids), request)
        self._chat.keep(request, ids, text)
        tokens = ReplyTokens([*body["prompt"]], ids, logprobs, guided=self.guided)
        return Reply(text, tokens, cut=finish == "length")

    def describe(self) -> dict[str, Any]:
        """Address, model, sampling settings and the tokenizer's hash; never the key."""
        told = {"policy": "token-endpoint", "tokenizer_hash": self.tokenizer_hash}
        return {**super().describe(), **self._rendered_by, **told}

    def forget(self, episode: str) -> None:
        """Drop what was kept of an ended episode."""
        super().forget(episode)
        self._chat.forget(episode)


class ServedPolicy(Policy):
    """A policy of a server that the run has started: its failure ends the run, not the episode.

    Args:
        policy: that asks the server.
        server: which must stay while the policy plays.
        about: what to record of the server in place of its address, which is another one each time.
    """

    def __init__(self, policy: Policy, server: ModelServer, about: Mapping[str, Any]) -> None:
        self._policy, self._server, self._about = policy, server, dict(about)
        self.tokenizer_hash = policy.tokenizer_hash
        server.users.add(policy)

    @property
    def concurrency(self) -> int:
        """As the policy's."""
        return self._policy.concurrency

    @property
    def notice(self) -> str:
        """What the policy waits for."""
        return self._policy.notice

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """Ask for all replies; all fail with the same error once the server is lost.

        Raises:
            PolicyError: after `close`.
        """
        try:
            replies = self._policy.act(requests)
        except Exception:
            if self._server.failure is None:
                raise
            replies = []
        lost = self._server.failure
        return replies if lost is None else [lost] * len(requests)

    @property
    def sends(self) -> bool:
        """As the policy does."""
        return self._policy.sends

    def send(self, lanes: Sequence[Lane]) -> None:
        """Ask what these lanes ask for; all fail with the same error once the server is lost.

        Raises:
            PolicyError: after `close`.
        """

        def known(lane: Lane, reply: Reply | Exception | None) -> Request | None:
            lost = None if reply is None else self._server.failure
            return lane(reply if lost is None else lost)

        self._policy.send([partial(known, lane) for lane in lanes])

    def describe(self) -> dict[str, Any]:
        """As the policy's, with what is served in place of the address."""
        told = self._policy.describe()
        return {**{key: told[key] for key in told if key != "base_url"}, **self._about}

    def forget(self, episode: str) -> None:
        """The episode has ended."""
        self._policy.forget(episode)

    def cancel(self) -> None:
        """Give up all requests that are under way."""
        self._policy.cancel()

    def close(self) -> None:
        """Close the connections; the server goes on."""
        self._policy.close()

"""``EndpointAuthor``: any OpenAI-compatible model writes scenarios, one prompt a stage."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from toolgym._util.hashes import file_hash
from toolgym.envs.toolscenario.authors.llm import drafting, prompts
from toolgym.envs.toolscenario.authors.llm.ask_with_repair import Asker, Attempt
from toolgym.envs.toolscenario.authors.llm.drafting import trial
from toolgym.envs.toolscenario.authors.llm.modelserver import ModelServer
from toolgym.envs.toolscenario.authors.llm.prompts import read_questions
from toolgym.envs.toolscenario.authors.llm.replies import (
    DecompositionReply,
    DeploymentReply,
    DocumentsReply,
    IntegrationReply,
    Reply,
    ScalingReply,
    UnusableError,
    fenced_functions,
    read_reply,
)
from toolgym.envs.toolscenario.compiler.decomposition import Author, decompose
from toolgym.envs.toolscenario.compiler.stages import deploy, document, integrate, scale
from toolgym.envs.toolscenario.compiler.verification import verify
from toolgym.envs.toolscenario.records import Question
from toolgym.errors import BadInputError
from toolgym.scenario import Decomposition, Documented, Integrated, Levels, Scaled, Scenario

__all__ = ["EndpointAuthor"]

_VARIABLE = re.compile(r"[A-Za-z_]\w{0,100}", re.ASCII)
_OURS = ("model", "messages", "response_format", "max_tokens", "temperature", "stream", "n")
_MILLION = 1_000_000
_Read = TypeVar("_Read", bound=Reply)
_Made = TypeVar("_Made", bound=Decomposition)


class EndpointAuthor:
    """Writes scenarios with a language model behind a server.

    Each stage is one request. A reply that is not valid JSON of the stage's schema, or whose record
    the stage's own checks or a run of its functions refuse, goes back to the model with what is
    wrong, up to ``max_retries`` times; then the question is rejected with that reason. Requests
    and replies are kept in ``folder``, and a request that was answered once is never sent again.

    A failure of the server ends the build with an error, since it says nothing about a question;
    only where the server answers a trivial request at that moment, the question is rejected.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``.
        questions: a ``.jsonl`` of questions; see
            `toolgym.envs.toolscenario.authors.llm.prompts.read_questions`.
        model: the name under which the server knows the model; servers of a single model mostly
            take any name.
        api_key_env: the environment variable that holds the key; local servers need none.
        temperature: of the sampling; None leaves it to the server.
        max_retries: further requests in a stage whose reply cannot be used.
        max_tokens: of one reply.
        timeout: seconds for one try of a request, to the last byte.
        concurrency: requests under way at once, and questions worked on unless the build says
            otherwise.
        structured: ask the server for JSON of the stage's schema, then for any JSON, then for
            text, as far as it knows these.
        resend: further tries after a connection error, 429 or 5xx; once more after a time-out.
        extra: more fields of the request's body, such as ``{"top_p": 0.9}``.
        price_in: for a million tokens of the requests, in any currency.
        price_out: for a million tokens of the replies.
        sandbox_timeout: seconds a call of a function may take in the checks of a reply.
        folder: where ``requests.jsonl`` is kept; None keeps it in memory.

    Raises:
        MissingExtraError: ``openai`` is not installed.
        MissingFileError: there is no file of questions.
        BadInputError: a broken line in it, or an argument out of range.
    """

    name = "endpoint"
    threads = True
    """It waits most of the time: a build works with threads."""

    def __init__(
        self,
        base_url: str,
        questions: str,
        model: str = "default",
        *,
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float | None = 0.7,
        max_retries: int = 2,
        max_tokens: int = 8192,
        timeout: float = 180.0,
        concurrency: int = 8,
        structured: bool = True,
        resend: int = 5,
        extra: Mapping[str, Any] | None = None,
        price_in: float = 0.0,
        price_out: float = 0.0,
        sandbox_timeout: float = 10.0,
        folder: str | None = None,
    ) -> None:
        _check_whole(0, max_retries=max_retries, resend=resend)
        _check_whole(1, max_tokens=max_tokens, concurrency=concurrency)
        _check_number(price_in=price_in, price_out=price_out, temperature=temperature or 0.0)
        _check_number(timeout=timeout, sandbox_timeout=sandbox_timeout)
        if not (timeout and sandbox_timeout):
            raise BadInputError("timeout and sandbox_timeout must be above 0 seconds")
        _check_key(api_key_env)
        self._model, self._questions = model, read_questions(questions)
        self.concurrency, self._sandbox_timeout = concurrency, float(sandbox_timeout)
        self._prices = (float(price_in), float(price_out))
        sampling = {"temperature": temperature, "max_tokens": max_tokens, **_checked_extra(extra)}
        self._settings: dict[str, object] = {
            "model": model,
            "questions": file_hash(questions),
            **sampling,
            "max_retries": max_retries,
            "structured": bool(structured),
            "sandbox_timeout": self._sandbox_timeout,
            "prompts": prompts.FINGERPRINT,
        }
        server = ModelServer(
            base_url,
            model,
            api_key_env=api_key_env,
            sampling=sampling,
            structured=bool(structured),
            timeout=float(timeout),
            resend=resend,
            concurrency=concurrency,
        )
        identity = {"model": model, "structured": bool(structured), **sampling}
        file = None if folder is None else Path(folder) / "requests.jsonl"
        self._asker = Asker(server, identity, file, max_retries)

    def settings(self) -> dict[str, object]:
        """What decides the scenarios: model, sampling, questions and prompts; never the key.

        The address is not among it: a build may go on with the same model on another server.
        """
        return dict(self._settings)

    def questions(self, count: int) -> Iterator[Question]:
        """The first ``count`` questions of the file."""
        self._asker.server.begin()
        return iter(self._questions[:count])

    def decompose(self, question: Question) -> Decomposition:
        """Stage 1.

        Raises:
            RejectedError: no reply could be used.
            EndpointError: the server fails.
        """

        def make(reply: DecompositionReply) -> Decomposition:
            return decompose(question, _given(drafting.decomposed(reply, question)))

        prompt = prompts.decompose(question, drafting.golds_of(question))
        return self._write("decomposition", question.id, prompt, DecompositionReply, make)

    def document(self, decomposition: Decomposition) -> Documented:
        """Stage 2.

        Raises:
            RejectedError: no reply could be used.
            EndpointError: the server fails.
        """

        def make(reply: DocumentsReply) -> Documented:
            return document(decomposition, _given(drafting.documented(reply, decomposition)))

        prompt = prompts.document(decomposition)
        return self._write("documents", decomposition.id, prompt, DocumentsReply, make)

    def integrate(self, documented: Documented) -> Integrated:
        """Stage 3; a single tool has nothing to be merged with, and no request is made.

        Raises:
            RejectedError: no reply could be used.
            EndpointError: the server fails.
        """
        if len(documented.documents) == 1:
            return drafting.integrated(IntegrationReply(merges=[]), documented)

        def make(reply: IntegrationReply) -> Integrated:
            return integrate(documented, _given(drafting.integrated(reply, documented)))

        prompt = prompts.integrate(documented)
        return self._write("integration", documented.id, prompt, IntegrationReply, make)

    def scale(self, integrated: Integrated, levels: Levels, seed: int) -> Scaled:
        """Stage 4; levels that the model does not reach after one reminder are recorded lower.

        Raises:
            RejectedError: no reply could be used.
            EndpointError: the server fails.
        """
        if not levels.total:
            return drafting.unscaled(integrated)
        lower: list[Scaled] = []

        def use(attempt: Attempt) -> Scaled:
            reply = read_reply(attempt.text, ScalingReply, attempt.complete)
            candidate, missed = drafting.scaled(reply, integrated, levels)
            made = scale(integrated, levels, seed, _given(candidate))
            drafting.nothing_told(made, "scaling")
            if missed and not lower:
                lower.append(made)
                raise UnusableError("level_missed", "; ".join(missed))
            return made

        prompt = prompts.scale(integrated, levels, seed)
        return self._asker.write("scaling", integrated.id, prompt, use, lower)

    def deploy(self, scaled: Scaled) -> Scenario:
        """Stage 5; the functions run in the sandbox, and verification's verdict goes back, too.

        Where no reply passes verification, the last that can be run is given: the build rejects
        it, and keeps it with the reason.

        Raises:
            RejectedError: no reply could be used.
            EndpointError: the server fails.
            BadInputError: the sandbox does not work here.
        """
        runnable: list[Scenario] = []

        def use(attempt: Attempt) -> Scenario:
            functions = _functions(attempt, [item.name for item in scaled.documents])
            candidate = drafting.deployed(functions, scaled, f"{self.name}:{self._model}")
            made = deploy(scaled, _given(candidate), self._sandbox_timeout)
            runnable.append(made)
            problems = trial(made, self._sandbox_timeout)
            if problems:
                raise UnusableError(problems[0][0], "; ".join(text for _, text in problems))
            verify(made, self._sandbox_timeout)
            return made

        return self._asker.write("deployment", scaled.id, prompts.deploy(scaled), use, runnable)

    def _write(
        self, stage: str, name: str, prompt: str, kind: type[_Read], make: Callable[[_Read], _Made]
    ) -> _Made:
        """A stage whose reply is checked by the stage itself, and tells no answer."""

        def use(attempt: Attempt) -> _Made:
            made = make(read_reply(attempt.text, kind, attempt.complete))
            drafting.nothing_told(made, stage)
            return made

        return self._asker.write(stage, name, prompt, use)

    def report(self) -> dict[str, Any]:
        """Counts over all sittings of the build: requests, retries by reason, tokens and cost."""
        log = self._asker.log
        totals = dict(sorted(log.totals.items()))
        first = ("requests", "retries", "sent again", "tokens in", "tokens out")
        made: dict[str, Any] = {name: totals.pop(name, 0) for name in first}
        made["seconds of requests"] = round(log.seconds, 1)
        made["answered from the record"] = self._asker.repeated
        if any(self._prices):
            tokens = (made["tokens in"], made["tokens out"])
            cost = sum(price * count for price, count in zip(self._prices, tokens, strict=True))
            made["cost"] = round(cost / _MILLION, 6)
        return made | totals

    def stop(self) -> None:
        """Give up what is under way and close the connection; `questions` begins anew."""
        self._asker.close()


def _given(made: Decomposition) -> Author:
    """An author that gives just this: a stage's function checks it as it checks any author's."""

    def give(*_: object) -> Any:
        return made

    stages = ("decompose", "document", "integrate", "scale", "deploy")
    return cast(Author, SimpleNamespace(name="endpoint", **dict.fromkeys(stages, give)))


def _functions(attempt: Attempt, names: list[str]) -> dict[str, str]:
    """Sources by name; code in fences, one function a tool, is taken in place of JSON."""
    try:
        reply = read_reply(attempt.text, DeploymentReply, attempt.complete)
    except UnusableError:
        fenced = fenced_functions(attempt.text)
        if not attempt.complete or not set(names) <= set(fenced):
            raise
        return {name: fenced[name] for name in names}
    return drafting.functions_of(reply)


def _checked_extra(extra: Any) -> dict[str, Any]:
    if extra is None:
        return {}
    try:
        plain = json.loads(json.dumps(extra, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInputError(f"extra must be plain JSON values: {error}") from error
    if not isinstance(plain, dict):
        raise BadInputError(f"extra must be a mapping of fields, not {extra!r:.80}")
    for name in plain:
        if name in _OURS:
            raise BadInputError(f"extra cannot hold {name!r}: the author sets it itself")
    return plain


def _check_whole(least: int, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadInputError(f"{name} must be a whole number from {least} on, not {value!r}")


def _check_number(**values: Any) -> None:
    for name, value in values.items():
        fine = isinstance(value, int | float) and not isinstance(value, bool)
        if not fine or not math.isfinite(value) or value < 0:
            raise BadInputError(f"{name} must be a number of at least 0, not {value!r}")


def _check_key(variable: str) -> None:
    # The value is not shown: someone may have put the key itself here.
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        raise BadInputError("api_key_env must be the name of an environment variable")
    if variable != "OPENAI_API_KEY" and not os.environ.get(variable):
        raise BadInputError(f"the environment variable {variable!r} of api_key_env is not set")

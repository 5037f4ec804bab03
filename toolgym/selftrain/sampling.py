"""How the model of a run writes: in this process, or behind a server that runs for one model."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from toolgym._util.optional import require_extra
from toolgym.errors import did_you_mean
from toolgym.policies.base import Policy, make_policy
from toolgym.policies.guiding import Narrow
from toolgym.policies.local.served import ServedPolicy
from toolgym.policies.serving import (
    VLLM,
    VLLM_RELOADABLE,
    VLLM_RELOADS,
    ModelServer,
    check_command,
)
from toolgym.registry import POLICIES
from toolgym.training.config import Sampling

__all__ = ["Players", "SamplingSettings", "ServerSettings"]

_PLACES = ("model", "port", "name", "dtype", "max_length", "batch_size")
_TIMEOUT = 600.0  # seconds for one reply: a server that is full lets requests wait
# Words of vLLM's command that the run writes itself, and the setting that says them.
_SAID = {
    **dict.fromkeys(("--model", "--port", "--host", "--served-model-name"), "the run itself"),
    "--dtype": "sampling.dtype",
    "--max-model-len": "sampling.max_prompt_tokens and max_new_tokens",
    "--max-num-seqs": "sampling.batch_size",
}
_ARGUMENTS = {  # of the policies, that other settings say
    **dict.fromkeys(("base_url", "model", "tokenizer", "tokens"), "the run itself"),
    **{name: f"sampling.{name}" for name in ("temperature", "top_p", "template", "narrow")},
    "max_tokens": "sampling.max_new_tokens",
    "max_prompt_tokens": "sampling.max_prompt_tokens",
    "concurrency": "sampling.concurrency",
    "guided": "sampling.guided, and server.grammar_field",
    "patience": "server.start_seconds",
}


class ServerSettings(BaseModel):
    """The server of ``engine: vllm`` or ``engine: command``.

    Args:
        program: vLLM's own, as a name or a path, such as ``build/vllm/bin/vllm``.
        options: further words of vLLM's command, such as ``--enforce-eager``.
        command: of any other server, in words, with ``{model}`` and ``{port}``; ``{name}``,
            ``{dtype}``, ``{max_length}`` and ``{batch_size}`` where it takes them.
        environment: further environment variables of the server.
        policy: ``token-endpoint`` asks by token ids; ``endpoint`` asks the chat route, for servers
            that give no ids.
        arguments: further ones of that policy, such as ``{timeout: 60}``.
        grammar_field: in which guided requests carry their grammar, see `EndpointPolicy`.
        reload: requests that make the server of ``command`` load the weights of its folder anew,
            each a ``route`` and a ``body``, where GRPO is to play through it.
        start_seconds: within which the server must be ready.
        restarts: how often it is started again where it dies, for each model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    program: str = Field(default="vllm", min_length=1)
    options: list[str] = Field(default_factory=list)
    command: list[str] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict)
    policy: Literal["token-endpoint", "endpoint"] = "token-endpoint"
    arguments: dict[str, Any] = Field(default_factory=dict)
    grammar_field: str = "structured_outputs"
    reload: list[dict[str, Any]] = Field(default_factory=list)
    start_seconds: float = Field(default=900.0, gt=0)
    restarts: int = Field(default=3, ge=0)

    @field_validator("options", "command", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """Numbers are words of a command, too."""
        if not isinstance(value, list | tuple):
            return value
        return [str(one) if type(one) in (int, float) else one for one in value]

    @field_validator("environment", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: str(one) if type(one) in (int, float) else one for key, one in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> ServerSettings:
        if self.command:
            check_command(self.command, _PLACES)
        for word in self.options:
            said = _SAID.get(word.partition("=")[0])
            if said:
                raise ValueError(f"'options' has {word!r}, which {said} says: leave it out")
        for request in self.reload:
            route = request.get("route")
            if not isinstance(route, str) or set(request) - {"route", "body"}:
                raise ValueError(
                    f"'reload' is a list of requests such as {{route: /load, body: {{path: "
                    f"'{{model}}'}}}}, not {request!r:.80}"
                )
        names = {"endpoint", self.policy}
        known = {one for name in names for one in inspect.signature(POLICIES.get(name)).parameters}
        free = sorted(known - set(_ARGUMENTS) - {"options"})
        for name in self.arguments:
            if name in _ARGUMENTS:
                raise ValueError(f"'arguments' has {name!r}, which {_ARGUMENTS[name]} says")
            if name not in free:
                raise ValueError(
                    f"'arguments' has {name!r}, which the policy {self.policy!r} does not take"
                    f"{did_you_mean(name, free)}; known: {', '.join(free)}"
                )
        return self


class SamplingSettings(Sampling):
    """How the model writes; practice and the first of the two evaluations, the other is greedy.

    Args:
        batch_size: replies sampled at once.
        concurrency: episodes that run at once.
        dtype: ``auto`` (as saved), ``fast`` (bfloat16 on GPUs and CPUs that are faster so, else
            float32), ``float32``, ``bfloat16``, and others of `toolgym.policies.local.models`.
        practice_dtype: of practice with engine ``local``, such as ``fastest``; None: as ``dtype``.
        guided: whether replies are held to the format's grammar: ``practice`` (or true) alone, also
            in evaluation (``always``), or ``never``. GRPO's own sampling is never guided.
        narrow: what guided replies hold to beside it, see `toolgym.policies.guiding.Narrow`.
        engine: ``local`` samples in this process; ``vllm`` through a server of vLLM, ``command``
            through any other one, started on the current model and ended before the training.
        server: of the latter two.
    """

    batch_size: int = Field(default=64, ge=1)
    concurrency: int = Field(default=128, ge=1)
    dtype: str = "auto"
    practice_dtype: str | None = None
    guided: Literal["never", "practice", "always"] = "never"
    narrow: Narrow = Field(default_factory=Narrow)
    engine: Literal["local", "vllm", "command"] = "local"
    server: ServerSettings | None = Field(default=None, strict=False)

    @field_validator("guided", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # YAML reads `no` and `yes` as these.
        return {True: "practice", False: "never"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_engine(self) -> SamplingSettings:
        server = self.server or ServerSettings()
        if self.engine == "local":
            if self.server is not None:
                raise ValueError(
                    "'server' is for generation through a server: set engine: vllm, or "
                    "engine: command with server.command, or leave 'server' out"
                )
            return self
        if self.engine == "vllm" and (server.command or server.reload):
            raise ValueError(
                "engine: vllm has its own command and reload: give further words in "
                "server.options, or set engine: command"
            )
        if self.engine == "command":
            if not server.command:
                raise ValueError(
                    "engine: command needs server.command, such as "
                    "[my-server, '{model}', --port, '{port}']"
                )
            if server.options or server.program != "vllm":
                raise ValueError(
                    "server.program and server.options are for engine: vllm: write them into "
                    "server.command"
                )
        if self.practice_dtype is not None:
            raise ValueError("practice_dtype is for engine: local: a server has one precision")
        if self.dtype in ("fastest", "int8"):
            raise ValueError(f"dtype: {self.dtype} is for engine: local; use fast, or auto")
        if self.cache_gib != Sampling.model_fields["cache_gib"].default:
            raise ValueError(
                f"cache_gib={self.cache_gib:g} is for engine: local: a server has a cache of its "
                "own, see its options"
            )
        return self

    @property
    def serving(self) -> ServerSettings:
        """The server's settings, for the engines that have one."""
        return self.server or ServerSettings()

    @property
    def command(self) -> tuple[str, ...]:
        """The server's command, with its places."""
        server = self.serving
        if self.engine == "command":
            return tuple(server.command)
        guide = ("--structured-outputs-config.backend", "guidance")
        return (server.program, *VLLM[1:], *(guide if self.guided != "never" else ()),
                *server.options)  # fmt: skip


class Players:
    """Policies of the current model of a run; a server, where there is one, serves one model.

    Args:
        sampling: how it writes.
        out: the run's folder, for the server's log.
        tell: told the stage, what is done, what is planned, and a note.
    """

    def __init__(
        self, sampling: SamplingSettings, out: Path, tell: Callable[[str, int, int, str], None]
    ) -> None:
        self._sampling, self._out, self._tell = sampling, out, tell
        self.server: ModelServer | None = None
        """The one that runs now."""
        self._served = ""
        self._made: list[Policy] = []

    def __enter__(self) -> Players:
        """Nothing is loaded or started before it is needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.release()

    def policy(self, model: str, temperature: float, *, practice: bool = False) -> Policy:
        """A policy of a model; weights are loaded, or served, once for all of one model's.

        Args:
            model: a folder, a known name or a hub id.
            temperature: 0 is greedy.
            practice: not evaluation.

        Raises:
            EndpointError: of kind ``ended``: its server cannot be started.
        """
        sampling = self._sampling
        guided = sampling.guided == "always" or (practice and sampling.guided == "practice")
        if sampling.engine != "local":
            return self._asking(model, temperature, guided=guided)
        from toolgym.policies.local.transformers import TransformersPolicy

        own = {"temperature", "concurrency", "guided", "narrow", "engine", "server"}
        options = sampling.model_dump(exclude=own | {"practice_dtype"})
        if practice and sampling.practice_dtype is not None:
            options["dtype"] = sampling.practice_dtype
        if guided:
            options |= {"guided": True, "narrow": sampling.narrow}
        return TransformersPolicy(model, temperature=temperature, **options)

    def in_training(self) -> Callable[[Path], Policy] | None:
        """What plays while GRPO trains, where it is a server: it reads each update's weights."""
        sampling = self._sampling
        if sampling.engine == "local":
            return None
        requests = VLLM_RELOADS if sampling.engine == "vllm" else sampling.serving.reload

        def policy(folder: Path) -> Policy:
            if self.server is not None and self._served == str(folder):
                self.server.ask(requests)
            return self._asking(str(folder), sampling.temperature, live=True)

        return policy

    def release(self) -> None:
        """Make room: forget the weights, and end the server with all that it holds."""
        from toolgym.policies.local.models import unload_models

        unload_models()
        made, self._made = self._made, []
        server, self.server = self.server, None
        try:
            for policy in made:
                policy.close()
        finally:
            if server is not None:
                server.stop()

    def _asking(
        self, model: str, temperature: float, *, guided: bool = False, live: bool = False
    ) -> Policy:
        """A policy that asks the model's server, which is started where it is another model's."""
        sampling, wanted = self._sampling, self._sampling.serving
        if self.server is None or self._served != model:
            self.release()
            values = _values(model, sampling)
            self.server = self.serve(values, live=live)
            self._served = model
        options: dict[str, Any] = {
            "model": self.server.name,
            "temperature": temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "patience": wanted.start_seconds * (wanted.restarts + 1),
            "timeout": _TIMEOUT,
            **wanted.arguments,
        }
        if guided:
            options |= {"guided": wanted.grammar_field, "narrow": sampling.narrow}
        values = self.server.values
        if wanted.policy == "token-endpoint":
            longest = int(values["max_length"]) - sampling.max_new_tokens
            options |= {"tokenizer": values["model"], "max_prompt_tokens": longest}
            options |= {"template": sampling.template}
        elif sampling.template:
            fields = {"chat_template_kwargs": sampling.template}
            options["extra_body"] = {**fields, **(options.get("extra_body") or {})}
        policy = make_policy(wanted.policy, base_url=self.server.url, **options)
        policy.expect()  # type: ignore[attr-defined]
        served = ServedPolicy(policy, self.server, _about(model, values, sampling))
        if not live:  # those of a training are closed after their update
            self._made.append(served)
        return served

    def serve(self, values: Mapping[str, str], *, live: bool = False) -> ModelServer:
        """Start a server, and tell how far it is.

        Args:
            values: of the places of its command.
            live: it must be able to load other weights.

        Raises:
            EndpointError: of kind ``ended``: it cannot be started.
        """
        wanted, name = self._sampling.serving, f"server: {Path(values['model']).name}"
        reloadable = VLLM_RELOADABLE if live and self._sampling.engine == "vllm" else {}
        server = ModelServer(
            self._sampling.command,
            values,
            environment={**reloadable, **wanted.environment},
            start_seconds=wanted.start_seconds,
            restarts=wanted.restarts,
            log=self._out / "server.log",
            tell=lambda note: self._tell(name, 0, 1, note),
        )
        try:
            return server.start()
        except BaseException:
            server.stop()
            raise


def _values(model: str, sampling: SamplingSettings) -> dict[str, str]:
    """What stands in the places of a server's command, for a model."""
    from toolgym.policies.local.models import locate, resolve_dtype
    from toolgym.policies.local.transformers import room_for_prompts

    place = locate(model)
    config = require_extra("transformers", "train").AutoConfig.from_pretrained(place)
    limits = sampling.max_prompt_tokens, sampling.max_new_tokens
    dtype = resolve_dtype(sampling.dtype)
    if dtype == "auto" and config.dtype is not None:
        # As saved: a server's own "auto" makes half precision of float32.
        dtype = str(config.dtype).removeprefix("torch.")
    return {
        "model": place,
        "dtype": dtype,
        "max_length": str(room_for_prompts(config, *limits) + sampling.max_new_tokens),
        "batch_size": str(sampling.batch_size),
    }


def _about(model: str, values: Mapping[str, str], sampling: SamplingSettings) -> dict[str, Any]:
    """What a run records of a server: whatever decides its replies, but where it is."""
    from toolgym.policies.local.models import fingerprint

    server = sampling.serving
    words = {"command": server.command} if server.command else {"options": server.options}
    return {
        "engine": sampling.engine,
        "model": model,
        "dtype": values["dtype"],
        "max_length": int(values["max_length"]),
        **words,
        "model_hash": hashlib.sha256(fingerprint(model).encode()).hexdigest(),
    }

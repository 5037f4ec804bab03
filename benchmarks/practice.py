"""Practice with a local model: whole episodes on one core, ours beside other ways to batch.

    OMP_NUM_THREADS=1 python benchmarks/practice.py [MODEL] [--tasks FILE --corpus FILE --shots 2]

Every contender plays the same episodes of ``ToolQA-PopQA-v0`` through `rollout`, at temperature 1,
with the same chat template, end tokens and longest reply; they differ in how replies are sampled:

- ours: `TransformersPolicy`, whose rows join and leave at any step and share their beginning.
- turns: batches of plain ``generate``, one turn of all running episodes after the other, every
  prompt read from its beginning: what a script does.
- transformers: its own continuous batching, one manager for the whole run, prefix sharing on. It
  has one seed for all requests, so that a reply depends on what else is in the batch.
- vllm, llama.cpp: their servers, where ``--vllm`` or ``--llama-server`` names the program, asked by
  `EndpointPolicy`; the second with ``--gguf``, the same weights in its own file. What they take to
  start does not count. llama.cpp's slots do not share what prompts have in common.

``--shots`` puts so many worked examples in front as chat turns, as a model needs that has never
called a tool. Without MODEL a Llama of a million parameters with random weights plays, which says
whether everything runs, and no more. CPU seconds, of this process and of the servers under it, are
the figure: other work on the machine distorts the wall clock. The rounds of all contenders are
interleaved; the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see docs/policies.md

import psutil

from toolgym import rollout
from toolgym._util.text import markdown_table
from toolgym.formats.react import ReactFormat
from toolgym.messages import Message
from toolgym.policies.base import Policy, Reply, Request, Stream
from toolgym.policies.endpoint import EndpointPolicy
from toolgym.policies.local.transformers import TransformersPolicy
from toolgym.policies.serving import VLLM, ModelServer
from toolgym.registry import FORMATS

SHOTS = [
    ("In what city was Ada Lovelace born?", "Ada Lovelace (born in London, 10 December 1815) was "
     "an English mathematician and writer.", "Ada Lovelace", "London"),
    ("What is Alan Turing's occupation?", "Alan Mathison Turing was an English mathematician and "
     "computer scientist.", "Alan Turing", "mathematician"),
]  # fmt: skip


class Shots(ReactFormat):
    """Worked examples as earlier turns of the chat."""

    name = "react-shots"
    count = 2

    def render(self, tools: Sequence[Any], messages: Sequence[Message]) -> list[Message]:
        """The instructions, the examples, and the conversation."""
        first, *rest = super().render(tools, messages)
        made = [first]
        for question, passage, entity, answer in SHOTS[: self.count]:
            call = f"WikipediaSearch[{entity}]"
            made += [
                Message("user", f"Question: {question}"),
                Message("assistant", f"Action: {call}"),
                Message("user", f"Response from tool {call} are: {passage}"),
                Message("assistant", f"Answer: {answer}"),
            ]
        return [*made, *rest]


class Turns(TransformersPolicy):
    """Plain ``generate`` on whole prompts, a turn of all episodes after the other."""

    def act(self, requests: Sequence[Request]) -> list[Reply | Exception]:
        """In batches, in order."""
        import torch

        generator = self._open()
        prompts = [p for p in self._chat.prompts(requests) if not isinstance(p, Exception)]
        replies: list[Reply | Exception] = []
        for begin in range(0, len(prompts), generator.batch_size):
            batch = prompts[begin : begin + generator.batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([[generator.pad] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                out = generator.model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=_config(generator)
                )
            replies += [
                Reply(self._chat.decode(_cut(row, generator.ends)))
                for row in out[:, width:].tolist()
            ]
        return replies


class Continuous(TransformersPolicy):
    """Transformers' own continuous batching."""

    def stream(self) -> Stream:
        """One manager."""
        return _Managed(self)


class _Managed(Stream):
    def __init__(self, policy: Continuous) -> None:
        from transformers import ContinuousBatchingConfig

        self._generator, self._chat = policy._open(), policy._chat
        config = ContinuousBatchingConfig(
            page_size=32,
            num_blocks=1024,
            max_batch_tokens=1024,
            max_requests_per_batch=self._generator.batch_size,
            seed=0,
        )
        self._manager = self._generator.model.init_continuous_batching(
            generation_config=_config(self._generator), continuous_batching_config=config
        )
        self._manager.start()
        self._open: dict[str, Hashable] = {}

    def begin(self, requests: Mapping[Hashable, Request]) -> None:
        """Queue them."""
        for key, prompt in zip(requests, self._chat.prompts(list(requests.values())), strict=True):
            name = f"{key}/{time.perf_counter_ns()}"
            self._open[name] = key
            self._manager.add_request(prompt, request_id=name)

    def advance(self) -> Mapping[Hashable, Reply | Exception]:
        """What is ready."""
        done = self._manager.get_result(timeout=1.0)
        if done is None:
            return {}
        ids = _cut(done.generated_tokens, self._generator.ends)
        self.written += len(ids)
        key = self._open.pop(done.request_id)
        return {key: Reply(self._chat.decode(ids))}

    def close(self) -> None:
        """Stop its thread."""
        self._manager.stop(block=True)


def _config(generator: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=generator.max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=sorted(generator.ends),
        pad_token_id=generator.pad,
    )


def _cut(ids: list[int], ends: frozenset[int]) -> list[int]:
    first = next((n for n, i in enumerate(ids) if i in ends), None)
    return ids if first is None else ids[: first + 1]


CONTENDERS: dict[str, Callable[..., TransformersPolicy]] = {
    "ours": TransformersPolicy,
    "turns": Turns,
    "transformers": Continuous,
}
SERVERS = ("vllm", "llama.cpp")
_EAGER = ("--enforce-eager", "--no-enable-chunked-prefill")  # see examples/recipes/miniature-vllm
# Else it samples among the 40 likeliest tokens alone, and none below a twentieth of the first.
_WHOLE = {"llama.cpp": {"top_k": 0, "min_p": 0.0}}
_ONE = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def _command(name: str, options: argparse.Namespace) -> list[str]:
    """What serves the model; empty where no program is named."""
    if name == "vllm":
        return [options.vllm, *VLLM[1:], *_EAGER] if options.vllm else []
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    words = ["{model}", "--alias", "{name}", "--port", "{port}", "--jinja", "--no-webui"]
    words += ["-np", "{batch_size}", "-c", str(options.batch * 1024), "-t", threads, "-tb", threads]
    return [options.llama_server, "-m", *words] if options.llama_server else []


@contextlib.contextmanager
def _player(name: str, model: str, options: argparse.Namespace) -> Iterator[Policy]:
    """A contender."""
    if name in CONTENDERS:
        yield CONTENDERS[name](
            model, max_new_tokens=options.tokens, batch_size=options.batch, dtype=options.dtype
        )
        return
    dtype = {"fast": "bfloat16"}.get(options.dtype, options.dtype)
    values: dict[str, Any] = {"batch_size": options.batch, "dtype": dtype, "max_length": 2048}
    values["model"] = model if name == "vllm" else options.gguf
    with ModelServer(_command(name, options), values, environment=_ONE) as server:
        policy = EndpointPolicy(
            server.url, model=server.name, max_tokens=options.tokens, extra_body=_WHOLE.get(name)
        )
        yield policy
        policy.close()


def _spent() -> float:
    """CPU seconds so far, of this process and of all that it has started and that still run."""
    spent = time.process_time()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            spent += times.user + times.system
    return spent


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="folder; default: a tiny one with random weights")
    parser.add_argument("--tasks", default="sample")
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--shots", type=int, default=2, choices=range(3))
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="longest reply")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--vllm", help="its program")
    parser.add_argument("--llama-server", help="llama.cpp's program")
    parser.add_argument("--gguf", help="the model as llama.cpp reads it")
    every = [*CONTENDERS, *SERVERS]
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    options = parser.parse_args()
    if options.llama_server and not options.gguf:
        parser.error("--llama-server needs --gguf")
    options.only = [n for n in options.only if n in CONTENDERS or _command(n, options)]

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    Shots.count = options.shots
    FORMATS.add(Shots.name, f"{__name__}:Shots")
    least: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or _tiny(Path(folder))
        for _ in range(options.rounds):
            for name in options.only:
                with _player(name, model, options) as policy:
                    figures = _play(policy, options)
                least[name] = min(least.get(name, figures), figures)
    basis = least.get("turns", next(iter(least.values())))
    rows = [
        [
            name,
            f"{60 * options.episodes / found[0]:.0f}",
            f"{basis[0] / found[0]:.2f}",
            *(f"{value:.1f}" for value in found[1:]),
        ]
        for name, found in least.items()
    ]
    head = ["", "episodes a CPU minute", "ratio", "first record, CPU s", "words an episode"]
    print(markdown_table(head, rows))
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def _play(policy: Policy, options: Any) -> list[float]:
    """CPU seconds of all episodes and until the first record, and words an episode."""
    streams: list[Stream] = []
    opened = policy.stream
    policy.stream = lambda: streams.append(opened()) or streams[-1]  # type: ignore[method-assign, func-returns-value]
    first: list[float] = []
    began = _spent()

    def told(done: int, planned: int) -> None:
        if not first:
            first.append(_spent() - began)

    run = rollout(
        "ToolQA-PopQA-v0",
        policy,
        env_args={
            "tasks": options.tasks,
            "corpus": options.corpus,
            "format": Shots.name,
            "tools": [{"name": "WikipediaSearch", "k": 1}],
            "max_steps": 4,
        },
        episodes=options.episodes,
        concurrency=options.episodes,
        progress=told,
    )
    spent = _spent() - began
    for stream in streams:
        getattr(stream, "close", lambda: None)()
    if run.failures():
        raise SystemExit(f"an episode failed: {run.failures()[0]}")
    said = [m.content for t in run.trajectories() for m in t.messages if m.role == "assistant"]
    return [spent, first[0], sum(len(text.split()) for text in said) / options.episodes]


def _tiny(folder: Path) -> str:
    from toolgym.miniature.model import build_model, build_tokenizer

    tokenizer = build_tokenizer(["".join(map(chr, range(32, 127)))])
    tokenizer.save_pretrained(folder)
    build_model(tokenizer).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()

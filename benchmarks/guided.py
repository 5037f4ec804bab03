"""Guided decoding beside unguided: what an untrained model's first replies are, and how fast.

    python benchmarks/guided.py models/smollm2 --tasks popqa.jsonl --replies 100

Both ways sample first replies to the same questions with the same seeds at temperature 1. Malformed
is a reply in which the format finds any problem but that it was cut at the limit of its length;
such ones are counted apart. Guided replies end by themselves, so that batches empty and the last
rows run alone: the share of the time that guides take is what guiding costs, and the tokens a
second of a full batch are those of the first tokens of both.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see docs/policies.md


def requests_of(options: argparse.Namespace) -> list[Any]:
    """First requests of the environment, questions in turn."""
    import gymnasium as gym

    import toolgym  # noqa: F401 - registers the environments
    from toolgym.policies import Request

    env: Any = gym.make(
        "ToolQA-PopQA-v0", tasks=options.tasks, format=options.format, prompt=options.prompt
    ).unwrapped
    made = []
    for number in range(options.replies):
        task = env.tasks[number % len(env.tasks)]
        _, info = env.reset(seed=number, options={"task": task.id})
        made.append(
            Request(info["messages"], info["tools"], env.format, number, f"{task.id}#{number}")
        )
    return made


def row(name: str, policy: Any, requests: list[Any], masks: list[float]) -> dict[str, Any]:
    """Sample all replies and count."""
    masks.clear()
    began = time.perf_counter()
    replies = policy.act(requests)
    seconds = time.perf_counter() - began
    counts = {"malformed": 0, "cut": 0, "calls": 0, "answers": 0, "tokens": 0}
    for request, reply in zip(requests, replies, strict=True):
        if isinstance(reply, Exception):
            raise reply
        action = request.format.parse(reply.text, request.tools)
        counts["cut"] += reply.cut
        counts["malformed"] += bool(action.problems) and not reply.cut
        counts["calls"] += bool(action.calls) and not reply.cut
        counts["answers"] += bool(action.answer) and not reply.cut
        counts["tokens"] += len(reply.tokens.completion_ids)
    speed = counts["tokens"] / seconds
    return {
        "": name,
        **counts,
        "seconds": seconds,
        "tokens/s": speed,
        "masks": sum(masks) / seconds,
    }


def full_batch(policy: Any, requests: list[Any], steps: int) -> float:
    """Tokens a second while no row has ended."""
    from toolgym.policies.local.generation import Row

    settings = replace(policy._generator, max_new_tokens=steps, prefixes=None, ends=frozenset())
    batch = settings.batch()
    batch.join(
        deque(
            Row(n, prompt, request.seed, lambda ids: None, guide=guide)
            for n, (prompt, request, guide) in enumerate(
                zip(
                    policy._chat.prompts(requests),
                    requests,
                    [policy._guides.guide(r) if policy._guides else None for r in requests],
                    strict=True,
                )
            )
        )
    )
    batch.step()  # reads the prompts
    began = time.perf_counter()
    for _ in range(steps - 2):
        batch.step()
    return len(requests) * (steps - 2) / (time.perf_counter() - began)


def main() -> None:
    """Print both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("--tasks", default="sample", help="sample, or a .jsonl path")
    parser.add_argument("--format", default="react")
    parser.add_argument("--prompt", default="tools_multi_step")
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=160, help="longest reply")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="fast")
    options = parser.parse_args()

    import torch

    from toolgym.policies.local import sampling
    from toolgym.policies.local.guides import Guide
    from toolgym.policies.local.transformers import TransformersPolicy

    torch.set_num_threads(options.threads)
    requests = requests_of(options)
    masks: list[float] = []

    def timed(whole: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return whole(*arguments)
            finally:
                masks.append(time.perf_counter() - began)

        return run

    sampling.token_penalties = timed(sampling.token_penalties)
    Guide.take = timed(Guide.take)  # type: ignore[method-assign]
    settings = {
        **{"max_new_tokens": options.tokens, "batch_size": options.batch},
        **{"cache_gib": 0.0, "dtype": options.dtype},
    }
    rows = []
    for name, guided in (("guided", True), ("unguided", False)):
        policy = TransformersPolicy(options.model, guided=guided, **settings)
        found = row(name, policy, requests, masks)
        found["full batch"] = full_batch(policy, requests[: min(16, options.batch)], 12)
        rows.append(found)
        policy.close()
        shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
        print(", ".join(shown).strip(), flush=True)
    held, free = rows
    print(
        f"guided / unguided: {held['tokens/s'] / free['tokens/s']:.2f} tokens a second in whole "
        f"batches, {held['full batch'] / free['full batch']:.2f} while all rows run; guides "
        f"{held['masks']:.1%} of the time; malformed {held['malformed'] / options.replies:.1%} "
        f"against {(free['malformed'] + free['cut']) / options.replies:.1%}"
    )


if __name__ == "__main__":
    main()

"""Sampling speed: `TransformersPolicy` beside plain `generate`, on the same model and prompts.

    python benchmarks/sampling.py --batch 128 --tokens 48 --threads 2

Both sample from a Llama of a million parameters with random weights. Plain ``generate`` is what a
script would call: left padding, ``do_sample=True``, the whole batch kept until its last row ends.
Our side adds what a rollout needs: chat templates, seeds a row, decoding, token ids of every turn.
CPU seconds are printed beside the wall clock, since other work on the machine distorts the latter.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see docs/policies.md


def main() -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48, help="longest reply")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch
    from transformers import GenerationConfig

    from toolgym.formats import get_format
    from toolgym.messages import Message, to_chats
    from toolgym.miniature.model import build_model, build_tokenizer
    from toolgym.policies import Request
    from toolgym.policies.local.transformers import TransformersPolicy

    torch.set_num_threads(options.threads)
    questions = [f"What is the capital of country {n}, {'far ' * (n % 7)}away?" for n in range(512)]
    tokenizer = build_tokenizer([*questions, Path(__file__).read_text("utf-8")])
    model = build_model(tokenizer)
    # Replies of random weights never end by themselves; ten end tokens make some do.
    ends = [tokenizer.eos_token_id, *range(20, 29)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=0)
    codec = get_format("hermes", "bare")
    requests = [
        Request(to_chats(codec.render([], [Message("user", q)])), [], codec, n, f"{n}#0")
        for n, q in enumerate(questions[: options.batch])
    ]

    def plain() -> int:
        encoded = tokenizer.apply_chat_template(
            [r.messages for r in requests],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        config = GenerationConfig(
            max_new_tokens=options.tokens,
            do_sample=True,
            eos_token_id=ends,
            pad_token_id=0,
            top_k=0,
        )
        with torch.inference_mode():
            out = model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                generation_config=config,
            )[:, encoded["input_ids"].shape[1] :]
        tokenizer.batch_decode(out, skip_special_tokens=True)
        return int((out != 0).sum())

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        policy = TransformersPolicy(
            folder, max_new_tokens=options.tokens, batch_size=options.batch, logprobs=True
        )

        def ours() -> int:
            replies: list[Any] = policy.act(requests)
            return sum(len(reply.tokens.completion_ids) for reply in replies)

        speeds = {
            "plain generate": _measure(plain, options),
            "TransformersPolicy": _measure(ours, options),
        }
    for name, (wall, cpu) in speeds.items():
        print(f"{name:20s} {wall:8.0f} tokens/s   {cpu:8.0f} tokens per CPU second")
    a, b = speeds["TransformersPolicy"], speeds["plain generate"]
    print(f"ratio ours / plain   {a[0] / b[0]:8.2f}            {a[1] / b[1]:8.2f}")


def _measure(work: Callable[[], int], options: Any) -> tuple[float, float]:
    """Best of the rounds: tokens a wall second, tokens a CPU second."""
    work()
    best = (0.0, 0.0)
    for _ in range(options.rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        count = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        best = (max(best[0], count / wall), max(best[1], count / cpu))
    return best


if __name__ == "__main__":
    main()

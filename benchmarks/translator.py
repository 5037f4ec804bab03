"""Translator engines on the full-size NLLB-200-distilled-600M architecture: speed and memory.

    python benchmarks/translator.py [--layers 12]

The weights are random: how fast a model is does not depend on what they are, how well it translates
does, and is not measured here. Random weights do not end a sentence, so every row gets the same
number of new tokens. Each row of the table is measured in a process of its own, after a warm-up.
The model (2.5 GB) and its conversions lie in a temporary folder that is deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY = 256_206
SOURCE_TOKENS, NEW_TOKENS, ROUNDS = 30, 24, 2
BATCHES = (1, 16)
CASES = [
    ("transformers", "float32"),
    ("transformers", "bfloat16"),
    ("ctranslate2", "float32"),
    ("ctranslate2", "int8"),
]


def make_model(folder: str, layers: int) -> None:
    """Random weights of NLLB-200-distilled-600M's shapes, and a tokenizer of as many tokens."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = special + [f"▁w{number}" for number in range(VOCABULARY - len(special) - 203)]
    tokenizer = transformers.NllbTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]
    )
    config = transformers.M2M100Config(
        vocab_size=VOCABULARY,
        d_model=1024,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
        max_position_embeddings=1024,
        scale_embedding=True,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    transformers.set_seed(0)
    model = transformers.M2M100ForConditionalGeneration(config)
    print(f"{model.num_parameters() / 1e6:.0f} M parameters, {len(tokenizer)} tokens", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def memory(field: str) -> int:
    """Megabytes of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(field + ":")[1].split()[0]) // 1024


def measure(folder: str, engine: str, precision: str) -> dict[str, Any]:
    """Tokens a second at each batch size, and memory; in this process."""
    from toolgym.tools.translator.nllb import load_nllb

    translator = load_nllb(folder, engine, precision, "cpu")
    begun = time.perf_counter()
    run = translator.engine().generate
    result: dict[str, Any] = {"load": time.perf_counter() - begun, "ids": {}}
    source, target = translator.tokens.ids(["fra_Latn", "eng_Latn"])
    draw = random.Random(0)
    rows = [
        [source, *(draw.randrange(4, 250_000) for _ in range(SOURCE_TOKENS - 2)), 2]
        for _ in range(max(BATCHES))
    ]
    run(rows[:1], [target], 2, time.monotonic() + 600)
    for batch in BATCHES:
        best = float("inf")
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            ids = run(rows[:batch], [target] * batch, NEW_TOKENS, time.monotonic() + 3600)
            best = min(best, time.perf_counter() - begun)
        result[str(batch)] = sum(map(len, ids)) / best
        result["ids"][str(batch)] = ids
    return result | {"resident": memory("VmRSS"), "peak": memory("VmHWM")}


def in_a_process(folder: str, engine: str, precision: str) -> dict[str, Any]:
    """As `measure`, in a process of its own."""
    command = [sys.executable, __file__, "--measure", folder, engine, precision]
    env = {**os.environ, "TOOLGYM_CACHE": f"{folder}/cache", "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def equal(a: dict[str, Any], b: dict[str, Any], batch: int, rows: int) -> str:
    """How many rows of two measurements have the same token ids."""
    pairs = zip(a["ids"][str(batch)][:rows], b["ids"][str(batch)][:rows], strict=True)
    return f"{sum(x == y for x, y in pairs)} of {rows}"


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12, help="of encoder and of decoder")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    found: dict[tuple[str, str], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="toolgym-benchmark-") as folder:
        make_model(folder, options.layers)
        print(
            f"{'engine':14}{'precision':11}{'batch 1 tok/s':>15}{'batch 16 tok/s':>16}"
            f"{'resident MB':>13}{'peak MB':>9}{'load s':>8}"
        )
        for case in CASES:
            row = found[case] = in_a_process(folder, *case)
            first = found[CASES[0]]
            cells = [f"{row[str(b)]:.1f} ({row[str(b)] / first[str(b)]:.1f}x)" for b in BATCHES]
            print(
                f"{case[0]:14}{case[1]:11}{cells[0]:>15}{cells[1]:>16}"
                f"{row['resident']:13}{row['peak']:9}{row['load']:8.1f}",
                flush=True,
            )
    fp32, ct2, int8 = (found[CASES[n]] for n in (0, 2, 3))
    print("rows with the same token ids, both engines float32:", equal(fp32, ct2, 16, 16))
    print("rows with the same token ids, CTranslate2 int8 and float32:", equal(int8, ct2, 16, 16))


if __name__ == "__main__":
    main()

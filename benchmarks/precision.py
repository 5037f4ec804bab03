"""Practice in several precisions: how fast, how often right, how far from float32.

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--dtypes float32 bfloat16 int8]

Every precision plays the first practice of a settings file of self-training (by default
``examples/recipes/smollm2-guided.yaml``: bundled questions, guided, one sample each) with the model
of that file, by seeds that are the same for all. The table shows:

- episodes a CPU minute, of this process alone, and a minute;
- exact: how many answers were exact, in per cent, and the ends of its interval;
- as in half a batch: how many episodes came out alike when half as many replies were sampled at
  once (``--halves``; it takes as long again). A run that was killed goes on in other batches;
- KL and top: the divergence of next-token distributions from those in float32, mean and the 99th
  percentile in nats, and how often both have the same most probable token, over all tokens of
  ``--texts`` episodes that float32 has played.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

# Before torch: see docs/policies.md.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "4000")

import torch

from toolgym import rollout
from toolgym._util.text import markdown_table
from toolgym.evaluation import evaluate
from toolgym.policies.local.models import DTYPES, load_model, locate, unload_models
from toolgym.rollouts.runs import Run
from toolgym.selftrain.sampling import Players
from toolgym.selftrain.settings import SelfTrainSettings, load_settings

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"


def _play(
    settings: SelfTrainSettings, dtype: str, batch: int, options: Any, out: Path
) -> list[str]:
    """Episodes a CPU minute and a minute."""
    place = settings.environments[0]
    sampling = settings.sampling.model_copy(update={"practice_dtype": dtype, "batch_size": batch})
    with Players(sampling, out.parent, lambda *_: None) as players:
        policy = players.policy(settings.model, sampling.temperature, practice=True)
        begun = time.process_time(), time.perf_counter()
        rollout(
            place.id,
            policy,
            env_args={**place.args, **place.practice(1)},
            episodes=options.episodes,
            seed=settings.seed,
            out=out,
            concurrency=sampling.concurrency,
        )
        spent = time.process_time() - begun[0], time.perf_counter() - begun[1]
    return [f"{60 * options.episodes / seconds:.0f}" for seconds in spent]


def _alike(one: Path, other: Path) -> float:
    """Share of episodes whose replies are the same."""
    pairs = list(zip(Run.open(one).trajectories(), Run.open(other).trajectories(), strict=True))
    return sum(a.messages == b.messages for a, b in pairs) / len(pairs)


def _next(model: Any, texts: list[list[int]]) -> list[torch.Tensor]:
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in texts]
    return [one.float().log_softmax(-1) for one in logits]


def _apart(exact: list[torch.Tensor], found: list[torch.Tensor]) -> tuple[str, str]:
    """KL and agreement."""
    pairs = list(zip(exact, found, strict=True))
    kl = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in pairs])
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in pairs]).float().mean()
    return f"{kl.mean():.4f}, {kl.quantile(0.99):.3f}", f"{100 * same:.1f} %"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=Path, default=RECIPES / "smollm2-guided.yaml")
    parser.add_argument("--model", help="instead of that of the settings")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "int8"], choices=DTYPES)
    parser.add_argument("--episodes", type=int, default=288)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--halves", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    settings = load_settings(options.settings)
    if options.model:
        settings = settings.model_copy(update={"model": options.model})
    batch, rows = settings.sampling.batch_size, []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        _play(settings, "float32", batch, options, out / "texts")
        made = list(islice(Run.open(out / "texts").trajectories(), options.texts))
        texts = [[*t.tokens.prompt_ids, *t.tokens.completion_ids] for t in made if t.tokens]
        path = locate(settings.model)
        exact = _next(load_model(path, adapter=None, device="cpu", dtype="float32").model, texts)
        for dtype in options.dtypes:
            speeds = _play(settings, dtype, batch, options, out / dtype)
            right = {row.name: row.interval for row in evaluate(out / dtype).rows}["exact_match"]
            row = [dtype, *speeds]
            row += [
                " ".join(f"{100 * (one or 0):.1f}" for one in (right.value, right.low, right.high))
            ]
            if options.halves:
                _play(settings, dtype, batch // 2, options, out / f"{dtype}-half")
                row += [f"{100 * _alike(out / dtype, out / f'{dtype}-half'):.1f} %"]
            model = load_model(path, adapter=None, device="cpu", dtype=dtype).model
            row += _apart(exact, _next(model, texts))
            rows.append(row)
            print(*row, flush=True)
            unload_models()
    head = ["precision", "episodes a CPU minute", "a minute", "exact, %"]
    head += ["as in half a batch"] * options.halves + ["KL, mean and 99th percentile", "top"]
    print(markdown_table(head, rows))


if __name__ == "__main__":
    main()

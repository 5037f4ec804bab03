"""Rollouts with a local model: our engine, a plain ``generate`` loop, and TRL's GRPO generation.

    OMP_NUM_THREADS=1 python benchmarks/rollout_local.py [--model FOLDER --world FOLDER]

All play the miniature (a Llama of a million parameters; without ``--model`` it is built once, in
minutes) on the same held-out questions, half arithmetic with a calculator and half about entities
with a search, at temperature 1 with the same end token and at most ``--tokens`` a reply:

- ours: `rollout` with `TransformersPolicy`: whole episodes, so many at once; every one is recorded
  with its token ids.
- plain loop: whole episodes one by one through the same environments, as a script would and as the
  code of arXiv 2502.05867 does: chat template, ``generate``, decode, step. It keeps no record.
- TRL, tool loop: ``GRPOTrainer._generate`` with the environments' own tools as functions, in
  batches. Its tokenizer gets a response template that reads ``Action: Name[text]`` as a native
  call, so that the prompts and results are the same tokens as everywhere. A reply that is neither
  call nor answer ends its episode there, while an environment says what is wrong and goes on.
  Nothing is scored or recorded in the time that counts.
- TRL, first turns: the same without tools: the first reply to each question, in batches. Beside
  it stands our policy with the same requests: no environment steps on either side.

Only tokens that belong to a reply count, the end token included, padding never. The rounds of all
contenders are interleaved, each round with seeds of its own; a figure is the median of the rounds
and its range; ratios are taken within a round, so that other work on the machine hits both sides.
Accuracy tells whether someone is fast by doing less. The tools' result cache is off. At the end
one more round, slowed down by its clocks, says where time goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see docs/policies.md

from rollout_contenders import (
    PARTS,
    Contender,
    FirstTurns,
    Ours,
    Plain,
    Played,
    World,
    open_world,
)
from rollout_trl import TrlFirstTurns, TrlTools

from toolgym._util.text import markdown_table
from toolgym.evaluation.intervals import proportion


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a ready base; default: built in --cache")
    parser.add_argument("--world", help="its world's files, as World.write wrote them")
    parser.add_argument(
        "--cache", default="runs/miniature", help="where the base is built and kept"
    )
    parser.add_argument("--episodes", type=int, default=256, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="longest reply")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if (options.model is None) != (options.world is None):
        parser.error("--model and --world go together")

    import torch

    torch.set_num_threads(options.threads)
    model, files = _base(options)
    with tempfile.TemporaryDirectory() as folder:
        world = open_world(model, files, Path(folder), options.episodes, options.tokens)
        contenders = _contenders(world, options.widths)
        rounds = _measure(world, contenders, options.rounds)
        print("\nWhole episodes; ratios beside the plain loop.\n")
        print(_speeds(rounds, [c for c in contenders if c.whole]))
        print("\nFirst turns; ratios beside TRL's with the same batches.\n")
        print(_speeds(rounds, [c for c in contenders if not c.whole]))
        print(_where(world, [c for c in contenders if c.whole]))


def _base(options: argparse.Namespace) -> tuple[Path, Path]:
    if options.model is not None:
        return Path(options.model), Path(options.world)
    from toolgym.miniature.preset import build_base
    from toolgym.miniature.world import World as Sources

    cache = Path(options.cache)
    Sources(0).write(cache / "world")
    return build_base(cache, 0, None, lambda done: print(done, flush=True)), cache / "world"


def _contenders(world: World, widths: list[int]) -> list[Contender]:
    loop = "plain loop"
    made: list[Contender] = [Plain(loop)]
    made += [Ours(f"ours, {width} at once", width, loop) for width in widths]
    wide = [width for width in widths if width > 1]  # GRPO has groups of at least two
    made += [TrlTools(f"TRL, tool loop, batches of {width}", width, loop) for width in wide]
    for width in wide:
        basis = f"TRL, first turns, batches of {width}"
        made += [TrlFirstTurns(basis, width)]
        made += [FirstTurns(f"ours, first turns, batches of {width}", width, basis)]
    for contender in made:
        contender.open(world)
    return made


def _measure(world: World, contenders: list[Contender], rounds: int) -> dict[str, list[Played]]:
    """By contender one entry a round; round 0 warms up and is left out."""
    found: dict[str, list[Played]] = {contender.name: [] for contender in contenders}
    for number in range(rounds + 1):
        for contender in contenders:
            wall, cpu = time.perf_counter(), time.process_time()
            played = contender.play(world, number)
            played.wall, played.cpu = time.perf_counter() - wall, time.process_time() - cpu
            contender.score(world, played)
            if number:
                found[contender.name].append(played)
    return found


def _speeds(rounds: dict[str, list[Played]], contenders: list[Contender]) -> str:
    head = ["", "tokens/s", "range", "episodes/s", "CPU s", "ratio", "range", "CPU ratio"]
    head += ["accuracy, 95 %", "tokens an episode", "outside the policy"]
    rows = []
    for contender in contenders:
        played, basis = rounds[contender.name], rounds[contender.basis]
        speeds = [p.tokens / p.wall for p in played]
        ratios = [_speed(p) / _speed(q) for p, q in zip(played, basis, strict=True)]
        works = [_thrift(p) / _thrift(q) for p, q in zip(played, basis, strict=True)]
        outside = [1 - p.inside / p.wall for p in played if p.inside]
        episodes = statistics.median(p.episodes / p.wall for p in played)
        rows.append(
            [
                contender.name,
                f"{statistics.median(speeds):.0f}",
                f"{min(speeds):.0f} to {max(speeds):.0f}",
                f"{episodes:.1f}",
                f"{statistics.median(p.cpu for p in played):.2f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                f"{statistics.median(works):.2f}",
                _accuracy(played),
                f"{sum(p.tokens for p in played) / sum(p.episodes for p in played):.1f}",
                f"{100 * statistics.median(outside):.1f} %" if outside else "",
            ]
        )
    return markdown_table(head, rows)


def _speed(played: Played) -> float:
    return played.tokens / played.wall


def _thrift(played: Played) -> float:
    return played.tokens / played.cpu


def _accuracy(played: list[Played]) -> str:
    """Over all rounds; a question's episodes are not independent of each other."""
    hits: dict[str, list[bool]] = {}
    for each in played:
        for task, right in each.right.items():
            hits.setdefault(task, []).append(right)
    if not hits:
        return ""
    found = proportion([sum(h) for h in hits.values()], [len(h) for h in hits.values()])
    low, value, high = (100 * (x or 0.0) for x in (found.low, found.value, found.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _where(world: World, contenders: list[Contender]) -> str:
    """Shares of a round's wall time, measured by clocks around the parts."""
    rows = []
    for contender in contenders:
        with contender.clocks(world) as clock:
            began = time.perf_counter()
            contender.play(world, 1)
            whole = time.perf_counter() - began
        parts = [clock[part] for part in PARTS]
        shares = [*parts, whole - sum(parts)]
        rows.append([contender.name, *(f"{100 * share / whole:.1f} %" for share in shares)])
    return "\nWhere time goes.\n\n" + markdown_table(["", *PARTS, "the rest: reset, record"], rows)


if __name__ == "__main__":
    main()

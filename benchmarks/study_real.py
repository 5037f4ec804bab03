"""A real model, trained in several ways from its own episodes, with controls and seeds.

``python benchmarks/study_real.py --seeds 0 1 2`` runs the study or resumes it, and writes
``docs/real-model-study.md`` with a drawing; the real questions are those of ``TOOLGYM_DATA``. Every
arm is the recipe ``examples/recipes/smollm2.yaml`` with a few settings changed; practice sees the
bundled questions alone, evaluation the real ones alone. On two cores an arm of a seed takes half an
hour and more: choose with ``--arms``, ``--seeds``, ``--sets`` and ``--questions``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.curves import accuracy_curves

from toolgym._util.jsonl import read_json, read_rows, write_json
from toolgym._util.optional import require_extra
from toolgym.errors import ToolgymError
from toolgym.evaluation import evaluate
from toolgym.evaluation.document import Block, Figure, Heading, Paragraph, Table, to_markdown
from toolgym.evaluation.intervals import wilson
from toolgym.selftrain.loop import selftrain
from toolgym.selftrain.settings import load_settings

RECIPE = Path(__file__).parents[1] / "examples" / "recipes" / "smollm2.yaml"
_EXAMPLES = {"train": {"examples": 2}, "sampling": {"guided": "never"}}
_GUIDED: dict[str, Any] = {"train": {}, "sampling": {"guided": "practice"}}
ARMS: dict[str, dict[str, Any]] = {
    "zero-shot": {"rounds": 0},
    "two examples, untrained": {"rounds": 0, "test": {"examples": 2}},
    "guided, untrained": {"rounds": 0, "sampling": {"guided": "always"}},
    "examples and guide, then SFT": {"rounds": 3},
    "examples, then SFT": {"rounds": 3, **_EXAMPLES},
    # One guided episode in thirty is right at first: more of them are needed.
    "guided, then SFT": {"rounds": 3, **_GUIDED, "samples_per_task": 8},
    "SFT, then DPO": {"rounds": 3, "methods": ["sft", "sft", "dpo"]},
    "SFT, then GRPO": {"rounds": 3, "methods": ["sft", "sft", "grpo"]},
    "control: unfiltered": {
        "rounds": 1,
        "filter": {"where": None, "per_task": 1, "dedupe": None, "tools": "any"},
    },
    "control: copied answers": {"rounds": 1, "filter": {"where": "copied_passage>=1"}},
    "control: the paper's sub-span": {"rounds": 3, "filter": {"where": "accuracy_paper_filter>=1"}},
}
"""What each arm changes; ``train`` and ``test`` are arguments of practice and evaluation."""
DPO = {"pairing": "right_wrong", "beta": 0.1, "sft_weight": 0.2, "learning_rate": 2e-5}
GRPO = {"batch_size": 32, "generations": 8, "learning_rate": 2e-5, "max_updates": 20}
SETS = {"popqa": "ToolQA-PopQA-v0", "triviaqa": "ToolQA-TriviaQA-v0", "nq": "ToolQA-NQOpen-v0"}
FIGURES = (
    *("exact_match", "token_f1", "accuracy", "accuracy_paper", "invoke_rate", "malformed_rate"),
    *("answer_words", "copied_passage"),
)


def main() -> None:
    """The command line of the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = os.environ.get("TOOLGYM_DATA")
    parser.add_argument("--data", type=Path, default=data, required=not data, help="real data sets")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--questions", type=int, default=500, help="held-out ones of each set")
    parser.add_argument("--practice", type=int, default=None, help="bundled ones; default: all")
    parser.add_argument("--out", type=Path, default=Path("runs/study-real"))
    parser.add_argument("--page", type=Path, default=Path("docs"), help="folder of the page")
    given = parser.parse_args()
    found: dict[str, Any] = {"questions": given.questions, "model": given.model, "arms": {}}
    try:
        for seed in given.seeds:
            for arm in given.arms:
                facts = _arm(given, arm, seed)
                found["arms"].setdefault(arm, {})[str(seed)] = facts
                write_json(given.out / "study.json", found)
                print(f"seed {seed}, {arm}: {_told(facts)}", file=sys.stderr, flush=True)
    except ToolgymError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; the same command goes on from here\n")
    page = _page(found)
    for block in page:
        if isinstance(block, Figure):
            (given.page / block.file).write_text(block.svg + "\n", encoding="utf-8")
    (given.page / "real-model-study.md").write_text(to_markdown(page) + "\n", encoding="utf-8")
    print(to_markdown([_table(found)]))


def _arm(given: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """Figures by round and set of one arm and seed, and what the model lost."""
    settings = _settings(given, ARMS[arm], seed)
    out = given.out / f"seed-{seed}" / "".join(c if c.isalnum() else "-" for c in arm)
    report = selftrain(load_settings(settings), out=out)
    facts = read_json(report.with_suffix(".json"))
    rounds = []
    for folder in sorted(out.glob("evaluation-*")):
        by_set = {}
        for name in given.sets:
            for way in ("sampled", "greedy"):
                rows = {row.name: row for row in evaluate(folder / f"{name}-{way}").rows}
                by_set[f"{name}-{way}"] = {k: rows[k].value for k in FIGURES if k in rows}
        rounds.append(by_set)
    models = sorted(out.glob("round-*/training/model"))
    kept = out / "perplexity.json"
    if not kept.is_file():
        last = str(models[-1]) if models else given.model
        write_json(kept, {"perplexity": _perplexity(last, given.data)})
    return {"rounds": rounds, "seconds": sum(facts["seconds"].values()), **read_json(kept)}


def _settings(given: argparse.Namespace, change: Mapping[str, Any], seed: int) -> dict[str, Any]:
    recipe = load_settings(RECIPE).model_dump()
    (popqa,) = recipe["environments"]
    places = []
    for name in given.sets:
        test = {
            "tasks": str(given.data / name / "dev.jsonl"),
            "corpus": str(given.data / "wikipedia" / "passages.jsonl"),
        }
        place = {**popqa, "id": SETS[name], "name": name, "test": test | change.get("test", {})}
        place["test_tasks"] = given.questions
        own = {"tasks": "sample", "corpus": "sample", "split": "train"}
        usual = {"examples": 2}
        place["train"] = own | change.get("train", usual)
        place["train_tasks"] = given.practice
        places.append(place)
    settings = recipe | {
        **{"model": given.model, "environments": places, "seed": seed, "dpo": DPO, "grpo": GRPO},
        **{"baseline": False, "stop_when_worse": False},
    }
    for key, value in change.items():
        if key in ("train", "test"):
            continue
        merged = isinstance(value, Mapping)
        settings[key] = {**settings[key], **value} if merged else value
    return settings


def _perplexity(model: str, data: Path, passages: int = 100) -> float:
    """Of plain text: real passages, each from its beginning, at most 256 tokens."""
    torch = require_extra("torch", "train")
    from toolgym.policies.local.models import load_model

    loaded = load_model(model, dtype="fast")
    rows = read_rows(data / "wikipedia" / "passages.jsonl", "passages")
    losses, count = 0.0, 0
    with torch.inference_mode():
        for _, (_, row) in zip(range(passages), rows, strict=False):
            ids = loaded.tokenizer(row["text"], return_tensors="pt")["input_ids"][:, :256]
            if ids.shape[1] < 2:
                continue
            scores = loaded.model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            losses -= float(scores.gather(-1, ids[0, 1:, None]).sum())
            count += ids.shape[1] - 1
    return math.exp(losses / count)


def _told(facts: Mapping[str, Any]) -> str:
    last = facts["rounds"][-1]
    shares = [f"{k} EM {100 * v['exact_match']:.1f} %" for k, v in last.items()]
    return f"{', '.join(shares)} ({facts['seconds']:.0f} s)"


def _pooled(
    seeds: Sequence[Mapping[str, Any]], number: int, figure: str, count: int, way: str = "greedy"
) -> tuple[int, int]:
    """Right and asked of all sets and seeds together, of a figure that is 0 or 1 a question."""
    shares = [
        values[figure]
        for seed in seeds
        for name, values in seed["rounds"][number].items()
        if name.endswith(way)
    ]
    return round(sum(shares) * count), len(shares) * count


def _interval(right: int, of: int) -> str:
    low, high = wilson(right / of, of)
    return f"{100 * right / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _table(found: Mapping[str, Any]) -> Table:
    rows, count = [], int(found["questions"])
    for arm, by_seed in found["arms"].items():
        seeds = list(by_seed.values())
        cells = [
            _interval(*_pooled(seeds, -1, name, count)) for name in ("exact_match", "accuracy")
        ]
        each = [
            f"{100 * r / of:.1f}"
            for r, of in (_pooled([s], -1, "exact_match", count) for s in seeds)
        ]
        means = []
        for name in ("token_f1", "invoke_rate", "malformed_rate", "answer_words", "copied_passage"):
            last = [v.get(name) for s in seeds for k, v in s["rounds"][-1].items() if "greedy" in k]
            known = [value for value in last if value is not None]
            means.append(f"{sum(known) / len(known):.2f}" if known else "-")
        perplexity = sum(s["perplexity"] for s in seeds) / len(seeds)
        rows.append([arm, *cells, ", ".join(each), *means, f"{perplexity:.1f}"])
    head = ["arm", "EM", "accuracy", "EM of each seed", "F1", "calls", "malformed", "words"]
    return Table([*head, "copied", "perplexity"], rows)


def _page(found: Mapping[str, Any]) -> list[Block]:
    count = int(found["questions"])
    curves = {
        arm: [
            [_pooled([seed], n, "exact_match", count) for n in range(len(seed["rounds"]))]
            for seed in by_seed.values()
        ]
        for arm, by_seed in found["arms"].items()
    }
    sets = sorted(
        {
            k.rpartition("-")[0]
            for a in found["arms"].values()
            for s in a.values()
            for k in s["rounds"][0]
        }
    )
    return [
        Heading("A real model, trained in every way", 1),
        Paragraph(
            f"Model: {found['model']}. {count} held-out questions of each of {', '.join(sets)} "
            "(real questions over real passages), asked greedily and without examples or guide "
            "unless the arm says so; practice sees the bundled questions alone. EM and accuracy "
            "in percent with 95 % Wilson intervals over the questions of all seeds; calls an "
            "episode, malformed share of attempts, words an answer, share of copied passages; "
            "perplexity of plain text, which shows what was lost."
        ),
        _table(found),
        Figure(
            accuracy_curves(curves), "real-model-study.svg", "EM by round, thin lines are seeds"
        ),
    ]


if __name__ == "__main__":
    main()

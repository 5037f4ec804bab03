"""A real model, trained in several ways from its own episodes, with controls and seeds.

``python benchmarks/study_real.py --seeds 0 1 2`` runs the study or resumes it, and writes
``docs/real-model-study.md`` with a drawing; the real questions are those of ``TOOLGYM_DATA``. Every
arm is the recipe ``examples/recipes/smollm2.yaml`` with a few settings changed, the guided ones
with those of ``smollm2-guided.yaml``; practice sees the bundled questions alone, evaluation the
real ones alone, and of scenarios the bundled test split. On two cores an arm of a seed takes half
an hour and more: choose with ``--arms``, ``--seeds``, ``--sets`` and ``--questions``. ``--smoke``
runs every arm on every set with a question or two and keeps whatever was played: it shows that the
command works, and its figures say nothing.
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
from toolgym.modeldiff import compare_models
from toolgym.policies.local.models import locate
from toolgym.selftrain.loop import selftrain
from toolgym.selftrain.settings import load_settings

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
_EXAMPLES = {"sampling": {"guided": "never"}}
_GUIDE = load_settings(RECIPES / "smollm2-guided.yaml").model_dump(
    include={"filter", "sampling", "samples_per_task"}
)
_GUIDED: dict[str, Any] = {"practice": {}, **_GUIDE}
ARMS: dict[str, dict[str, Any]] = {
    "zero-shot": {"rounds": 0},
    "two examples, untrained": {"rounds": 0, "asked": {"examples": 2}},
    "guided, untrained": {
        **{"rounds": 0, "practice": {}},
        "sampling": {**_GUIDE["sampling"], "guided": "always"},
    },
    "examples and guide, then SFT": {"rounds": 3},
    "examples, then SFT": {"rounds": 3, **_EXAMPLES},
    "guided, then SFT": {"rounds": 3, **_GUIDED},
    "SFT, then DPO": {"rounds": 3, "methods": ["sft", "sft", "dpo"]},
    "SFT, then GRPO": {"rounds": 3, "methods": ["sft", "sft", "grpo"]},
    "control: unfiltered": {
        "rounds": 1,
        "filter": {"where": None, "per_task": 1, "dedupe": None, "tools": "any"},
    },
    "control: copied answers": {"rounds": 1, "filter": {"where": "copied_passage>=1"}},
    "control: the paper's sub-span": {"rounds": 3, "filter": {"where": "accuracy_paper_filter>=1"}},
}
"""What each arm changes; ``practice`` and ``asked`` are arguments of both kinds of episodes."""
DPO = {"pairing": "right_wrong", "beta": 0.1, "sft_weight": 0.2, "learning_rate": 2e-5}
GRPO = {
    **{"batch_size": 32, "generations": 8, "learning_rate": 2e-5, "max_updates": 20},
    "reward": {"accuracy": 1.0},  # one for all sets: scenarios have another of their own
}
_REAL = {"tasks": "sample", "split": "train"}
SETS: dict[str, dict[str, Any]] = {
    "popqa": {"id": "ToolQA-PopQA-v0", "test": "popqa/dev.jsonl"},
    "triviaqa": {"id": "ToolQA-TriviaQA-v0", "test": "triviaqa/dev.jsonl"},
    "nq": {"id": "ToolQA-NQOpen-v0", "test": "nq/dev.jsonl"},
    "gsm8k": {"id": "ToolQA-GSM8K-v0", "test": "gsm8k/test-300.jsonl", "tools": ["Calculator"]},
    "scenarios": {"id": "ToolScenario-v0"},
}
"""Environments, and where the real questions of ``--data`` lie; scenarios are the bundled ones."""
FIGURES = (
    *("exact_match", "token_f1", "accuracy", "accuracy_paper", "invoke_rate", "malformed_rate"),
    *("answer_words", "copied_passage", "Solve-F1"),
)
# Everything is kept, so that a model which is never right has something to learn from.
_SMOKE: dict[str, Any] = {
    "filter": {"where": "reply_words>=0", "tools": "any", "per_task": 2, "dedupe": None},
    "sampling": {"max_new_tokens": 24},
    "samples_per_task": 4,
    **{name: {"max_updates": 1, "batch_size": 2} for name in ("train", "dpo")},
    "grpo": {"max_updates": 1, "batch_size": 4, "generations": 2},
}


def main(arguments: Sequence[str] | None = None) -> None:
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
    parser.add_argument("--smoke", action="store_true", help="every arm and set, tiny")
    parser.add_argument("--out", type=Path, default=Path("runs/study-real"))
    parser.add_argument("--page", type=Path, default=Path("docs"), help="folder of the page")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.seeds, given.questions, given.practice = given.seeds[:1], 1, 2
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
    settings = _settings(given, ARMS[arm] | (_smoke(ARMS[arm]) if given.smoke else {}), seed)
    out = given.out / f"seed-{seed}" / "".join(c if c.isalnum() else "-" for c in arm)
    report = selftrain(load_settings(settings), out=out)
    facts = read_json(report.with_suffix(".json"))
    rounds = []
    for folder in sorted(out.glob("evaluation-*")):
        by_set = {}
        for name in given.sets:
            for way in ("sampled", "greedy"):
                rows = {row.name: row for row in evaluate(folder / f"{name}-{way}").rows}
                by_set[f"{name}-{way}"] = {k: rows[k].value for k in FIGURES if k in rows} | {
                    "questions": rows["accuracy"].interval.n
                }
        rounds.append(by_set)
    models = sorted(out.glob("round-*/training/model"))
    kept = out / "lost.json"
    if not kept.is_file():
        last = str(models[-1]) if models else given.model
        found: dict[str, Any] = {"perplexity": _perplexity(last, given.data), "changed": {}}
        if models:
            change = compare_models(locate(given.model), last).weights
            thirds = {} if change is None else change.thirds()
            found["changed"] = {" ".join(key): part.relative for key, part in thirds.items()}
        write_json(kept, found)
    return {"rounds": rounds, "seconds": sum(facts["seconds"].values()), **read_json(kept)}


def _smoke(arm: Mapping[str, Any]) -> dict[str, Any]:
    """What makes an arm tiny."""
    tiny = {key: value for key, value in _SMOKE.items() if key != "sampling"}
    tiny["sampling"] = {**arm.get("sampling", {}), **_SMOKE["sampling"]}
    methods = arm.get("methods", ["sft"])
    # Any two episodes of a question of which one calls less make a pair.
    tiny["dpo"] = {**tiny["dpo"], "pairing": "fewer_calls"}
    if "dpo" in methods:
        tiny["sampling"]["guided"] = "practice"
    return {**tiny, "rounds": min(arm["rounds"], 1), "methods": methods[-1:]}


def _settings(given: argparse.Namespace, change: Mapping[str, Any], seed: int) -> dict[str, Any]:
    recipe = load_settings(RECIPES / "smollm2.yaml").model_dump()
    places = [_place(given, name, recipe["environments"][0], change) for name in given.sets]
    settings = recipe | {
        **{"model": given.model, "environments": places, "seed": seed, "dpo": DPO, "grpo": GRPO},
        **{"baseline": False, "stop_when_worse": False},
    }
    for key, value in change.items():
        if key in ("practice", "asked"):
            continue
        merged = isinstance(value, Mapping) and isinstance(settings[key], Mapping)
        settings[key] = {**settings[key], **value} if merged else value
    return settings


def _place(
    given: argparse.Namespace, name: str, popqa: Mapping[str, Any], change: Mapping[str, Any]
) -> dict[str, Any]:
    """An environment with its practice and its evaluation."""
    kind = SETS[name]
    args = {**popqa["args"], **({"tools": kind["tools"]} if "tools" in kind else {})}
    own, test = dict(_REAL), {"split": "test"}
    if "test" in kind:
        test = {"tasks": str(given.data / kind["test"])}
    else:
        args.pop("tools")
    if "test" in kind and "tools" not in kind:
        own["corpus"] = "sample"
        test["corpus"] = str(given.data / "wikipedia" / "passages.jsonl")
    return {
        **popqa,
        **{"id": kind["id"], "name": name, "args": args},
        **{"train": own | change.get("practice", {"examples": 2}), "train_tasks": given.practice},
        **{"test": test | change.get("asked", {}), "test_tasks": given.questions},
    }


def _perplexity(model: str, data: Path, passages: int = 100) -> float:
    """Of plain text: real passages, each from its beginning, at most 256 tokens."""
    torch = require_extra("torch", "train")
    from toolgym.policies.local.models import load_model

    loaded = load_model(model, adapter=None, device=None, dtype="fast")
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
    seeds: Sequence[Mapping[str, Any]], number: int, figure: str, name: str = ""
) -> tuple[int, int]:
    """Right and asked, greedily, of a figure that is 0 or 1 a question.

    Args:
        seeds: facts of an arm.
        number: of the round.
        figure: such as ``exact_match``.
        name: of a set; nothing: all that have the figure together.
    """
    found = [
        (values[figure], values["questions"])
        for seed in seeds
        for way, values in seed["rounds"][number].items()
        if way.endswith(f"{name}-greedy") and values.get(figure) is not None
    ]
    return round(sum(share * of for share, of in found)), sum(of for _, of in found)


def _interval(right: int, of: int) -> str:
    if not of:
        return "-"
    low, high = wilson(right / of, of)
    return f"{100 * right / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _table(found: Mapping[str, Any]) -> Table:
    rows = []
    for arm, by_seed in found["arms"].items():
        seeds = list(by_seed.values())
        cells = [_interval(*_pooled(seeds, -1, name)) for name in ("exact_match", "accuracy")]
        each = [_pooled([seed], -1, "exact_match") for seed in seeds]
        means = [_mean(seeds, name) for name in ("token_f1", *FIGURES[4:])]
        perplexity = sum(s["perplexity"] for s in seeds) / len(seeds)
        shares = ", ".join(f"{100 * right / max(1, of):.1f}" for right, of in each)
        rows.append([arm, *cells, shares, *means, f"{perplexity:.1f}"])
    head = ["arm", "EM", "accuracy", "EM of each seed", "F1", "calls", "malformed", "words"]
    return Table([*head, "copied", "Solve-F1", "perplexity"], rows)


def _mean(seeds: Sequence[Mapping[str, Any]], name: str) -> str:
    """Of a figure over seeds and sets, after the last round, asked greedily."""
    last = [v.get(name) for s in seeds for k, v in s["rounds"][-1].items() if "greedy" in k]
    known = [value for value in last if value is not None]
    return f"{sum(known) / len(known):.2f}" if known else "-"


def _by_set(found: Mapping[str, Any], sets: Sequence[str]) -> Table:
    rows = [
        [arm, *(_interval(*_pooled(list(by_seed.values()), -1, "exact_match", s)) for s in sets)]
        for arm, by_seed in found["arms"].items()
    ]
    return Table(["EM", *sets], rows)


def _changed(found: Mapping[str, Any]) -> Table:
    """Relative change of the weights by third of the layers, the mean over seeds."""
    trained = {
        arm: parts
        for arm, by_seed in found["arms"].items()
        if (parts := [s["changed"] for s in by_seed.values() if s["changed"]])
    }
    names = list(dict.fromkeys(name for parts in trained.values() for p in parts for name in p))
    rows = [
        [arm, *(f"{100 * sum(p[name] for p in parts) / len(parts):.2f} %" for name in names)]
        for arm, parts in trained.items()
    ]
    return Table(["arm", *names], rows)


def _page(found: Mapping[str, Any]) -> list[Block]:
    curves = {
        arm: [
            [_pooled([seed], n, "exact_match") for n in range(len(seed["rounds"]))]
            for seed in by_seed.values()
        ]
        for arm, by_seed in found["arms"].items()
    }
    rounds = [r for arm in found["arms"].values() for s in arm.values() for r in s["rounds"]]
    sets = [name for name in SETS if f"{name}-greedy" in rounds[0]]
    return [
        Heading("A real model, trained in every way", 1),
        Paragraph(
            f"Model: {found['model']}. At most {found['questions']} held-out questions of each of "
            f"{', '.join(sets)}, asked greedily and without examples or guide unless the arm says "
            "so; practice sees the bundled questions alone. EM and accuracy in percent with 95 % "
            "Wilson intervals over the questions of all seeds; calls an episode, malformed share "
            "of attempts, words an answer, share of copied passages; perplexity of plain text, "
            "which shows what was lost."
        ),
        _table(found),
        Figure(
            accuracy_curves(curves), "real-model-study.svg", "EM by round, thin lines are seeds"
        ),
        Heading("By set"),
        _by_set(found, sets),
        Heading("Where the weights changed"),
        Paragraph(
            "Relative change by third of the layers and kind of module "
            "([definitions](compare.md#where-the-weights-changed)). arXiv 2508.08791 finds that "
            "the gains of its training come with updates in the MLPs of the lower layers."
        ),
        _changed(found),
    ]


if __name__ == "__main__":
    main()

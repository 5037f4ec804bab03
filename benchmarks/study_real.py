"""A real model, trained in several ways from its own episodes, with controls and seeds.

``python benchmarks/study_real.py --seeds 0 1 2`` runs the study or resumes it, and writes
``docs/real-model-study.md`` with a drawing; the real questions are those of ``TOOLGYM_DATA``. Every
arm is the recipe ``examples/recipes/smollm2.yaml`` with a few settings changed, the guided ones
with those of ``smollm2-guided.yaml``; practice sees the bundled questions alone, evaluation the
real ones alone, and of scenarios the bundled test split. On two cores an arm of a seed takes an
hour and more: choose with ``--arms``, ``--seeds``, ``--sets`` and ``--questions``. Figures stand in
``docs/real-model-study.json``: what was run with the same settings is not run again there, also
where its folder is gone, so that the study can be made in many sittings. What another arm of the
seed has been through in the same way is taken over from its folder, as long as that is there: the
evaluation of the base, a round's practice, whole rounds. Between rounds ``--between`` questions of
each set are asked; all of them greedily after the last one. ``--elsewhere`` asks the arms' last
models, from their folders, questions of sets that they did not practise; ``closed-book`` ones have
no tools.
``--smoke`` runs every arm on every set with a question or two and keeps whatever was played: it
shows that the command works, and its figures say nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.real_page import FIGURES, page, table, told
from study.sharing import take_over

from toolgym import rollout
from toolgym._util.hashes import value_hash
from toolgym._util.jsonl import read_json, read_rows, write_json
from toolgym._util.optional import require_extra
from toolgym.errors import BadInputError, ToolgymError
from toolgym.evaluation import evaluate
from toolgym.evaluation.document import Figure, to_markdown
from toolgym.modeldiff import compare_models
from toolgym.policies.local.models import locate
from toolgym.rollouts.playing import make_env
from toolgym.selftrain.loop import selftrain
from toolgym.selftrain.sampling import Players
from toolgym.selftrain.settings import SelfTrainSettings, load_settings

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
_EXAMPLES = {"sampling": {"guided": "never"}}
# No recipe sets it, and figures of the page were found before there was such a setting.
_LATER = {"sampling": {"practice_dtype"}}
_GUIDE = load_settings(RECIPES / "smollm2-guided.yaml").model_dump(
    include={"begin_with", "filter", "sampling", "samples_per_task"}, exclude=_LATER
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
    "examples at first, then SFT": {"rounds": 3, **_EXAMPLES, "practice": [{"examples": 2}, {}]},
    "guided, then SFT once": {"rounds": 1, **_GUIDED},
    "guided, then SFT": {"rounds": 3, **_GUIDED},
    "SFT, then DPO": {"rounds": 3, "methods": ["sft", "sft", "dpo"]},
    "SFT, then GRPO": {"rounds": 3, "methods": ["sft", "sft", "grpo"]},
    "control: unfiltered": {
        "rounds": 1,
        "filter": {"where": None, "per_task": 1, "dedupe": None, "tools": "any"},
    },
    "control: guided, unfiltered": {
        **{"rounds": 1, **_GUIDED},
        "filter": {"where": None, "per_task": 1, "best_of": None, "by": None, "tools": "any"},
    },
    "control: copied answers": {"rounds": 1, "filter": {"where": "copied_passage>=1"}},
    "control: the paper's sub-span": {"rounds": 3, "filter": {"where": "accuracy_paper_filter>=1"}},
}
"""What each arm changes; ``practice`` (for all rounds, or one a round) and ``asked`` are arguments
of both kinds of episodes."""
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
ELSEWHERE: dict[str, dict[str, Any]] = {
    **SETS,
    "closed-book": {"id": "ToolQA-TriviaQA-v0", "test": "triviaqa/dev.jsonl", "tools": []},
}
"""What can be asked without having been practised."""
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
    parser.add_argument("--between", type=int, default=50, help="of these after each round")
    parser.add_argument("--elsewhere", nargs="+", default=[], choices=list(ELSEWHERE))
    parser.add_argument("--elsewhere-questions", type=int, default=200, help="of each such set")
    parser.add_argument("--practice", type=int, default=None, help="bundled ones; default: all")
    parser.add_argument("--smoke", action="store_true", help="every arm and set, tiny")
    parser.add_argument("--out", type=Path, default=Path("runs/study-real"))
    parser.add_argument("--page", type=Path, default=Path("docs"), help="folder of the page")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.seeds, given.questions, given.practice = given.seeds[:1], 1, 2
        given.elsewhere_questions = 1
    kept = given.page / "real-model-study.json"
    found = _known(kept, given)
    try:
        for seed in given.seeds:
            for arm in given.arms:
                change = ARMS[arm] | (_smoke(ARMS[arm]) if given.smoke else {})
                settings = _settings(given, change, seed)
                key = _key(given, change, seed)
                facts = found["arms"].get(arm, {}).get(str(seed), {})
                if facts.get("key") != key:
                    facts = _arm(given, arm, seed, settings) | {"key": key}
                    found = _add(kept, given, arm, seed, facts)
                for name in given.elsewhere:
                    if _ask_elsewhere(given, name, arm, seed, change, facts):
                        found = _add(kept, given, arm, seed, facts)
                print(f"seed {seed}, {arm}: {told(facts)}", file=sys.stderr, flush=True)
    except ToolgymError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; the same command goes on from here\n")
    blocks = page(found, list(SETS), list(ARMS))
    for block in blocks:
        if isinstance(block, Figure):
            (given.page / block.file).write_text(block.svg + "\n", encoding="utf-8")
    (given.page / "real-model-study.md").write_text(to_markdown(blocks) + "\n", encoding="utf-8")
    print(to_markdown([table(found)]))


def _known(file: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What earlier sittings found with this model; other settings are told apart arm by arm."""
    empty: dict[str, Any] = {"questions": given.questions, "model": given.model, "arms": {}}
    if not file.is_file():
        return empty
    found: dict[str, Any] = read_json(file)
    return found if found.get("model") == given.model else empty


def _key(given: argparse.Namespace, change: Mapping[str, Any], seed: int) -> str:
    """Of an arm's figures, which are the same wherever the data lie."""
    anywhere = argparse.Namespace(**vars(given) | {"data": Path("data")})
    return value_hash([_settings(anywhere, change, seed), given.questions])


def _add(
    file: Path, given: argparse.Namespace, arm: str, seed: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known now, with an arm's facts; another process may have found more meanwhile."""
    found = _known(file, given)
    found["arms"].setdefault(arm, {})[str(seed)] = facts
    # Arms that this version does not know were found by another one, and stay.
    order = [*(name for name in ARMS if name in found["arms"]), *found["arms"]]
    found["arms"] = {name: found["arms"][name] for name in dict.fromkeys(order)}
    write_json(file, found)
    return found


def _arm(
    given: argparse.Namespace, arm: str, seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Figures by round and set of one arm and seed, and what the model lost."""
    loaded = load_settings(settings)
    out = _folder(given, arm, seed)
    taken = take_over(out, loaded)
    if taken:
        print(f"seed {seed}, {arm}: {', '.join(taken)} from another arm", file=sys.stderr)
    report = selftrain(loaded, out=out)
    facts = read_json(report.with_suffix(".json"))
    rounds = [_figures(given.sets, folder) for folder in sorted(out.glob("evaluation-*"))]
    last = _last_model(given, out, loaded.rounds)
    _ask_all(loaded, last, given.questions, out / "all")
    rounds[-1] |= _figures(given.sets, out / "all", ways=("greedy",))
    kept = out / "lost.json"
    if not kept.is_file():
        found: dict[str, Any] = {"perplexity": _perplexity(last, given.data), "changed": {}}
        if last != given.model:
            change = compare_models(locate(given.model), last).weights
            thirds = {} if change is None else change.thirds()
            found["changed"] = {" ".join(key): part.relative for key, part in thirds.items()}
        write_json(kept, found)
    return {"rounds": rounds, "seconds": sum(facts["seconds"].values()), **read_json(kept)}


def _folder(given: argparse.Namespace, arm: str, seed: int) -> Path:
    out: Path = given.out / f"seed-{seed}" / "".join(c if c.isalnum() else "-" for c in arm)
    return out


def _last_model(given: argparse.Namespace, out: Path, rounds: int) -> str:
    """Of an arm that has been through its rounds; the base where there were none."""
    return str(out / f"round-{rounds}" / "training" / "model") if rounds else given.model


def _ask_elsewhere(
    given: argparse.Namespace,
    name: str,
    arm: str,
    seed: int,
    change: Mapping[str, Any],
    facts: dict[str, Any],
) -> bool:
    """Add to an arm's facts what its last model does with a set that it did not practise.

    Returns:
        Whether anything was asked: not of a set that was practised, nor what is known already.

    Raises:
        BadInputError: the arm's models are gone.
    """
    if name in given.sets:
        return False
    most = given.elsewhere_questions
    asked = argparse.Namespace(**vars(given) | {"sets": [name], "questions": most})
    key = _key(asked, change, seed)
    known = facts.setdefault("elsewhere", {})
    if known.get(name, {}).get("key") == key:
        return False
    folder, settings = _folder(given, arm, seed), load_settings(_settings(asked, change, seed))
    last = _last_model(given, folder, settings.rounds)
    if settings.rounds and not Path(last).is_dir():
        raise BadInputError(
            f"{arm}, seed {seed}: its figures are known, but {folder} holds no model of it that "
            "could be asked elsewhere; leave --elsewhere out, or give another --page to run the "
            "arm again"
        )
    out = folder / "elsewhere" / f"{most}-questions"
    _ask_all(settings, last, most, out)
    known[name] = _figures([name], out, ways=("greedy",))[f"{name}-greedy"] | {"key": key}
    return True


def _ask_all(settings: SelfTrainSettings, model: str, most: int, out: Path) -> None:
    """Held-out questions of each environment, greedily."""

    def tell(_stage: str, _done: int, _total: int, _note: str) -> None:
        """The rollout shows how far it is."""

    with Players(settings.sampling, out, tell) as players:
        for place in settings.environments:
            rollout(
                place.id,
                players.policy(model, 0.0),
                env_args={**place.args, **(place.test or {})},
                episodes=_episodes(place.id, {**place.args, **(place.test or {})}, most),
                seed=settings.seed,
                out=out / f"{place.label}-greedy",
                concurrency=settings.sampling.concurrency,
            )


def _episodes(env: str, args: Mapping[str, Any], most: int) -> int:
    return min(most, len(make_env(env, args).tasks))


def _figures(
    sets: Sequence[str], folder: Path, ways: Sequence[str] = ("sampled", "greedy")
) -> dict[str, Any]:
    """What the runs of a folder came to, by set and way."""
    by_set = {}
    for name in sets:
        for way in ways:
            rows = {row.name: row for row in evaluate(folder / f"{name}-{way}").rows}
            by_set[f"{name}-{way}"] = {k: rows[k].value for k in FIGURES if k in rows} | {
                "questions": rows["accuracy"].interval.n
            }
    return by_set


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
    recipe = load_settings(RECIPES / "smollm2.yaml").model_dump(exclude=_LATER)
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
    kind = ELSEWHERE[name]
    args = {**popqa["args"], **({"tools": kind["tools"]} if "tools" in kind else {})}
    own, test = dict(_REAL), {"split": "test"}
    practice = change.get("practice", {"examples": 2})
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
        "train": [own | p for p in practice] if isinstance(practice, list) else own | practice,
        "train_tasks": given.practice,
        **{
            "test": test | change.get("asked", {}),
            "test_tasks": min(given.between, given.questions),
        },
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


if __name__ == "__main__":
    main()

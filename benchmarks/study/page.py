"""The study of the miniature as a page: tables, curves, and the papers' own figures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Final

from benchmarks.study.curves import accuracy_curves, reward_curves
from toolgym.evaluation.document import Block, Figure, Heading, Paragraph, Table, to_markdown
from toolgym.evaluation.intervals import wilson
from toolgym.miniature.world import SHARES

__all__ = ["blocks", "summary_table", "write_page"]

HELD_OUT: Final = "-heldout"
"""What the labels of the environments with held-out phrasings end with."""
KINDS: Final = {
    "arithmetic": "arithmetic (calculator)",
    "entities": "entities (search)",
    "scenarios": "scenarios (tools of their own)",
}
PUBLISHED: Final = (
    ("Qwen2.5-7B-Instruct", "27.44 / 27.69 / 25.97", "47.82 / 47.37 / 46.78"),
    ("Qwen3-8B, without reasoning", "21.18 / 30.71 / 23.48", "46.44 / 55.84 / 49.54"),
)
"""Solve-P, Solve-R and Solve-F1 in percent before and after GRPO: arXiv 2508.08791."""

Rounds = Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]


def write_page(found: Mapping[str, Any], folder: str | Path) -> Path:
    """Write ``miniature.md`` and its drawings.

    Args:
        found: what `benchmarks.study.arms.run_study` returned.
        folder: where to.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    page = blocks(found)
    for block in page:
        if isinstance(block, Figure):
            (target / block.file).write_text(block.svg + "\n", encoding="utf-8")
    file = target / "miniature.md"
    lines = to_markdown(page).splitlines()
    # Tables, code and figures are short or cannot be broken.
    text = "\n".join(line if line[:1] in "|`!" else fill(line, 110) for line in lines)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def blocks(found: Mapping[str, Any]) -> list[Block]:
    """The page in blocks."""
    arms = {arm: seeds for arm, seeds in found["arms"].items() if seeds}
    return [
        Heading("The miniature, trained in every way", 1),
        *_about(found, arms),
        Heading("Before and after"),
        summary_table(found),
        Paragraph(_apart(arms)),
        Figure(
            accuracy_curves({arm: _curves(seeds) for arm, seeds in arms.items()}),
            "miniature-accuracy.svg",
            "Accuracy on held-out questions by round: thin lines are seeds, thick ones their pool",
        ),
        *_rewards(arms),
        Heading("By kind of question"),
        _kinds(arms),
        *_held_out(arms),
        Heading("What the controls say"),
        Paragraph(_controls(arms)),
        *_papers(),
        *_care(),
    ]


def summary_table(found: Mapping[str, Any]) -> Table:
    """Accuracy before and after, pooled over the seeds, and each seed's."""
    rows = []
    for arm, seeds in found["arms"].items():
        if not seeds:
            continue
        first, last = ([_pool(rounds(s)[n], "sampled") for s in seeds.values()] for n in (0, -1))
        greedy = [_pool(rounds(seed)[-1], "greedy") for seed in seeds.values()]
        each = ", ".join(f"{100 * right / of:.1f}" for right, of in last)
        rows.append([arm, _interval(first), _interval(last), each, _interval(greedy)])
    return Table(
        ["trained by", "before, sampled", "after, sampled", "each seed", "after, greedy"], rows
    )


def rounds(seed: Mapping[str, Any]) -> Rounds:
    """Accuracies before and after each round of one seed, by way and environment."""
    found: Rounds = seed["rounds"]
    return found


def _about(found: Mapping[str, Any], arms: Mapping[str, Any]) -> list[Block]:
    seeds = sorted({int(seed) for by_seed in arms.values() for seed in by_seed})
    minutes = sum(s["seconds"] for by_seed in arms.values() for s in by_seed.values()) / 60
    minutes += sum(found.get("base_seconds", {}).values()) / 60
    parts = [f"{100 * share:.0f} % {KINDS[kind]}" for kind, share in SHARES.items()]
    numbers = " ".join(str(seed) for seed in seeds)
    return [
        Paragraph(
            "A Llama of about a million parameters is pre-trained on mixed behaviour in an "
            "invented world, and then trained further in every way that toolgym has. Every figure "
            "on this page was measured by one command, which also wrote the page:"
        ),
        Paragraph(
            f"```bash\npython -m benchmarks.study --seeds {numbers} --out runs/study "
            "--page docs\n```"
        ),
        Paragraph(
            f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}, each with a world, a base and "
            f"an order of its own; {found['train']} practice questions and {found['test']} "
            f"held-out ones a seed: {', '.join(parts)}. All stages together took {minutes:.0f} "
            f"minutes on {found['machine']}, with {found['versions']}. Intervals are 95 % Wilson "
            "intervals over the questions of all seeds; they cover the draw of questions and "
            "replies. What another training would give, the seeds beside each other show."
        ),
    ]


def _apart(arms: Mapping[str, Any]) -> str:
    """Whether the intervals before and after overlap, said for each arm and of its seeds."""
    apart: list[str] = []
    overlap: list[str] = []
    for arm, seeds in arms.items():
        pairs = [tuple(_pool(rounds(s)[n], "sampled") for n in (0, -1)) for s in seeds.values()]
        alone = sum(_differ([before], [after]) for before, after in pairs)
        kept = apart if _differ(*zip(*pairs, strict=True)) else overlap
        counted = alone if kept is apart else len(pairs) - alone
        kept.append(f"{arm} (in {counted} of {len(pairs)} seeds alone)")
    texts = []
    if apart:
        texts.append(f"The intervals before and after lie apart for: {'; '.join(apart)}.")
    if overlap:
        texts.append(f"They overlap for: {'; '.join(overlap)}.")
    return " ".join(texts)


def _differ(before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]]) -> bool:
    """Whether the pooled intervals have no point in common."""
    first, last = _ends(before), _ends(after)
    return first[1] < last[0] or last[1] < first[0]


def _curves(seeds: Mapping[str, Any]) -> list[list[tuple[int, int]]]:
    return [[_pool(each, "sampled") for each in rounds(seed)] for seed in seeds.values()]


def _rewards(arms: Mapping[str, Any]) -> list[Block]:
    seeds = {
        f"seed {seed}": facts["rewards"]
        for seed, facts in arms.get("GRPO", {}).items()
        if facts["rewards"]
    }
    if not seeds:
        return []
    text = "Mean reward of the episodes that GRPO plays, by training step"
    return [Figure(reward_curves(seeds), "miniature-reward.svg", text)]


def _kinds(arms: Mapping[str, Any]) -> Table:
    rows = [["before", *_by_label(next(iter(arms.values())), 0, "")]]
    rows += [[arm, *_by_label(seeds, -1, "")] for arm, seeds in arms.items()]
    return Table(["trained by", *KINDS.values()], rows)


def _held_out(arms: Mapping[str, Any]) -> list[Block]:
    first = next(iter(arms.values()))
    if not any(
        label.endswith(HELD_OUT) for label in rounds(next(iter(first.values())))[0]["sampled"]
    ):
        return []
    rows = [["before", *_by_label(first, 0, HELD_OUT)]]
    rows += [[arm, *_by_label(seeds, -1, HELD_OUT)] for arm, seeds in arms.items()]
    return [
        Heading("Phrasings never shown"),
        Paragraph(
            "The same kinds of questions in words that neither the base's demonstrations nor "
            "practice used."
        ),
        Table(["trained by", *KINDS.values()], rows),
    ]


def _by_label(seeds: Mapping[str, Any], number: int, ending: str) -> list[str]:
    return [
        _interval(
            [_counts(rounds(seed)[number]["sampled"][kind + ending]) for seed in seeds.values()]
        )
        for kind in KINDS
    ]


def _controls(arms: Mapping[str, Any]) -> str:
    """Each control against SFT, by its figures alone."""
    texts = []
    for name, what in (
        (
            "control: unfiltered episodes",
            "Trained for a round on one episode of each practice question, right or wrong",
        ),
        (
            "control: more demonstrations",
            "Trained on as many more of its own demonstrations as SFT had episodes in its first "
            "round",
        ),
    ):
        if name in arms:
            before, after = (
                _interval([_pool(rounds(seed)[n], "sampled") for seed in arms[name].values()])
                for n in (0, -1)
            )
            texts.append(f"{what}, the base goes from {before} to {after}.")
    if "SFT" in arms and texts:
        first = [_pool(rounds(seed)[1], "sampled") for seed in arms["SFT"].values()]
        texts.append(f"One round of SFT on right episodes alone ends at {_interval(first)}.")
    return " ".join(texts) or "No control was run."


def _papers() -> list[Block]:
    return [
        Heading("What the papers report"),
        Paragraph(
            "Beside it, the published figures of the two papers whose methods these are. They are "
            "other models on other questions: nothing here confirms or contradicts them."
        ),
        Paragraph(
            "arXiv 2502.05867, self-training Llama-3-8B-Instruct: tool use gains 3.7 % on PopQA; "
            "the results on TriviaQA, GSM8K and NQ-Open are mixed."
        ),
        Paragraph("arXiv 2508.08791, GRPO in built environments, Solve-P / Solve-R / Solve-F1:"),
        Table(["model", "before", "after"], PUBLISHED),
    ]


def _care() -> list[Block]:
    return [
        Heading("What it does not say"),
        Paragraph(
            "The right behaviour is in the base by construction: part of its demonstrations use "
            "the tools well, and what a method can gain here is to find this behaviour and make it "
            "stronger. Nothing follows for questions that people ask, for tools never seen, or for "
            "larger models. Settings were chosen on seed 0 and are the same for all seeds; the "
            "methods were not given equal compute, so they are not ranked."
        ),
    ]


def _pool(each: Mapping[str, Mapping[str, Mapping[str, float]]], way: str) -> tuple[int, int]:
    """Right answers and questions over the three kinds, held-out phrasings left out."""
    counts = [_counts(each[way][kind]) for kind in KINDS]
    return sum(right for right, _ in counts), sum(of for _, of in counts)


def _counts(item: Mapping[str, float]) -> tuple[int, int]:
    return int(item["right"]), int(item["n"])


def _ends(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    right, of = (sum(each[n] for each in counts) for n in (0, 1))
    return wilson(right / of, of)


def _interval(counts: Sequence[tuple[int, int]]) -> str:
    right, of = (sum(each[n] for each in counts) for n in (0, 1))
    low, high = wilson(right / of, of)
    return f"{100 * right / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

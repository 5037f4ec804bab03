"""What `ablate` gives: tables, a page that stands alone, plain data, frames and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_text
from toolgym._util.notebook import fragment
from toolgym._util.optional import require_extra
from toolgym._util.text import number, text_table
from toolgym.errors import BadInputError, UnknownNameError
from toolgym.evaluation.ablation_figures import LENGTHS, Bias, Judged, Pair, Variation
from toolgym.evaluation.document import (
    Block,
    Figure,
    Heading,
    Paragraph,
    Quote,
    Table,
    to_html,
    to_markdown,
)
from toolgym.evaluation.intervals import Interval
from toolgym.evaluation.plots import dots, dots_svg, grid, grid_svg, new_figure
from toolgym.evaluation.report import source_lines

__all__ = ["Ablation", "Look"]


@dataclass(frozen=True, slots=True)
class Look:
    """An episode that is worth reading.

    Args:
        place: its number in the order of the recording, from 0.
        id: task and sample.
        why: the reason as a sentence.
        question: of its task.
        gold: gold answers.
        answer: of the policy, or None.
        right: the truth label.
        rewards: total by reward.
        advantages: by reward.
        text: what the policy wrote and read, shortened.
    """

    place: int
    id: str
    why: str
    question: str
    gold: list[str]
    answer: str | None
    right: bool
    rewards: dict[str, float]
    advantages: dict[str, float]
    text: str


@dataclass(frozen=True)
class Ablation:
    """What `ablate` gives; prints as tables, shows itself in a notebook, writes a page.

    Args:
        rewards: one a reward, in the order given.
        pairs: one for each two of them.
        look: episodes to look at.
        truth: the condition that says which episodes are right.
        right: share of them.
        episodes: how many.
        tasks: how many tasks they belong to.
        groups: how many groups of at least two.
        group: ``task``: the advantage is that of GRPO; ``run``: that of REINFORCE++.
        source: where the tasks came from.
        family: their family; may be empty.
        columns: [episodes] each: ``id``, ``task``, ``right``, the lengths, the rewards by name and
            their advantages (``advantage/NAME``).
    """

    rewards: list[Judged]
    pairs: list[Pair]
    look: list[Look]
    truth: str
    right: Interval
    episodes: int
    tasks: int
    groups: int
    group: str
    source: str
    family: str
    columns: dict[str, Any]

    def __getitem__(self, name: str) -> Judged:
        """The figures of a reward.

        Raises:
            UnknownNameError: there is none of that name.
        """
        for judged in self.rewards:
            if judged.name == name:
                return judged
        raise UnknownNameError("reward of the ablation", name, [j.name for j in self.rewards])

    def pair(self, first: str, second: str) -> Pair:
        """The figures of two rewards, in either order.

        Raises:
            UnknownNameError: there are none of these names.
        """
        for pair in self.pairs:
            if {pair.first, pair.second} == {first, second}:
                return pair
        known = [f"{pair.first} / {pair.second}" for pair in self.pairs]
        raise UnknownNameError("pair of rewards", f"{first} / {second}", known)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the figures of single episodes."""
        plain = {
            name: getattr(self, name)
            for name in ("truth", "episodes", "tasks", "groups", "group", "source", "family")
        }
        return plain | {
            "right": asdict(self.right),
            "rewards": [asdict(judged) for judged in self.rewards],
            "pairs": [asdict(pair) for pair in self.pairs],
            "look": [asdict(look) for look in self.look],
        }

    def to_pandas(self, table: str = "episodes") -> Any:
        """A table as a `pandas.DataFrame`.

        Args:
            table: ``episodes`` (a row each: id, task, truth, lengths, rewards, advantages),
                ``rewards``, ``pairs``, ``bias`` or ``weights``, whose rows are figures.

        Raises:
            BadInputError: there is no table of that name.
            MissingExtraError: pandas is not installed.
        """
        pandas = require_extra("pandas", "plot")
        if table == "episodes":
            return pandas.DataFrame(self.columns)
        rows = self._rows()
        if table not in rows:
            known = ", ".join(["episodes", *rows])
            raise BadInputError(f"an ablation has no table {table!r}; tables: {known}")
        return pandas.DataFrame(rows[table])

    def _rows(self) -> dict[str, list[dict[str, Any]]]:
        """The tables as rows of plain values; an interval becomes three columns."""
        flat = ("name", "mean", "right", "wrong", "agreement", "misordered", "flat")
        return {
            "rewards": [_spread({name: getattr(j, name) for name in flat}) for j in self.rewards],
            "pairs": [
                _spread({name: getattr(p, name) for name in Pair.__slots__ if name != "examples"})
                for p in self.pairs
            ],
            "bias": [
                {"reward": j.name, "length": length, **asdict(bias)}
                for j in self.rewards
                for length, bias in j.bias.items()
            ],
            "weights": [
                {"reward": j.name}
                | _spread({name: getattr(v, name) for name in Variation.__slots__})
                for j in self.rewards
                for v in j.weights
            ],
        }

    def plot(self) -> Any:
        """Means and the two grids of pairs as a `matplotlib.figure.Figure`.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        names = [judged.name for judged in self.rewards]
        figure = new_figure(8.6, 1.6 + 0.45 * len(names))
        left, middle, right = figure.subplots(1, 3, sharey=True)
        dots(left, self._means(), "mean reward, 95 % interval")
        grid(middle, names, self._correlations(), "Spearman", signed=True)
        grid(right, names, self._flips(), "advantage flips", signed=False)
        return figure

    def to_markdown(self) -> str:
        """The page as Markdown; `write` puts the drawings that it shows beside it."""
        return to_markdown(self._blocks())

    def to_html(self) -> str:
        """The page as one self-contained HTML file."""
        return to_html(self._blocks(), "Rewards compared")

    def write(self, path: str | Path) -> Path:
        """Write the page, as one file of HTML, or as Markdown with its drawings beside it.

        Args:
            path: Markdown where it ends in ``.md``.

        Returns:
            The path.
        """
        target, blocks = Path(path), self._blocks()
        if target.suffix != ".md":
            write_text(target, self.to_html())
            return target
        for block in blocks:
            if isinstance(block, Figure):
                write_text(target.with_name(block.file), block.svg + "\n")
        write_text(target, to_markdown(blocks))
        return target

    def __str__(self) -> str:
        parts = []
        for title, head, rows in self._tables():
            parts.append(f"{title}\n{text_table(head, rows)}")
        looked = [f"  {look.id}: {look.why}" for look in self.look]
        if looked:
            parts.append("Episodes to look at\n" + "\n".join(looked))
        return "\n\n".join(["\n".join(self._lines()), *parts])

    def __repr__(self) -> str:
        names = ", ".join(judged.name for judged in self.rewards)
        return f"Ablation({self.episodes} episodes of {self.tasks} tasks; rewards: {names})"

    def _repr_html_(self) -> str:
        return fragment(self._lines(), self._tables())

    def _lines(self) -> list[str]:
        share = number(self.right.value, True)
        lines = [
            *source_lines(self.source, self.family),
            f"{self.episodes} episodes of {self.tasks} tasks; right by {self.truth}: {share}",
        ]
        if self.group == "task":
            lines.append(
                f"Advantages: within the {self.groups} tasks with several episodes, as in GRPO"
            )
        else:
            lines.append("Advantages: against the mean of the whole run, as in REINFORCE++")
        return lines

    def _tables(self) -> list[tuple[str, Sequence[str], list[list[str]]]]:
        """Title, head and cells of each table that has rows."""
        within = self.group == "task"
        head = ["reward", "mean", "right", "wrong", "agreement (AUC)"]
        head += ["wrong above right", "flat groups"] if within else []
        probed = any(judged.probes for judged in self.rewards)
        found = [
            ("Rewards", [*head, "probes survived"] if probed else head, [
                [j.name, _cell(j.mean), number(j.right), number(j.wrong), _cell(j.agreement)]
                + ([_cell(j.misordered, True), _cell(j.flat, True)] if within else [])
                + ([_probes(j)] if probed else [])
                for j in self.rewards
            ]),
            ("Pairs", ["pair", "Spearman", "Kendall", "advantage flips", "0 under one alone"], [
                [f"{p.first} / {p.second}", number(p.spearman), number(p.kendall),
                 _cell(p.flips, True), number(p.muted, True)]
                for p in self.pairs
            ]),
            ("Lengths (Spearman; at equal truth)", ["reward", *map(_words, LENGTHS)], [
                [j.name, *(_two(j.bias[length]) for length in LENGTHS)] for j in self.rewards
            ]),
            ("Other weights", ["reward", "part", "weight", "mean", "Spearman", "flips"], [
                [j.name, v.part, f"x {v.factor:g}", number(v.mean), number(v.spearman),
                 _cell(v.flips, True)]
                for j in self.rewards
                for v in j.weights
            ]),
        ]  # fmt: skip
        return [table for table in found if table[2]]

    def _blocks(self) -> list[Block]:
        """The page."""
        names = [judged.name for judged in self.rewards]
        blocks: list[Block] = [Heading("Rewards compared", 1)]
        blocks += [Paragraph(line) for line in self._lines()]
        drawn = {
            "Rewards": [
                Figure(dots_svg(self._means()), "means.svg", "Mean reward with 95 % interval; "
                       "right (filled) and wrong (hollow) episodes apart below it.")
            ],
            "Pairs": [
                Figure(
                    grid_svg(names, self._correlations(), signed=True), "ranks.svg",
                    "Spearman's rank correlation of each two rewards."),
                Figure(
                    grid_svg(names, self._flips(), signed=False), "flips.svg",
                    "Share of episodes whose advantage changes sign, in percent, when one reward "
                    "is exchanged for the other."),
            ],
        }  # fmt: skip
        for title, head, rows in self._tables():
            blocks += [Heading(title), Table(head, rows), *drawn.get(title, ())]
            if title in _NOTES:
                blocks.append(Paragraph(_NOTES[title]))
        if fooled := [judged for judged in self.rewards if judged.fooled_by]:
            blocks.append(Heading("What fooled them"))
            blocks += [Paragraph(f"`{j.name}`: {', '.join(j.fooled_by)}") for j in fooled]
        if self.look:
            blocks.append(Heading("Episodes to look at"))
        for look in self.look:
            blocks += self._example(look)
        return blocks

    def _example(self, look: Look) -> list[Block]:
        label = "right" if look.right else "wrong"
        shown = [f"Question: {look.question}", f"Gold: {' | '.join(look.gold[:4])}"]
        shown.append(f"Answer ({label}): {look.answer if look.answer is not None else '(none)'}")
        rows = [
            [name, number(look.rewards[name]), f"{look.advantages[name]:+.2f}"]
            for name in look.rewards
        ]
        return [
            Heading(f"{look.id}, episode {look.place}", 3),
            Paragraph(look.why),
            Quote("\n".join(shown)),
            Table(["reward", "total", "advantage"], rows),
            Quote(look.text),
        ]

    def _means(self) -> list[tuple[str, Interval, float | None, float | None]]:
        return [(j.name, j.mean, j.right, j.wrong) for j in self.rewards]

    def _correlations(self) -> list[list[float | None]]:
        return self._square(lambda pair: pair.spearman, 1.0)

    def _flips(self) -> list[list[float | None]]:
        return self._square(lambda pair: pair.flips.value, 0.0)

    def _square(self, read: Callable[[Pair], float | None], own: float) -> list[list[float | None]]:
        names = [judged.name for judged in self.rewards]
        return [
            [own if one == other else read(self.pair(one, other)) for other in names]
            for one in names
        ]


_NOTES = {
    "Rewards": "Agreement is how often a right episode earns more than a wrong one, equal counted "
    "half: 0.5 says nothing. Of flat groups, in which all earn the same, GRPO learns nothing.",
    "Pairs": "Where the advantage flips, training pushes an episode up under one reward and down "
    "under the other. Where it is 0 under one of the two alone, only the other teaches anything.",
    "Lengths (Spearman; at equal truth)": "In brackets among episodes that are equally right: a "
    "reward that still follows the length there pays for the length.",
}


def _cell(row: Interval | None, percent: bool = False) -> str:
    if row is None or row.value is None:
        return "-"
    value = number(row.value, percent)
    if row.low is None or row.high is None:
        return value
    factor, digits = (100, 1) if percent else (1, 3)
    return f"{value} [{factor * row.low:.{digits}f}, {factor * row.high:.{digits}f}]"


def _probes(judged: Judged) -> str:
    return "-" if judged.probes is None else f"{judged.probes[0]} of {judged.probes[1]}"


def _two(bias: Bias) -> str:
    return f"{number(bias.overall)} ({number(bias.at_equal_truth)})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose intervals are three columns each."""
    spread: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Interval):
            spread |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            spread[name] = value
    return spread

"""Recorded episodes as tables: a pandas frame, a data set of the hub, and the card of one."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolgym._util.jsonl import write_lines, write_text
from toolgym._util.optional import require_extra
from toolgym.trajectory import Trajectory, summary_row

__all__ = [
    "Tabular",
    "counts",
    "dataset_of_rows",
    "hub_card",
    "origin_facts",
    "plain",
    "source_sentence",
]

_FILE = "train.parquet"


class Tabular:
    """What holds episodes and says where they come from, such as a run or a selection."""

    def __iter__(self) -> Iterator[Trajectory]:
        """The episodes, one at a time."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """Plain data on where they come from."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row an episode.

        Returns:
            Identity, question, gold, answer, ``reward`` and its parts (``reward/NAME``), counts of
            steps, calls, errors and problems, how it ended, metrics (``metric/NAME``).

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return require_extra("pandas", "plot").DataFrame(list(map(summary_row, self)))

    def to_dataset(self, out: str | Path | None = None) -> Any:
        """A `datasets.Dataset` with a row an episode; it lies on disk, not in memory.

        Args:
            out: a folder for ``train.parquet`` and the card ``README.md``, which is what the hub
                shows of a data set: ``hf upload OWNER/NAME FOLDER --repo-type dataset``.

        Returns:
            The columns of `to_pandas` without those of single rewards, ``golds`` (all of them),
            ``messages`` as chat, and ``trajectory``: the whole record as JSON, for
            `toolgym.Trajectory.from_row`.

        Raises:
            MissingExtraError: datasets is not installed.
        """
        made = _dataset(self)
        if out is not None:
            folder = Path(out)
            folder.mkdir(parents=True, exist_ok=True)
            with _without_bars():
                made.to_parquet(folder / _FILE)
            write_text(folder / "README.md", self._hub_card(len(made)))
        return made

    def _hub_card(self, count: int) -> str:
        origin = self.provenance()
        facts = {"Episodes": count, **origin_facts(origin)}
        load = f'datasets.load_dataset("parquet", data_files="{_FILE}", split="train")'
        below = (
            f"Load with `{load}`. `messages` is the conversation, `trajectory` the whole record as "
            "JSON (`toolgym.Trajectory.from_row`). Every text of the assistant was written by the "
            "policy named above; nobody has read it."
        )
        return hub_card("Episodes recorded by toolgym", _FILE, count, facts, below)


_TEXTS = ("id", "task", "env", "question", "answer")
_COUNTS = ("sample", "steps", "calls", "tool_errors", "problems")


def _dataset(episodes: Iterable[Trajectory]) -> Any:
    """Written row by row to a file that goes with the data set."""
    datasets = require_extra("datasets", "train")
    writer_of = require_extra("datasets.arrow_writer", "train").ArrowWriter
    text = datasets.Value("string")
    features = datasets.Features(
        dict.fromkeys(_TEXTS, text)
        | {"golds": datasets.List(text)}
        | {name: datasets.Value("int64") for name in _COUNTS}
        | {"reward": datasets.Value("float64")}
        | {name: datasets.Value("bool") for name in ("terminated", "truncated")}
        | {"messages": datasets.List({"role": text, "content": text}), "trajectory": text}
    )
    folder = Path(tempfile.mkdtemp(prefix="toolgym-dataset-"))
    file = folder / "episodes.arrow"
    with writer_of(path=str(file), features=features) as writer:
        for trajectory in episodes:
            row = summary_row(trajectory)
            row |= {
                "golds": list(trajectory.task.answers),
                "messages": [{"role": m.role, "content": m.content} for m in trajectory.messages],
                "trajectory": trajectory.to_line(),
            }
            writer.write({name: row[name] for name in features})
        writer.finalize()
    made = datasets.Dataset.from_file(str(file))
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


@contextmanager
def _without_bars() -> Iterator[None]:
    datasets = require_extra("datasets", "train")
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def dataset_of_rows(lines: Iterable[str]) -> Any:
    """JSON lines as a `datasets.Dataset` on disk.

    Raises:
        MissingExtraError: datasets is not installed.
    """
    datasets = require_extra("datasets", "train")
    folder = Path(tempfile.mkdtemp(prefix="toolgym-dataset-"))
    write_lines(folder / "rows.jsonl", lines)
    with _without_bars():
        made = datasets.Dataset.from_json(str(folder / "rows.jsonl"), cache_dir=str(folder))
    weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def hub_card(title: str, file: str, rows: int, facts: Mapping[str, Any], below: str) -> str:
    """The ``README.md`` of a data set: the header that the hub reads, and what a person reads.

    Args:
        title: the heading.
        file: of the rows, beside the card.
        rows: how many there are.
        facts: a table of two columns; those that are None or empty are left out.
        below: text under it.
    """
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value not in (None, "")]
    table = "\n".join(["| | |", "|---|---|", *lines])
    header = [
        "---",
        "configs:",
        "- config_name: default",
        f"  data_files: {file}",
        f"pretty_name: {title}",
        "size_categories:",
        f"- {_size(rows)}",
        "tags:",
        "- tool-use",
        "- agents",
        "- toolgym",
        "task_categories:",
        "- text-generation",
        "---",
    ]
    return "\n".join(header) + f"\n# {title}\n\n{table}\n\n{below}\n"


def _size(rows: int) -> str:
    """One of the hub's own classes of sizes."""
    bounds = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6}
    return next((name for name, most in bounds.items() if rows < most), "1M<n<10M")


def origin_facts(origin: Mapping[str, Any]) -> dict[str, str | None]:
    """What a card says of where episodes come from."""
    found = origin.get("selection") or []
    selections = [each for each in (found if isinstance(found, list) else [found]) if each]
    source = origin.get("task_source", "not recorded")
    return {
        "Environment": plain(origin.get("env")),
        "Task source": source_sentence(source, str(origin.get("task_family", ""))),
        "Policy": plain(origin.get("policy")),
        "Filter": plain([each.get("settings") for each in selections]),
        "Filtered out": "; ".join(filter(None, (counts(s.get("dropped")) for s in selections))),
        "Versions": plain(origin.get("versions")),
    }


def source_sentence(source: str, family: str = "") -> str:
    """Where tasks come from, so that no one mistakes a sample for the benchmark of its name."""
    if source == "sample":
        return (
            f"the bundled sample: our own questions in the manner of {family or 'the benchmark'}, "
            "not the benchmark itself"
        )
    if source.startswith("hub:"):
        return f"the published set, `{source}`"
    return f"the file `{source}`"


def plain(value: Any) -> str | None:
    """JSON in a cell of a Markdown table; None for nothing."""
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|") if value else None


def counts(found: Mapping[str, int] | None) -> str | None:
    """How many of what, in a cell; None for nothing."""
    return "; ".join(f"{count} {reason}" for reason, count in found.items()) if found else None

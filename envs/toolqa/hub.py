"""Published data sets from the hub, split as the first paper split them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolgym._util.optional import quiet, require_extra
from toolgym.errors import BadInputError, MissingFileError
from toolgym.task import RowReader, TaskSet

__all__ = ["PAPER_SEED", "HubSet", "load_hub", "paper_splits"]

PAPER_SEED = 19  # arXiv 2502.05867 shuffles each set with this seed before it cuts


@dataclass(frozen=True)
class HubSet:
    """Where a set lies on the hub, and the paper's cuts.

    Args:
        path: the hub id.
        config: its configuration, or None.
        cuts: our split to ``(hub split, number of rows)``; cuts of one hub split follow one another
            after the shuffle. None as number: all that is left.
    """

    path: str
    config: str | None
    cuts: Mapping[str, tuple[str, int | None]]


def load_hub(hub: HubSet, split: str, reader: RowReader, name: str) -> TaskSet:
    """Load one split through ``datasets`` (its cache serves offline).

    Args:
        hub: what to load.
        split: ``train``, ``validation`` or ``test``.
        reader: turns a row into a task.
        name: the family.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        MissingFileError: neither network nor cache has the set.
        BadInputError: the paper has no such split, or a row cannot be read.
    """
    if split not in hub.cuts:
        raise BadInputError(f"{hub.path} has no split {split!r}; splits: {', '.join(hub.cuts)}")
    datasets = require_extra("datasets", "train")
    hub_split = hub.cuts[split][0]
    try:
        with quiet():
            rows = datasets.load_dataset(hub.path, hub.config, split=hub_split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        # ConnectionError, DatasetNotFoundError, OfflineModeIsEnabled and ValueError are among them
        raise MissingFileError(
            f"{hub.path} ({hub_split}) is neither in the local cache nor can it be fetched "
            f"({type(error).__name__}: {reason}); "
            "use tasks='sample' for the bundled sample, or tasks='path/to/file.jsonl'"
        ) from error
    begin, end = paper_splits(hub, split, len(rows))
    chosen = rows.shuffle(seed=PAPER_SEED).select(range(begin, end))
    # Ids of hub rows may repeat or be numbers: ours are made from the place.
    tasks = [
        reader({**row, "id": f"{name.lower()}-{split}-{number}"}, "")
        for number, row in enumerate(chosen)
    ]
    return TaskSet(tasks, source=f"hub:{hub.path}:{split}", name=name)


def paper_splits(hub: HubSet, split: str, size: int) -> tuple[int, int]:
    """Which shuffled rows of the hub's split make up ours.

    Args:
        hub: the set.
        split: ours.
        size: rows in the hub's split.

    Returns:
        First row and the row after the last.
    """
    hub_split, begin = hub.cuts[split][0], 0
    for name, (source, count) in hub.cuts.items():
        if source != hub_split:
            continue
        end = size if count is None else min(size, begin + count)
        if name == split:
            return begin, end
        begin = end
    raise BadInputError(f"{hub.path} has no split {split!r}")

"""Export: recorded episodes as rows that TRL trains on, with a card; TRL itself is not needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolgym._util.frames import SUFFIX
from toolgym._util.jsonl import dump_line, write_lines, write_rows, write_text
from toolgym._util.notebook import folded, fragment, quoted
from toolgym._util.optional import require_extra
from toolgym._util.spool import Spool
from toolgym._util.text import shortened
from toolgym.data.chat import LearnAs, conversation, learned, prefix_rows, row_spool, style_of
from toolgym.data.conditions import condition
from toolgym.data.lineage import Origins, link_rows
from toolgym.data.pairs import Balance, Groups, pair_row, pairs_of
from toolgym.errors import BadInputError, did_you_mean
from toolgym.rollouts.recording import Episodes, Recording, open_recording
from toolgym.rollouts.tables import counts, dataset_of_rows, hub_card, origin_facts, plain
from toolgym.trajectory import EpisodeSpool, Trajectory

__all__ = ["IGNORED", "KINDS", "Rows", "export", "message_rows", "token_row", "token_rows"]

KINDS = ("sft", "dpo", "prefixes")
_KINDS = {
    "sft": "conversations (SFT)",
    "dpo": "preference pairs (DPO)",
    "prefixes": "prefixes of episodes, each with its next turn",
}
IGNORED = -100
"""The label of a token that takes no part in the loss."""
_SHOWN = 4000  # characters of a row in a notebook


@dataclass
class Rows:
    """Training rows.

    Args:
        rows: plain JSON values; many of them lie on disk, and are read when they are looked at.
        kind: one of `KINDS`.
        about: style, pairing, counts, and the origin of the episodes.
        dropped: for ``dpo`` questions, else episodes (or turns) that gave no row, by reason.
        origins: which episodes they were made of, where that is known.
    """

    rows: Sequence[dict[str, Any]]
    kind: str
    about: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    origins: Origins | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def __repr__(self) -> str:
        return f"Rows({len(self.rows)} {_KINDS[self.kind]})"

    def _repr_html_(self) -> str:
        lines = [
            f"{self.about.get('episodes', '?')} episodes; {counts(self.dropped) or 'no'} dropped"
        ]
        first = json.dumps(self.rows[0], indent=2, ensure_ascii=False) if self.rows else ""
        below = folded("The first row", quoted(shortened(first, _SHOWN)))
        return fragment(lines, title=repr(self), below=below)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row each.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return require_extra("pandas", "plot").DataFrame(list(self.rows))

    def to_dataset(self) -> Any:
        """A `datasets.Dataset` with a row each; it lies on disk, not in memory.

        Raises:
            MissingExtraError: datasets is not installed.
        """
        return dataset_of_rows(map(dump_line, self.rows))

    def write(self, path: str | Path) -> Path:
        """Write the rows as JSON lines with a card beside them.

        Where the episodes stand in files, ``<stem>.lineage`` and ``<stem>.links`` say by hashes
        which of them each row was made of, for `toolgym.data.tracing.trace`.

        Args:
            path: a ``.jsonl`` file (``.jsonl.zst``: compressed with zstd), whose card is
                ``<its stem>.md``; or a folder, which gets ``train.jsonl`` and ``README.md`` as the
                hub shows it.

        Returns:
            The file of rows.
        """
        target = Path(path)
        single = target.name.endswith((".jsonl", ".jsonl" + SUFFIX))
        file = target if single else target / "train.jsonl"
        stem = target.name.removesuffix(SUFFIX).removesuffix(".jsonl")
        card = target.with_name(stem + ".md") if single else target / "README.md"
        if isinstance(self.rows, Spool):
            write_lines(file, self.rows.lines())
        else:
            write_rows(file, self.rows)
        write_text(card, self.card(file.name))
        link_rows(file, [self.traced()])
        return file

    def traced(self) -> Origins | None:
        """Which episodes these rows were made of; other rows than were exported have none."""
        return self.origins if self.origins and self.origins.rows is self.rows else None

    def card(self, file: str) -> str:
        """The data set card: what the rows are and where they come from.

        Args:
            file: name of the file of rows.
        """
        return card_text(self, file)


def export(
    source: Recording,
    kind: str = "sft",
    *,
    style: str = "auto",
    reasoning: bool = True,
    pairing: str = "first_turn",
    where: str | None = None,
    per_task: int | None = None,
    learn_as: LearnAs | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> Rows:
    """Recorded episodes as rows in TRL's conversational format.

    Args:
        source: a run, a selection, the path of either, trajectories, or a list of runs. Pairs for
            ``dpo`` need right and wrong episodes of a question: several samples per task, or a run
            with tools and one without.
        kind: ``sft``: rows of ``messages``; ``dpo``: rows of ``prompt``, ``chosen``, ``rejected``;
            ``prefixes``: a row a turn, see `toolgym.data.chat.prefix_rows`.
        style: ``as_played``, ``native``, or ``auto``: native for formats of tool-calling models
            (``hermes``), else as played. Native rows have a ``tools`` column (a JSON string).
        reasoning: keep what replies hold between marks such as ``<think>``; False leaves it out of
            every reply.
        pairing: for ``dpo``, see `toolgym.data.pairs.make_pairs`.
        where: which episodes are taken, see `toolgym.data.conditions`; None: all that there are.
            For ``dpo``: which are right; None: ``accuracy>=1``.
        per_task: for ``dpo``: most pairs of one question.
        learn_as: the prompt of the rows, such as ``{"examples": 0}`` for episodes that were played
            with worked examples, or ``{"prompt": "bare"}``; the replies stay as they are. Rows
            are as played then, never native.
        out: write there too, see `Rows.write`.

    Returns:
        The rows.

    Raises:
        BadInputError: an unknown kind, style or pairing, or no row can be made.
        MissingFileError: the path holds no episodes.
    """
    if kind not in KINDS:
        known = ", ".join(map(repr, KINDS))
        raise BadInputError(
            f"kind must be one of {known}, not {kind!r}{did_you_mean(str(kind), KINDS)}"
        )
    episodes = open_recording(source)
    about: dict[str, Any] = {"episodes": 0, "style": style, "origin": episodes.origin}
    about["reasoning"] = "kept" if reasoning else "left out"
    anew = LearnAs.read(learn_as)
    shape: Any = {"style": style, "reasoning": reasoning, "learn_as": anew}

    right = where if where is not None else "accuracy>=1"
    if where is not None or kind == "dpo":
        about["where"] = right
    rows, spool = row_spool(), EpisodeSpool(episodes.held)
    origins = Origins(episodes, spool if kind == "dpo" else rows)
    taken = _Taken(episodes, None if kind == "dpo" else where, origins)

    if kind != "dpo":
        made_of = message_rows if kind == "sft" else prefix_rows
        _, dropped = made_of(taken, rows=rows, **shape)
    else:
        about |= {"pairing": pairing, "per_task": per_task}
        sides, dropped = Balance(), Counter[str]()
        holds = condition(right, episodes)
        groups = Groups(taken, spool)
        for pair in pairs_of(groups, holds, dropped, pairing=pairing, per_task=per_task):
            rows.append(pair_row(pair, style, reasoning, anew))
            origins.pair(groups.place(pair.chosen), groups.place(pair.rejected))
            sides.add(pair)
        about["balance"] = sides.told()
    origins.rows = rows
    about["episodes"] = taken.count
    left = {f"not {where}": taken.left} if taken.left else {}
    if anew is not None:
        notes = Counter(row["learn_as"] for row in rows if "learn_as" in row)
        about["learn_as"] = {f"{note} ({n} of {len(rows)} rows)": n for note, n in notes.items()}
    made = Rows(rows, kind, about, dict(dropped) | left, origins)
    if out is not None:
        made.write(out)
    return made


class _Taken:
    """The episodes that a condition holds for, counted while they are read.

    Args:
        episodes: all that there are.
        where: the condition; None: none is left out.
        read: they, as they are to be read.
    """

    def __init__(self, episodes: Episodes, where: str | None, read: Iterable[Trajectory]) -> None:
        self.count = self.left = 0
        self._episodes, self._where = read, where
        self._holds = None if where is None else condition(where, episodes)

    def __iter__(self) -> Iterator[Trajectory]:
        for trajectory in self._episodes:
            self.count += 1
            if self._holds is None or self._holds(trajectory):
                yield trajectory
            else:
                self.left += 1
        if self.left and self.left == self.count:
            raise BadInputError(f"none of {self.left} episodes is {self._where!r}: loosen where")


def message_rows(
    trajectories: Iterable[Trajectory],
    *,
    style: str = "auto",
    reasoning: bool = True,
    learn_as: LearnAs | None = None,
    rows: Spool[dict[str, Any]] | None = None,
) -> tuple[Spool[dict[str, Any]], dict[str, int]]:
    """SFT rows of ``id``, ``messages`` and, in native style, ``tools``.

    Episodes with worked examples give ``prompt`` and ``completion`` in place of ``messages``: the
    examples' replies must take no part in the loss.

    Args:
        trajectories: what to train on.
        style: see `export`.
        reasoning: see `export`.
        learn_as: see `toolgym.data.chat.learned`; rows that it changed say so.
        rows: an empty spool for them; None: a new one.

    Returns:
        The rows, and the number of episodes without any reply, by reason.

    Raises:
        BadInputError: no row can be made.
    """
    rows = row_spool() if rows is None else rows
    count = silent = 0
    for trajectory in trajectories:
        count += 1
        chosen = style_of(trajectory, style, learn_as)
        if trajectory.opening == len(trajectory.messages):
            silent += 1
            continue
        played, note = learned(trajectory, learn_as)
        opening, rest, tools = conversation(played, chosen, reasoning)
        row: dict[str, Any] = {"id": trajectory.id}
        if any(chat["role"] == "assistant" for chat in opening):
            row |= {"prompt": opening, "completion": rest}
        else:
            row["messages"] = opening + rest
        row |= {"learn_as": note} if note else {}
        rows.append(row if tools is None else {**row, "tools": tools})
    if not rows:
        raise BadInputError(f"no row can be made: {count} episodes, {silent} without a reply")
    return rows, {"no reply": silent} if silent else {}


def token_row(trajectory: Trajectory) -> dict[str, Any]:
    """An episode as the tokens that the policy read and wrote; nothing is tokenised again.

    Returns:
        ``input_ids`` and ``labels`` ([prompt + completion] ints; `IGNORED` on prompt and tool
        output), ``texts`` (the replies that the labels must decode to) and the ``tokenizer``'s
        hash; ``guided`` where a grammar held the replies, which training may then write in other
        tokens.

    Raises:
        BadInputError: the episode was recorded without tokens.
    """
    tokens = trajectory.tokens
    if tokens is None:
        raise BadInputError(
            f"episode {trajectory.id!r} was recorded without tokens; export its messages instead"
        )
    written = [
        token if mine else IGNORED
        for token, mine in zip(tokens.completion_ids, tokens.mask, strict=True)
    ]
    row = {
        "id": trajectory.id,
        "input_ids": tokens.prompt_ids + tokens.completion_ids,
        "labels": [IGNORED] * len(tokens.prompt_ids) + written,
        "texts": [step.action for step in trajectory.steps],
        "tokenizer": tokens.tokenizer,
    }
    return row | {"guided": True} if tokens.guided else row


def token_rows(trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """Token-exact SFT rows, see `token_row`.

    Raises:
        BadInputError: some were recorded without tokens; the message says how many.
    """
    without = [trajectory.id for trajectory in trajectories if trajectory.tokens is None]
    if without:
        raise BadInputError(
            f"{len(without)} of {len(trajectories)} episodes were recorded without tokens (such as "
            f"{without[0]!r}): their policy does not say them, or its chat template rewrites "
            "earlier turns; export messages instead"
        )
    return [token_row(trajectory) for trajectory in trajectories]


def card_text(rows: Rows, file: str) -> str:
    """Markdown of a data set card, with the header that the hub reads."""
    about = rows.about
    facts = {
        "Kind": _KINDS[rows.kind],
        "Rows": len(rows),
        "Made from": f"{about.get('episodes', '?')} recorded episodes",
        "Style": about.get("style"),
        "Reasoning": about.get("reasoning"),
        "Prompt": "; ".join(about.get("learn_as", ())),
        "Pairing": about.get("pairing"),
        "Counted as right" if rows.kind == "dpo" else "Taken": about.get("where"),
        "Balance": plain({k: v for k, v in dict(about.get("balance", {})).items() if v}),
        **origin_facts(about.get("origin", {})),
        "No row from": counts(rows.dropped),
    }
    load = f'datasets.load_dataset("json", data_files="{file}", split="train")'
    below = (
        f"Load with `{load}`. Every text of the assistant was written by the policy named above; "
        "nobody has read it."
    )
    return hub_card("Training rows written by toolgym", file, len(rows), facts, below)

"""Preference pairs: two episodes of one question, of which one is to be preferred."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from toolgym._util.spool import Spool
from toolgym.data.chat import LearnAs, conversation, learned, style_of
from toolgym.errors import BadInputError, did_you_mean
from toolgym.trajectory import EpisodeSpool, Trajectory

__all__ = [
    *("PAIRINGS", "Balance", "Groups", "Pair", "balance", "make_pairs", "pair_row", "pairs_of"),
    "token_pair_row",
]

PAPER = ("first_turn", "whole", "no_tool_request")
PAIRINGS = (*PAPER, "right_wrong", "first_divergence", "fewer_calls")

Right = Callable[[Trajectory], bool]
_BIASED = 1.5  # one side this many times longer than the other teaches length
_ONE_SIDED = 0.75  # share of pairs in which the same side is the longer one


@dataclass(frozen=True, slots=True)
class Pair:
    """Two episodes of one question, compared from some turn on.

    Args:
        chosen: the better one.
        rejected: the other.
        shared: turns that both begin with; they stand in the prompt.
        turns: how many turns after those are compared; None = all.
    """

    chosen: Trajectory
    rejected: Trajectory
    shared: int = 0
    turns: int | None = None

    def said(self, trajectory: Trajectory) -> tuple[str, ...]:
        """The replies that are compared."""
        return _said(trajectory, self.shared, self.turns)


def make_pairs(
    trajectories: Sequence[Trajectory], right: Right, *, pairing: str, per_task: int | None
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of episodes of the same question, by one of `PAIRINGS`.

    The first three are those of arXiv 2502.05867 (Filtering). Chosen: right, called a tool, and no
    result is an error. Rejected: wrong, and without any call. The paper looks for the word "Error"
    in results; here the recorded kind of failure decides, so that a document about errors is none.

    Args:
        trajectories: right and wrong ones.
        right: tells them apart.
        pairing: ``first_turn`` compares the first assistant turn only; ``whole`` all after the
            question; ``no_tool_request`` is ``whole`` where chosen need not use tools;
            ``right_wrong`` takes any right and any wrong episode; ``first_divergence`` those that
            begin alike, and compares the first turn that differs; ``fewer_calls`` takes right
            ones only and prefers fewer calls.
        per_task: most pairs of one question; None = as many as both sides have.

    Returns:
        The pairs, and the number of questions that gave none, by the first condition that nothing
        met.

    Raises:
        BadInputError: an unknown pairing, or no pair at all; the message says which condition
            removed how many questions.
    """
    dropped: Counter[str] = Counter()
    held: Spool[Trajectory] = EpisodeSpool(held=True)
    groups = Groups(trajectories, held)
    pairs = pairs_of(groups, right, dropped, pairing=pairing, per_task=per_task)
    return list(pairs), dict(dropped)


class Groups:
    """Episodes by their question, of which one question's are held at a time.

    Args:
        trajectories: all of them; read at once.
        spool: an empty one, where they are kept.
    """

    def __init__(self, trajectories: Iterable[Trajectory], spool: Spool[Trajectory]) -> None:
        self._spool = spool
        self._now: list[tuple[int, Trajectory]] = []
        self._places: dict[tuple[str, str], array[int]] = {}
        for trajectory in trajectories:
            key = trajectory.task.id, trajectory.task.question
            places = self._places.setdefault(key, array("q"))
            if trajectory.steps:
                places.append(len(spool))
                spool.append(trajectory)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[list[Trajectory]]:
        for places in self._places.values():
            self._now = [(place, self._spool[place]) for place in places]
            yield [trajectory for _, trajectory in self._now]

    def place(self, trajectory: Trajectory) -> int:
        """Where in the spool an episode stands, of the question that was given last."""
        return next(place for place, each in self._now if each is trajectory)


def pairs_of(
    groups: Groups, right: Right, dropped: Counter[str], *, pairing: str, per_task: int | None
) -> Iterator[Pair]:
    """The pairs of `make_pairs`, one question after the other.

    Args:
        groups: episodes by question.
        right: see `make_pairs`.
        dropped: counts the questions that gave none, by reason.
        pairing: see `make_pairs`.
        per_task: see `make_pairs`.

    Raises:
        BadInputError: see `make_pairs`.
    """
    if pairing not in PAIRINGS:
        raise BadInputError(
            f"pairing must be one of {', '.join(PAIRINGS)}, not {pairing!r}"
            f"{did_you_mean(str(pairing), PAIRINGS)}"
        )
    any_pair = False
    for group in groups:
        chosen, rejected, missing = _sides(group, right, pairing)
        found = [] if missing else list(islice(_paired(chosen, rejected, pairing), per_task))
        if not found:
            dropped[missing or "chosen and rejected read the same"] += 1
        any_pair = any_pair or bool(found)
        yield from found
    if not any_pair:
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise BadInputError(
            f"no pair can be made from {len(groups)} questions: {reasons or 'there are none'}; "
            "record more samples per task, or export the run together with one without tools "
            "(prompt no_tool) over the same questions"
        )


def _sides(
    group: list[Trajectory], right: Right, pairing: str
) -> tuple[list[Trajectory], list[Trajectory], str]:
    """Candidates for both sides, and what is missing (empty when nothing is)."""
    chosen = [trajectory for trajectory in group if right(trajectory)]
    if not chosen:
        return [], [], "without a right episode"
    if pairing == "fewer_calls":
        chosen.sort(key=_calls)
        alike = _calls(chosen[0]) == _calls(chosen[-1])
        return chosen, chosen[::-1], "whose right episodes all call equally often" if alike else ""
    if pairing in ("first_turn", "whole"):
        chosen = [trajectory for trajectory in chosen if _calls(trajectory)]
        if not chosen:
            return [], [], "whose right episodes used no tool"
    if pairing in PAPER:
        chosen = [t for t in chosen if all(result.error is None for _, result in t.calls)]
        if not chosen:
            return [], [], "whose right episodes met a tool error"
    wrong = [trajectory for trajectory in group if not right(trajectory)]
    if not wrong:
        return [], [], "without a wrong episode"
    if pairing not in PAPER:
        return chosen, wrong, ""
    rejected = [trajectory for trajectory in wrong if not _calls(trajectory)]
    return chosen, rejected, "" if rejected else "whose wrong episodes all called a tool"


def _paired(chosen: list[Trajectory], rejected: list[Trajectory], pairing: str) -> Iterator[Pair]:
    if pairing == "first_divergence":
        yield from _diverging(chosen, rejected)
        return
    turns = 1 if pairing == "first_turn" else None
    sides = (_distinct(chosen, turns), _distinct(rejected, turns))
    for better, worse in zip(*sides, strict=False):
        pair = Pair(better, worse, 0, turns)
        if pairing == "fewer_calls" and _calls(better) >= _calls(worse):
            return  # one list ascends, the other falls: no further pair differs
        if pair.said(better) != pair.said(worse):
            yield pair


def _diverging(chosen: list[Trajectory], rejected: list[Trajectory]) -> Iterator[Pair]:
    """Each right episode beside the wrong one that left its way last."""
    seen: set[tuple[Any, ...]] = set()
    for better in chosen:
        ways = [(_shared(better, worse), worse) for worse in rejected]
        ways = [
            (shared, worse)
            for shared, worse in ways
            if shared < min(len(better.steps), len(worse.steps))
        ]
        if not ways:
            continue
        shared, worse = max(ways, key=lambda way: way[0])
        pair = Pair(better, worse, shared, 1)
        key = (_said(better, 0, shared), pair.said(better), pair.said(worse))
        if key not in seen and key[1] != key[2]:
            seen.add(key)
            yield pair


def _shared(one: Trajectory, other: Trajectory) -> int:
    """Turns at the beginning that were said, and answered, the same."""
    count = 0
    for a, b in zip(one.steps, other.steps, strict=False):
        if (a.action, a.observation) != (b.action, b.observation):
            break
        count += 1
    # Without the same opening nothing is shared, not even the question's wording.
    return count if one.messages[: one.opening] == other.messages[: other.opening] else 0


def _calls(trajectory: Trajectory) -> int:
    return sum(len(step.calls) for step in trajectory.steps)


def _said(trajectory: Trajectory, begin: int, turns: int | None) -> tuple[str, ...]:
    end = None if turns is None else begin + turns
    return tuple(step.action for step in trajectory.steps[begin:end])


def _distinct(trajectories: list[Trajectory], turns: int | None) -> list[Trajectory]:
    """The side's episodes, each text once."""
    found: dict[tuple[str, ...], Trajectory] = {}
    for trajectory in trajectories:
        found.setdefault(_said(trajectory, 0, turns), trajectory)
    return list(found.values())


def pair_row(
    pair: Pair, style: str, reasoning: bool = True, learn_as: LearnAs | None = None
) -> dict[str, Any]:
    """A pair as TRL's ``prompt``, ``chosen``, ``rejected`` (and ``tools``) in messages.

    Args:
        pair: from `make_pairs`.
        style: see `toolgym.data.chat`.
        reasoning: see `toolgym.data.export.export`.
        learn_as: see `toolgym.data.chat.learned`.
    """
    chosen, note = learned(pair.chosen, learn_as)
    opening, rest, tools = conversation(chosen, style_of(chosen, style, learn_as), reasoning)
    # The rejected side has the opening of the chosen one.
    side = style_of(pair.rejected, style, learn_as)
    _, other, _ = conversation(pair.rejected, side, reasoning)
    begin = _turn_place(rest, pair.shared)
    row: dict[str, Any] = {
        "id": pair.chosen.id,
        "rejected_id": pair.rejected.id,
        "prompt": opening + rest[:begin],
        "chosen": _compared(rest, pair),
        "rejected": _compared(other, pair),
    }
    row |= {"learn_as": note} if note else {}
    return row if tools is None else {**row, "tools": tools}


def _compared(chats: list[dict[str, Any]], pair: Pair) -> list[dict[str, Any]]:
    begin = _turn_place(chats, pair.shared)
    return chats[begin : begin + 1] if pair.turns == 1 else chats[begin:]


def _turn_place(chats: list[dict[str, Any]], turn: int) -> int:
    """Where the n-th reply stands among messages that begin with the first one."""
    places = [place for place, chat in enumerate(chats) if chat["role"] == "assistant"]
    return places[turn]


def token_pair_row(pair: Pair) -> dict[str, Any] | None:
    """A pair as the tokens that were read and written; None where one side has none.

    Returns:
        ``prompt_ids``, ``chosen_ids``, ``rejected_ids`` ([tokens] each), ``chosen_mask`` and
        ``rejected_mask`` (1 = written by the policy), and the ``tokenizer``'s hash; ``guided`` as
        in `toolgym.data.export.token_row`.
    """
    one, other = pair.chosen.tokens, pair.rejected.tokens
    if one is None or other is None or one.tokenizer != other.tokenizer:
        return None
    row: dict[str, Any] = {"id": pair.chosen.id, "rejected_id": pair.rejected.id}
    for side, tokens in (("chosen", one), ("rejected", other)):
        spans = _spans(tokens.mask)
        last = len(spans) if pair.turns is None else pair.shared + pair.turns
        begin, end = spans[pair.shared][0], spans[last - 1][1]
        if side == "chosen":
            row["prompt_ids"] = tokens.prompt_ids + tokens.completion_ids[:begin]
        row[f"{side}_ids"] = tokens.completion_ids[begin:end]
        row[f"{side}_mask"] = tokens.mask[begin:end]
    row["tokenizer"] = one.tokenizer
    return row | {"guided": True} if one.guided or other.guided else row


def _spans(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Begin and end of each reply."""
    edges = [n for n, (a, b) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))


def balance(pairs: Iterable[Pair]) -> dict[str, Any]:
    """What else than quality tells the sides of pairs apart; see `Balance.told`."""
    sides = Balance()
    for pair in pairs:
        sides.add(pair)
    return sides.told()


class Balance:
    """What else than quality tells the sides apart, counted pair by pair."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def add(self, pair: Pair) -> None:
        """Count a pair."""
        lengths = []
        for side, episode in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            said = pair.said(episode)
            lengths.append(sum(map(len, said)))
            self._sums[f"{side}_characters"] += lengths[-1]
            self._sums[f"{side}_turns"] += len(said)
            self._sums[f"{side}_calls"] += _calls(episode)
        self._sums["pairs"] += 1
        self._sums["longer"] += lengths[0] > lengths[1]
        self._sums["shorter"] += lengths[0] < lengths[1]

    def told(self) -> dict[str, Any]:
        """The figures, of at least one pair.

        Returns:
            Means of calls, turns and characters of the replies on both sides, the share of pairs
            whose chosen side is longer, and ``warning``: a sentence, or empty: a model learns that,
            too.
        """
        mean = {name: count / self._sums["pairs"] for name, count in self._sums.items()}
        found: dict[str, Any] = {}
        for side in ("chosen", "rejected"):
            found[f"{side}_characters"] = round(mean[f"{side}_characters"], 1)
            found[f"{side}_turns"] = round(mean[f"{side}_turns"], 2)
            found[f"{side}_calls"] = round(mean[f"{side}_calls"], 2)
        found["chosen_longer"] = round(mean["longer"], 3)
        ratio = found["chosen_characters"] / max(1.0, found["rejected_characters"])
        share, which = max((mean["longer"], "longer"), (mean["shorter"], "shorter"))
        biased = share >= _ONE_SIDED and max(ratio, 1 / max(ratio, 1e-9)) >= _BIASED
        found["warning"] = (
            f"the chosen side is {which} in {share:.0%} of pairs ({ratio:.1f} times the "
            "characters): a model may learn the length; pairing 'first_divergence' compares turns "
            "of like place"
            if biased
            else ""
        )
        return found

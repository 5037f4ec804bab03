"""The miniature's world: arithmetic for the calculator, facts on invented entities for the search.

Numbers and entities come in three disjoint splits: "demo" (what the base model is shown), "train"
(what it practises on) and "test". The same seed gives the same world and the same files.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from toolgym.errors import BadInputError
from toolgym.miniature import phrasings
from toolgym.miniature.problems import Kind, Problem, calculate, expression, fact, person

Split = Literal["demo", "train", "test"]

SPLITS: Final[tuple[Split, ...]] = ("demo", "train", "test")
KINDS: Final[tuple[Kind, ...]] = ("arithmetic", "entities")
ARITHMETIC_SHARE: Final = 0.6
CALCULATOR: Final = "Calculator"
SEARCH: Final = "WikipediaSearch"
SMALLEST, LARGEST = 11, 99


class World:
    """A seeded world of numbers and entities.

    Args:
        seed: decides names, facts and which numbers belong to which split.

    Attributes:
        facts: every entity's relations and the people they lead to.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        rng = random.Random(f"world-{seed}")
        names = [
            f"{adjective} {noun}" for adjective in phrasings.ADJECTIVES for noun in phrasings.NOUNS
        ]
        rng.shuffle(names)
        self.facts: Mapping[str, Mapping[str, str]] = {
            name: {relation: person(rng) for relation in phrasings.RELATIONS} for name in names
        }
        self._entities = {
            split: tuple(names[place :: len(SPLITS)]) for place, split in enumerate(SPLITS)
        }

    def entities(self, split: Split) -> tuple[str, ...]:
        """The entities of a split: 300 each, none in two splits."""
        return self._entities[split]

    def split_of(self, numbers: Sequence[int]) -> Split:
        """The one split in which these numbers, in this order, may be asked about."""
        text = f"{self.seed}:" + ",".join(map(str, numbers))
        return SPLITS[zlib.crc32(text.encode()) % len(SPLITS)]

    def problem(
        self, rng: random.Random, split: Split, kind: Kind | None = None, *, held_out: bool = False
    ) -> Problem:
        """Draw one problem.

        Args:
            rng: where the draws come from.
            split: whose numbers and entities to use.
            kind: "arithmetic", "entities", or None for a draw with 60 % arithmetic.
            held_out: whether to use the held-out phrasings instead of the usual ones.
        """
        if kind is None:
            kind = "arithmetic" if rng.random() < ARITHMETIC_SHARE else "entities"
        if kind == "arithmetic":
            return self._arithmetic(rng, split, held_out)
        return self._entity(rng, split, held_out)

    def problems(
        self,
        rng: random.Random,
        split: Split,
        count: int,
        kind: Kind | None = None,
        *,
        held_out: bool = False,
    ) -> list[Problem]:
        """Draw `count` problems, no question twice.

        Raises:
            BadInputError: the world does not hold that many different questions of this sort.
        """
        found: dict[str, Problem] = {}
        for _ in range(20 * count + 100):
            if len(found) == count:
                return list(found.values())
            drawn = self.problem(rng, split, kind, held_out=held_out)
            found.setdefault(drawn.question, drawn)
        raise BadInputError(
            f"only {len(found)} different {kind or 'mixed'} questions were found in split "
            f"{split!r}, not {count}: ask for fewer"
        )

    def passages(self) -> list[dict[str, str]]:
        """One passage a fact, as rows for a search index: `id`, `title` (empty), `text`."""
        rows = [
            fact(relation, entity, self.facts[entity][relation])
            for entity in self.facts
            for relation in phrasings.RELATIONS
        ]
        return [
            {"id": f"fact-{place}", "title": "", "text": text} for place, text in enumerate(rows)
        ]

    def write(self, folder: str | Path, train: int = 500, test: int = 500) -> dict[str, Path]:
        """Write the task files and the passages.

        Args:
            folder: where to; it is made if it is not there.
            train: number of training questions, 60 % of them arithmetic.
            test: number of test questions, and of test questions with held-out phrasings; 60 %
                arithmetic.

        Returns:
            Paths by name: "arithmetic-train", "arithmetic-test", "arithmetic-heldout", the same
            three for "entities" (rows of `id`, `question`, `answers`), and "passages" (rows of
            `id`, `title`, `text`).

        Raises:
            BadInputError: more questions are asked for than the world holds.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths: dict[str, Path] = {}
        files: tuple[tuple[str, Split, int], ...] = (
            ("train", "train", train),
            ("test", "test", test),
            ("heldout", "test", test),
        )
        for name, split, count in files:
            arithmetic = round(count * ARITHMETIC_SHARE)
            for kind, part in zip(KINDS, (arithmetic, count - arithmetic), strict=True):
                key = f"{kind}-{name}"
                # Each file has its own stream, so that asking for more of one leaves the others as
                # they are.
                rng = random.Random(f"{self.seed}-{key}")
                drawn = self.problems(rng, split, part, kind, held_out=name == "heldout")
                rows = [
                    {"id": f"{key}-{place}", "question": each.question, "answers": [each.answer]}
                    for place, each in enumerate(drawn)
                ]
                paths[key] = _write_rows(folder / f"{key}.jsonl", rows)
        paths["passages"] = _write_rows(folder / "passages.jsonl", self.passages())
        return paths

    def _arithmetic(self, rng: random.Random, split: Split, held_out: bool) -> Problem:
        symbols = rng.choice(tuple(phrasings.ARITHMETIC))
        while True:
            numbers = tuple(rng.randint(SMALLEST, LARGEST) for _ in range(len(symbols) + 1))
            if symbols == "-":
                numbers = tuple(sorted(numbers, reverse=True))
            if self.split_of(numbers) == split:
                break
        question = _phrasing(rng, phrasings.ARITHMETIC[symbols], held_out).format(
            n=rng.choice(phrasings.PEOPLE),
            o=rng.choice(phrasings.OBJECTS),
            **dict(zip("abc", numbers, strict=False)),
        )
        return Problem(
            kind="arithmetic",
            family=symbols,
            question=question,
            answer=str(calculate(numbers, symbols)),
            tool=CALCULATOR,
            argument=expression(numbers, symbols),
            numbers=numbers,
            held_out=held_out,
        )

    def _entity(self, rng: random.Random, split: Split, held_out: bool) -> Problem:
        entity = rng.choice(self.entities(split))
        relation = rng.choice(tuple(phrasings.RELATIONS))
        question = _phrasing(rng, phrasings.ENTITY, held_out).format(
            r=relation, v=phrasings.RELATIONS[relation], e=entity
        )
        return Problem(
            kind="entities",
            family=relation,
            question=question,
            answer=self.facts[entity][relation],
            tool=SEARCH,
            argument=f"{relation} of {entity}",
            entity=entity,
            held_out=held_out,
        )


def _phrasing(rng: random.Random, all_of_them: Sequence[str], held_out: bool) -> str:
    shown = len(all_of_them) - phrasings.HELD_OUT
    return rng.choice(all_of_them[shown:] if held_out else all_of_them[:shown])


def _write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path

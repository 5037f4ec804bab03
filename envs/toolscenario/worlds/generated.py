"""Generated worlds: invented countries, towns, people and things, with facts that fit together."""

from __future__ import annotations

import datetime
import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from importlib import resources

from toolgym.envs.toolscenario.worlds.knowledge import Triple, Value
from toolgym.errors import BadInputError

__all__ = ["SMALLEST", "Names", "Sound", "generate"]

_TABLES = json.loads(resources.files(__package__).joinpath("names.json").read_text("utf-8"))
_BLOCKED = frozenset(_TABLES["real"])  # names of real places, people and firms
# Codes that an invented currency may not have: real ones, and some that nobody wants to read.
_TAKEN_CODES = frozenset(_TABLES["codes"])


class Sound:
    """How names of one country sound.

    Args:
        rng: draws the sound.
    """

    def __init__(self, rng: random.Random) -> None:
        self.family = rng.randrange(len(_TABLES["onsets"]))
        self.onsets = rng.sample(_TABLES["onsets"][self.family], 9)
        self.simple = [onset for onset in self.onsets if len(onset) == 1]
        self.codas = _TABLES["codas"][self.family]

    def stem(self, rng: random.Random, syllables: int) -> str:
        """Some syllables; the last one is open, so that an ending can follow."""
        parts = []
        for place in range(syllables):
            closed = place < syllables - 1 and rng.random() < 0.4
            coda = rng.choice(self.codas) if closed else ""
            onset = rng.choice(self.onsets if place == 0 else self.simple)
            parts.append(onset + rng.choice(_TABLES["vowels"][self.family]) + coda)
        return "".join(parts)


class Names:
    """Names of which each is given once.

    Args:
        rng: draws the names.
        blocked: folded words that no name may have.
    """

    def __init__(self, rng: random.Random, blocked: frozenset[str] = frozenset()) -> None:
        self.rng = rng
        self.blocked = _BLOCKED | blocked
        self.used: set[str] = set()

    def _word(self, sound: Sound, endings: tuple[str, ...], least: int = 1, most: int = 2) -> str:
        while True:
            stem = sound.stem(self.rng, self.rng.randint(least, most))
            ending = self.rng.choice(endings)
            vowels = "aeiouyøå"
            if stem[-1] in vowels and ending[0] in vowels:
                stem += self.rng.choice("nrlvdtms")
            word = stem + ending
            doubled = any(a == b == c for a, b, c in zip(word, word[1:], word[2:], strict=False))
            if 5 <= len(word) <= 12 and word not in self.blocked and not doubled:
                return word.capitalize()

    def _once(self, write: str, sound: Sound, endings: tuple[str, ...], most: int = 2) -> str:
        tries = 0
        while True:
            name = write.format(n=self._word(sound, endings, 1, most + tries // 50))
            tries += 1
            if name not in self.used:
                self.used.add(name)
                return name

    def country(self, sound: Sound) -> str:
        """A country."""
        return self._once("{n}", sound, _TABLES["lands"])

    def town(self, sound: Sound) -> str:
        """A town."""
        return self._once("{n}", sound, _TABLES["towns"][sound.family])

    def person(self, sound: Sound) -> str:
        """A person: two invented names."""
        first = self._word(sound, ("a", "o", "e", "in", "an", "el", "is"), 1, 2)
        return self._once(first + " {n}", sound, _TABLES["families"][sound.family])

    def language(self, sound: Sound) -> str:
        """A language."""
        return self._once("{n}", sound, ("ian", "ese", "ish", "ic"))

    def plain(self, sound: Sound, write: str = "{n}") -> str:
        """A name for anything else.

        Args:
            sound: of its country.
            write: with ``{n}`` where the invented word stands.
        """
        return self._once(write, sound, ("a", "o", "is", "us", "en", "ar", "ix", "on"))

    def code(self) -> str:
        """Three capital letters that no real currency has."""
        while True:
            code = "".join(self.rng.choice("BCDFGHJKLMNPQRSTVWXZ") for _ in range(3))
            if code not in _TAKEN_CODES and code not in self.used:
                self.used.add(code)
                return code


SMALLEST = 120
"""Entities below which too few questions could be asked."""

_SHARES = {
    **{"person": 0.22, "city": 0.24, "book": 0.09, "film": 0.09, "company": 0.08, "product": 0.07},
    **{"university": 0.04, "river": 0.05, "mountain": 0.05, "ship": 0.04, "observatory": 0.03},
    "bridge": 0.03,
}


@dataclass
class _Land:
    name: str
    sound: Sound
    centre: tuple[float, float]
    towns: list[str] = field(default_factory=list)


@dataclass
class _Person:
    name: str
    born: datetime.date
    died: datetime.date | None

    def active(self, rng: random.Random) -> int:
        """A year in which this person did something."""
        last = min(self.died.year if self.died else 2019, self.born.year + 70, 2019)
        return rng.randint(min(self.born.year + 22, last), last)


class _World:
    def __init__(self, seed: int, size: int) -> None:
        self.rng = random.Random(f"world-{seed}-{size}")
        self.names = Names(self.rng)
        self.rows: list[Triple] = []
        self.counts = {kind: max(8, round(share * size)) for kind, share in _SHARES.items()}
        self.counts["country"] = max(5, round(size * 0.016))
        self.numbers: dict[str, set[Value]] = defaultdict(set)
        self.lands: list[_Land] = []
        self.towns: dict[str, _Land] = {}
        self.founded: dict[str, int] = {}
        self.people: list[_Person] = []
        self.companies: dict[str, int] = {}

    def add(self, subject: str, kind: str, **facts: Value) -> None:
        for relation, value in facts.items():
            self.rows.append(Triple(subject, relation, value, subject_type=kind))

    def number(self, what: str, low: int, high: int) -> int:
        """A number that is not round and that no other entity has for this."""
        span, seen = high - low, self.numbers[what]
        while True:
            value = low + int(span * self.rng.random() ** 2)
            if value % 10 and value not in seen:
                seen.add(value)
                return value
            span += 1  # a large world needs more room

    def date(self, low: int, high: int) -> datetime.date:
        return datetime.date(low, 1, 1) + datetime.timedelta(
            days=self.rng.randrange((high - low + 1) * 365)
        )

    def near(self, land: _Land) -> tuple[float, float]:
        while True:
            point = tuple(
                round(part + self.rng.uniform(-4, 4), 2)
                for part in (land.centre[0], land.centre[1])
            )
            if all(round(abs(part) * 100) % 10 for part in point):
                return (point[0], point[1])

    def some_town(self) -> str:
        return self.rng.choice(list(self.towns))

    def make(self) -> None:
        self.make_lands()
        self.make_people()
        self.make_capitals()
        self.make_companies()
        self.make_lives()
        self.make_works()
        self.make_nature()
        self.make_things()

    def make_lands(self) -> None:
        for _ in range(self.counts["country"]):
            sound = Sound(self.rng)
            centre = (self.rng.uniform(-55, 60), self.rng.uniform(-170, 170))
            self.lands.append(_Land(self.names.country(sound), sound, centre))
        for place in range(self.counts["city"]):
            # Every country gets five towns; the others settle where the draw says.
            enough = place >= 5 * len(self.lands)
            land = self.rng.choice(self.lands) if enough else self.lands[place % len(self.lands)]
            town = self.names.town(land.sound)
            land.towns.append(town)
            self.towns[town] = land
            self.founded[town] = self.rng.randint(1011, 1840)

    def make_people(self) -> None:
        for _ in range(self.counts["person"]):
            town = self.some_town()
            name = self.names.person(self.towns[town].sound)
            born = self.date(1890, 1984)
            died = None
            if born.year < 1950 and self.rng.random() < 0.7:
                died = min(
                    born + datetime.timedelta(days=self.rng.randint(42 * 365, 90 * 365)),
                    datetime.date(2019, 12, 31),
                )
            self.people.append(_Person(name, born, died))
            self.add(name, "person", birthplace=town, birth_date=born.isoformat())
            if died:
                self.add(name, "person", death_date=died.isoformat())

    def make_capitals(self) -> None:
        mayors = [person.name for person in self.people if not person.died]
        self.rng.shuffle(mayors)
        for town, land in self.towns.items():
            self.add(
                town,
                "city",
                country=land.name,
                population=self.number("town", 21_003, 3_900_000),
                elevation=self.number("elevation", 103, 2_400),
                coordinates=self.near(land),
                founded_year=self.founded[town],
            )
            if mayors:
                self.add(town, "city", mayor=mayors.pop())
        for land in self.lands:
            self.add(
                land.name,
                "country",
                capital=self.rng.choice(land.towns),
                currency=self.names.code(),
                official_language=self.names.language(land.sound),
                area=self.number("area", 21_007, 1_900_000),
                population=self.number("country", 12_000_003, 190_000_000),
                independence_date=self.date(1750, 1960).isoformat(),
            )

    def make_companies(self) -> None:
        for _ in range(self.counts["company"]):
            founder, town = self.rng.choice(self.people), self.some_town()
            name = self.names.plain(self.towns[town].sound, self.rng.choice(_TABLES["firms"]))
            self.companies[name] = founder.active(self.rng)
            self.add(
                name,
                "company",
                founder=founder.name,
                headquarters=town,
                founded_year=self.companies[name],
                employees=self.number("employees", 211, 60_000),
            )

    def make_lives(self) -> None:
        universities = []
        for _ in range(self.counts["university"]):
            town = self.some_town()
            name = self.names.plain(self.towns[town].sound, "University of {n}")
            universities.append(name)
            year = self.rng.randint(min(self.founded[town] + 40, 1880), 1899)
            students = self.number("students", 2_103, 48_000)
            self.add(name, "university", city=town, founded_year=year, students=students)
        for person in self.people:
            self.add(person.name, "person", alma_mater=self.rng.choice(universities))
            if not person.died:
                self.add(person.name, "person", employer=self.rng.choice(list(self.companies)))

    def make_works(self) -> None:
        for kind, titles in (("book", _TABLES["books"]), ("film", _TABLES["films"])):
            for _ in range(self.counts[kind]):
                maker = self.rng.choice(self.people)
                sound = self.rng.choice(self.lands).sound
                title = self.names.plain(sound, self.rng.choice(titles).replace(",", ""))
                year = maker.active(self.rng)
                if kind == "book":
                    pages = self.number("pages", 113, 980)
                    self.add(
                        title, kind, author=maker.name, publication_year=year, page_count=pages
                    )
                    old = [name for name, founded in self.companies.items() if founded <= year]
                    if old:
                        self.add(title, kind, publisher=self.rng.choice(old))
                else:
                    minutes = self.number("minutes", 101, 260)
                    self.add(
                        title, kind, director=maker.name, release_year=year, running_time=minutes
                    )

    def make_nature(self) -> None:
        for _ in range(self.counts["river"]):
            land = self.rng.choice(self.lands)
            name = self.names.plain(land.sound)
            self.add(
                name, "river", length=self.number("length", 113, 4_800), source_country=land.name
            )
        for _ in range(self.counts["mountain"]):
            land = self.rng.choice(self.lands)
            name = self.names.plain(land.sound)
            self.add(
                name,
                "mountain",
                height=self.number("height", 1_013, 7_900),
                country=land.name,
                first_ascent=self.date(1790, 1950).isoformat(),
            )
        for _ in range(self.counts["observatory"]):
            land = self.rng.choice(self.lands)
            name = self.names.plain(land.sound, "{n} Observatory")
            self.add(
                name,
                "observatory",
                coordinates=self.near(land),
                country=land.name,
                elevation=self.number("observatory", 1_207, 5_200),
            )

    def make_things(self) -> None:
        for _ in range(self.counts["bridge"]):
            town = self.some_town()
            name = self.names.plain(self.towns[town].sound, "{n} Bridge")
            opened = self.date(1900, 2015)
            self.add(
                name,
                "bridge",
                span=self.number("span", 113, 1_900),
                city=town,
                opening_date=opened.isoformat(),
            )
        for _ in range(self.counts["product"]):
            firm, year = self.rng.choice(list(self.companies.items()))
            sound = self.rng.choice(self.lands).sound
            launched = self.date(year + 1, max(year + 1, 2022))
            price = self.number("price", 2_011, 190_000) / 100
            self.add(
                self.names.plain(sound, self.rng.choice(_TABLES["goods"])),
                "product",
                manufacturer=firm,
                weight=self.number("weight", 113, 9_000),
                price=price,
                launch_date=launched.isoformat(),
            )
        captains = [person for person in self.people if not person.died]
        for _ in range(self.counts["ship"]):
            land = self.rng.choice(self.lands)
            name = self.names.plain(
                land.sound, self.rng.choice(("Star of {n}", "{n} Pride", "{n}"))
            )
            self.add(
                name,
                "ship",
                port=self.some_town(),
                captain=self.rng.choice(captains).name,
                tonnage=self.number("tonnage", 1_013, 140_000),
                maiden_voyage=self.date(1985, 2018).isoformat(),
            )


def generate(seed: int, size: int) -> list[Triple]:
    """Facts of an invented world.

    Towns lie near their country's centre, capitals in their country; works, companies and products
    come after the birth of who made them and before their death.

    Args:
        seed: decides everything.
        size: entities, roughly; at least `SMALLEST`.

    Raises:
        BadInputError: the size is too small.
    """
    if size < SMALLEST:
        raise BadInputError(f"a world needs a size of at least {SMALLEST}, not {size}")
    world = _World(seed, size)
    world.make()
    return world.rows

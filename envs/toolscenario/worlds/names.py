"""Invented names: seeded syllables, one sound for each country, nobody and nowhere real."""

from __future__ import annotations

import random

__all__ = ["TAKEN_CODES", "Names", "Sound"]

_ONSETS = (
    ("b", "d", "g", "l", "m", "n", "r", "s", "t", "v", "k", "dr", "br", "vel", "tr"),
    ("ch", "k", "m", "n", "y", "t", "h", "sh", "r", "z", "w", "j", "kh"),
    ("f", "l", "s", "p", "c", "n", "m", "gl", "pr", "v", "th", "fl", "qu"),
    ("h", "sk", "st", "gr", "b", "f", "k", "l", "n", "r", "sv", "t", "hj"),
    ("z", "d", "k", "p", "m", "l", "v", "r", "zh", "st", "b", "kr", "sl"),
)
_VOWELS = (
    ("a", "e", "i", "o", "u", "a", "o"),
    ("a", "i", "u", "e", "o", "a"),
    ("e", "a", "i", "o", "ae", "ia", "y"),
    ("a", "e", "ø", "å", "i", "u", "ei"),
    ("a", "o", "e", "i", "u", "y"),
)
_CODAS = (
    ("", "", "n", "r", "l", "s", "m", ""),
    ("", "", "n", "k", "", "ra", "mi"),
    ("", "r", "n", "l", "s", "nd", ""),
    ("n", "r", "l", "sk", "nd", "rk", ""),
    ("", "n", "v", "k", "r", "sh", "l"),
)
_TOWNS = (
    ("ora", "ando", "eva", "ago", "ista", "uren"),
    ("yama", "ishi", "oko", "arat", "umi", "enza"),
    ("ford", "wick", "mere", "holt", "leigh", "combe"),
    ("borg", "vik", "havn", "stad", "sund", "nes"),
    ("grad", "ov", "ice", "ava", "anka", "in"),
)
_LANDS = ("ia", "ora", "istan", "mark", "avia", "enia", "esh", "oria")
_FAMILY = (
    ("ero", "anti", "os", "ino", "arez"),
    ("ura", "oto", "ani", "eshi", "aki"),
    ("well", "ston", "ley", "croft", "worth"),
    ("sen", "gaard", "lund", "qvist", "dal"),
    ("ovic", "enko", "ski", "ev", "ak"),
)

_REAL = """
    london paris berlin madrid lisbon vienna prague moscow kyoto osaka tokyo boston dallas denver
    oxford cambridge warwick stanford bedford milford malmo narvik bergen stavanger belgrade
    primark danmark finnmark telemark marmara samara panama havana sahara katana
    albania armenia estonia romania slovenia lithuania bolivia namibia serbia bavaria moldavia
    pakistan kazakhstan denmark nissan toyota honda suzuki sony nintendo einstein newton curie
    tolstoy picasso mozart obama trump lenin stalin santana toto nolan tarantino salford telford
    mandela gandhi corleone gondor mordor rohan narnia wakanda genovia latveria sokovia
    salvatore moreno serrano romero hitchcock kubrick fellini bergman kurosawa miyazaki
    """
_BLOCKED = frozenset(_REAL.split())
_CODES = """
    AED ARS AUD BDT BGN BRL CAD CHF CLP CNY COP CZK DKK EGP EUR GBP GEL HKD HUF IDR ILS INR ISK
    JPY KES KRW KZT LKR MAD MXN MYR NGN NOK NZD PEN PHP PKR PLN QAR RON RSD RUB SAR SEK SGD THB
    TND TRY TWD UAH USD UYU UZS VND ZAR ASS SEX FUK KKK WTF
    """
TAKEN_CODES = frozenset(_CODES.split())
"""Codes that an invented currency may not have: real ones, and some that nobody wants to read."""


class Sound:
    """How names of one country sound.

    Args:
        rng: draws the sound.
    """

    def __init__(self, rng: random.Random) -> None:
        self.family = rng.randrange(len(_ONSETS))
        self.onsets = rng.sample(_ONSETS[self.family], 9)
        self.simple = [onset for onset in self.onsets if len(onset) == 1]
        self.codas = _CODAS[self.family]

    def stem(self, rng: random.Random, syllables: int) -> str:
        """Some syllables; the last one is open, so that an ending can follow."""
        parts = []
        for place in range(syllables):
            closed = place < syllables - 1 and rng.random() < 0.4
            coda = rng.choice(self.codas) if closed else ""
            onset = rng.choice(self.onsets if place == 0 else self.simple)
            parts.append(onset + rng.choice(_VOWELS[self.family]) + coda)
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
        return self._once("{n}", sound, _LANDS)

    def town(self, sound: Sound) -> str:
        """A town."""
        return self._once("{n}", sound, _TOWNS[sound.family])

    def person(self, sound: Sound) -> str:
        """A person: two invented names."""
        first = self._word(sound, ("a", "o", "e", "in", "an", "el", "is"), 1, 2)
        return self._once(first + " {n}", sound, _FAMILY[sound.family])

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

    def code(self, taken: frozenset[str] = TAKEN_CODES) -> str:
        """Three capital letters that no real currency has."""
        while True:
            code = "".join(self.rng.choice("BCDFGHJKLMNPQRSTVWXZ") for _ in range(3))
            if code not in taken and code not in self.used:
                self.used.add(code)
                return code

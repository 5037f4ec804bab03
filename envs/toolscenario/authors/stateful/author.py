"""The author of worlds without a model: draws tables, wishes, rules and a user by seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from toolgym._util.hashes import value_hash
from toolgym.envs.toolscenario.authors.stateful.catalog import DOMAINS, open_domain
from toolgym.envs.toolscenario.authors.stateful.parts import Domain, Rule, Write, variable, words_of
from toolgym.envs.toolscenario.authors.stateful.rendering import (
    fits,
)
from toolgym.envs.toolscenario.authors.stateful.writing import Draft, Wish, written
from toolgym.envs.toolscenario.records import Question, RejectedError
from toolgym.envs.toolscenario.world import (
    KIND,
    LEVELS,
    Act,
    Change,
    Fact,
    UserScript,
    World,
)
from toolgym.errors import BadInputError
from toolgym.grading.states import Goal

__all__ = ["WorldAuthor"]

_SIZES = {1: 5, 2: 8, 3: 12, 4: 18}
_TRIES, _DRAWS = 40, 60
_BROKEN = (0.75, 0.3, 0.2)  # how often the first rule stands against a wish, the second, the third
_SPLITS = ("train",) * 8 + ("validation", "test")
_SECRETS = ("password", "home address", "pin code")
_PLAIN = {"new", "of", "the", "number", "a"}


class WorldAuthor:
    """Writes worlds from domains; the same arguments write the same ones.

    Args:
        kind: ``stateful``; the author of questions is ``offline``.
        domains: names of bundled domains and paths of ``.toml`` files, by turns; a text may hold
            several, with commas between.
        level: from 1 to 4; None: by turns.
        dialogues: share of worlds with a user who speaks, from 0 to 1.
        seed: of everything that is drawn.

    Raises:
        BadInputError: an argument that is none of these, or a domain file that is wrong.
        UnknownNameError: no domain has that name.
    """

    name = "template"
    kind = KIND

    def __init__(
        self,
        kind: str = KIND,
        domains: str | Sequence[str] = DOMAINS,
        level: int | None = None,
        dialogues: float = 0.4,
        seed: int = 0,
    ) -> None:
        if kind != KIND:
            raise BadInputError(
                f"the template author writes scenarios of kind {KIND!r}, not {kind!r}; questions "
                "with tools that remember nothing are written by --author offline"
            )
        names = domains.split(",") if isinstance(domains, str) else list(domains)
        if level is not None and level not in LEVELS:
            raise BadInputError(f"level of a world is one of {LEVELS}, not {level!r}")
        if isinstance(dialogues, bool) or not 0 <= dialogues <= 1:
            raise BadInputError(f"dialogues is a share from 0 to 1, not {dialogues!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise BadInputError(f"seed of the template author must be a number, not {seed!r}")
        self._domains, self._level = [name.strip() for name in names], level
        self._dialogues, self._seed = float(dialogues), seed
        self._hash = value_hash([repr(open_domain(name)) for name in self._domains])

    def settings(self) -> dict[str, object]:
        """Plain JSON values that decide what it writes."""
        return {
            "domains": self._domains,
            "level": self._level,
            "dialogues": self._dialogues,
            "seed": self._seed,
            "hash": self._hash,
        }

    def questions(self, count: int) -> Iterator[Question]:
        """So many worlds to be drawn, domains and levels by turns."""
        for place in range(count):
            yield Question(
                id=f"world-{self._seed}-{place:06d}",
                split=_SPLITS[place // len(self._domains) % len(_SPLITS)],
                notes={"draw": place},
            )

    def world(self, question: Question) -> World:
        """A world, not proved yet.

        Args:
            question: one of `questions`.

        Raises:
            RejectedError: nothing that can be asked for was found, or it is another's question.
        """
        place = question.notes.get("draw")
        if question.text or not isinstance(place, int):
            raise RejectedError(
                "decomposition",
                "own_question",
                "the template author makes up its worlds; give it those of its own questions()",
            )
        name = self._domains[place % len(self._domains)]
        turn = place // len(self._domains)
        level = self._level or LEVELS[turn % len(LEVELS)]
        for attempt in range(_TRIES):
            rng = random.Random(f"world-{self._seed}-{place}-{attempt}")
            domain = open_domain(name)
            draft = Draft(domain, level, rng, domain.state(_SIZES[level], rng), [])
            draft.rules = rng.sample(domain.rules, min(level - 1, len(domain.rules)))
            if _wished(draft, rng.random() < self._dialogues):
                stem = name.rpartition("/")[2].removesuffix(".toml")
                return written(draft, question, stem, self.name)
        raise RejectedError(
            "decomposition", "no_plan", f"no world of {name!r} was found in {_TRIES} draws"
        )


def _wished(draft: Draft, dialogue: bool) -> bool:
    """Draw what is asked for; False where there is not enough."""
    domain, rng = draft.domain, draft.rng
    asked = [name for name, verb in domain.writes.items() if verb.asks]
    forbidden = {rule.verb for rule in draft.rules}
    rng.shuffle(asked)
    for rule, chance in zip(draft.rules, _BROKEN, strict=False):
        if rng.random() < chance:
            _add(draft, rule.verb, rule)
    if dialogue:
        open_ = [name for name in asked if domain.writes[name].vague and name not in forbidden]
        if rng.random() < 0.4:  # what the user has to unlock comes first
            open_.sort(key=lambda name: not _locked_by(domain, domain.writes[name]))
        _add(draft, open_[0], None, vague=True)
    taken = {wish.asked for wish in draft.wishes}
    for name in [name for name in asked if name not in taken] + asked:
        if len(draft.wishes) >= draft.level:
            break
        _add(draft, name, None)
    if len(draft.wishes) < draft.level:
        return False
    rng.shuffle(draft.wishes)
    if dialogue:
        draft.user = _user(draft)
    return not dialogue or draft.user is not None


def _add(draft: Draft, name: str, broken: Rule | None, vague: bool = False) -> None:
    """Draw rows and values for a verb.

    Args:
        draft: whose wishes get one more, where it can be done.
        name: of the verb that is asked for.
        broken: a rule that forbids it for the row that is drawn.
        vague: leave a parameter to be asked for.
    """
    domain, rng, verb = draft.domain, draft.rng, draft.domain.writes[name]
    goal = Goal(links=domain.links)
    first = next(iter(verb.takes))
    for _ in range(_DRAWS):
        given = _drawn(draft, verb)
        if given is None or not fits(domain, draft.state, verb, given):
            continue
        table, key = str(verb.takes[first].values[0]), given[first]
        row = draft.state[table][key]
        hit = [
            rule
            for rule in domain.rules
            if rule.verb == name and goal.matches(draft.state, table, key, row, rule.before)
        ]
        if hit != ([broken] if broken else []):
            continue
        done, right = name, given
        if broken is not None:
            done = broken.instead
            right = {next(iter(domain.writes[done].takes)): key}
            if not fits(domain, draft.state, domain.writes[done], right):
                continue
        open_ = rng.choice(list(verb.vague)) if vague else ""
        told = {
            variable(n): words_of(domain, draft.state, str(item.values[0]), given[n])
            if item.kind == "link"
            else given[n]
            for n, item in verb.takes.items()
        }
        words = rng.choice(verb.vague[open_] if vague else verb.asks).format(**told)
        draft.used |= {(item, given[n]) for n, item in verb.rows().items()}
        wish = Wish(name, done, right, words[0].upper() + words[1:], open_)
        draft.wishes.append(wish)
        return


def _drawn(draft: Draft, verb: Write) -> dict[str, Any] | None:
    given: dict[str, Any] = {}
    for name, item in verb.takes.items():
        if item.kind != "link":
            given[name] = item.draw(draft.rng)
            continue
        table = str(item.values[0])
        free = [key for key in draft.state[table] if (table, key) not in draft.used]
        if not free:
            return None
        given[name] = draft.rng.choice(free)
        if not _alone(draft, table, given[name]):
            return None
    return given


def _alone(draft: Draft, table: str, key: str) -> bool:
    """Whether no other row is spoken of in the same words."""
    mine = words_of(draft.domain, draft.state, table, key)
    rows = draft.state[table]
    return sum(words_of(draft.domain, draft.state, table, other) == mine for other in rows) == 1


def _user(draft: Draft) -> UserScript | None:
    """Who speaks: tells what was left open, and more by chance."""
    domain, rng = draft.domain, draft.rng
    facts, change = [], None
    for wish in draft.wishes:
        if not wish.open:
            continue
        verb = domain.writes[wish.done]
        name = verb.takes[wish.open].about or wish.open.replace("_", " ")
        value = wish.given[wish.open]
        words = [*name.split(), *wish.open.split("_")]
        nouns = {table.noun for table in domain.tables.values()}  # who begs says these, too
        keywords = dict.fromkeys(word for word in words if word not in nouns | _PLAIN)
        facts.append(Fact(name=name, keywords=tuple(keywords), value=str(value)))
        last = any(e[0] == "set" and e[2] == f"${wish.open}" for e in verb.does)
        if last and rng.random() < 0.4:
            change = _changed(draft, wish, name)
    if not facts:
        return None
    if rng.random() < 0.3:
        secret = rng.choice(_SECRETS)
        facts.append(Fact(name=secret, keywords=(secret,), secret=True))
    return UserScript(
        facts=tuple(facts),
        change=change,
        acts=_acts(draft) if rng.random() < 0.6 else (),
        insists=any(wish.asked != wish.done for wish in draft.wishes) and rng.random() < 0.7,
        noise=rng.choice((0, 0, 1, 2, 3)),
    )


def _changed(draft: Draft, wish: Wish, name: str) -> Change | None:
    """Another value for what was told, which counts in the end."""
    verb = draft.domain.writes[wish.done]
    for _ in range(_DRAWS):
        other = {**wish.given, wish.open: verb.takes[wish.open].draw(draft.rng)}
        if other != wish.given and fits(draft.domain, draft.state, verb, other):
            wish.given = other
            return Change(fact=name, value=str(other[wish.open]))
    return None


def _acts(draft: Draft) -> tuple[Act, ...]:
    """Lock a row that a wish writes to, so that the user has to open it."""
    lock = draft.domain.lock
    if lock is None:
        return ()
    for wish in draft.wishes:
        for parameter in _locked_by(draft.domain, draft.domain.writes[wish.done]):
            key = wish.given[parameter]
            draft.state[lock["table"]][key][lock["field"]] = True
            (own,) = draft.domain.writes[lock["verb"]].takes
            words = tuple(w for w in lock["asked"].split() if w not in _PLAIN)
            act = Act(
                name=lock["asked"], keywords=words[:1], tool=lock["verb"], arguments={own: key}
            )
            return (act,)
    return ()


def _locked_by(domain: Domain, verb: Write) -> list[str]:
    """Parameters whose rows may not be locked, where a verb is to work."""
    lock = domain.lock or {"table": "", "field": ""}
    return [
        name
        for name, table in verb.rows().items()
        if table == lock["table"]
        and (f"{variable(name)}.{lock['field']}", "is", False) in verb.checks
    ]

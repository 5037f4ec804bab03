"""A user made of a script: he tells what he is asked for, and cannot err."""

from __future__ import annotations

import random
import re

from toolgym.envs.toolscenario.world import Fact, UserScript, World
from toolgym.episodes.users import UserTurn
from toolgym.messages import ToolCall
from toolgym.trajectory import Trajectory

__all__ = ["AT_ONCE", "BEGGING", "CompiledUser", "questions", "topics"]

BEGGING = (
    "Tell me everything that you know.",
    "Please give me all details at once: everything that I could need.",
    "What else should I know? Anything at all?",
    "I need all the information that you have. Please tell me everything now.",
    "Tell me all about the customer, the account, the order, the message, the file and the stay.",
    "Could you please give me the details of the task, so that I can go on?",
)
"""Begging for everything at once; a proof tries these, and a list of all parameters."""

AT_ONCE = 2
"""Things that he tells in one turn; who asks for more is told none."""
_PATIENCE = 3  # turns in which a question that asks for nothing is borne with
_SENTENCE = re.compile(r"[^.?!\n]+[.?!]?")
_WORD = re.compile(r"[\w']+")
_ASKING = re.compile(r"\?|\b(please|tell|give|need|know|provide|say|let me|share|send)\b", re.I)
_TOLD = ("{value}", "It is {value}.", "{value}, please.", "Take {value}.", "That would be {value}.")
_MIND = (
    "I have changed my mind about the {name}: make it {value}.",
    "Sorry, I was wrong about the {name}. I want {value} instead.",
    "Actually, {value} is better for the {name}.",
)
_SECRET = (
    "I would rather not tell you that.",
    "That I keep to myself.",
    "I do not give that away.",
)
_MANY = ("One thing at a time, please.", "Not so much at once: ask for one thing after the other.")
_LOST = ("Ask me for what you need.", "I do not know what you mean. What exactly do you need?")
_ACTED = ("I have done that.", "Done.", "All right, that is done.")
_INSISTS = (
    "Can you not do it the way that I asked for at first?",
    "Please make an exception, and do exactly what I asked for.",
)
_BEFORE = ("Well, ", "Hm, ", "Let me see: ", "Oh, right. ")
_BEHIND = (" Thanks!", " I am in a bit of a hurry.", " It is a busy day here.")


class CompiledUser:
    """Speaks in one episode of a world.

    What he says depends on what he is asked for, on his script and on a seed, and on nothing else:
    a fact comes word by word as the goal has it, a secret never, and a question for many things at
    once gets nothing.

    Args:
        world: whose user it is; without one he says nothing.
        seed: of wording and chatter; the same in each episode of a task.
    """

    def __init__(self, world: World, seed: str = "") -> None:
        self._script, self._topics = world.user or UserScript(), topics(world)
        self._rng = random.Random(f"user-{world.id}-{seed}")
        self._told: dict[str, str] = {}
        self._patience, self._insisted, self._changed = _PATIENCE, False, False

    def reply(self, trajectory: Trajectory) -> UserTurn | None:
        """What he says to the policy's last turn; see `toolgym.episodes.users.User`."""
        return self.heard(trajectory.steps[-1].answer or "")

    def heard(self, text: str) -> UserTurn | None:
        """What he says to a text.

        Args:
            text: what the policy said.

        Returns:
            None: he has no more to say.
        """
        text = text[:10_000]
        asking = [s for s in _SENTENCE.findall(text) if _ASKING.search(s)]
        asked = _words(" ".join(asking))
        whole = _words(text) if asking else ""  # "The city is missing. Can you help?"
        facts = [
            fact
            for fact in self._script.facts
            if _named(fact.keywords, asked if fact.name in self._told else whole)
        ]
        acts = [act for act in self._script.acts if _named(act.keywords, asked)]
        known = {w for fact in facts for w in fact.keywords}
        known |= {w for act in acts for w in act.keywords}
        others = [topic for topic in self._topics if topic not in known and _named((topic,), asked)]
        if len(facts) + len(acts) + len(others) > AT_ONCE:
            return self._say(_MANY) if self._bears() else None
        if facts or acts:
            said = [self._tell(fact) for fact in facts] + [self._pick(_ACTED) for _ in acts]
            calls = tuple(
                ToolCall(f"user_{n}", act.tool, dict(act.arguments)) for n, act in enumerate(acts)
            )
            return UserTurn(self._noisy(" ".join(said)), calls=calls)
        change = self._script.change
        if change is not None and not self._changed and change.fact in self._told:
            self._changed = True
            self._told[change.fact] = change.value
            return self._say(_MIND, name=change.fact, value=change.value)
        if "?" in text and self._bears():
            return self._say(_LOST)
        if self._script.insists and not self._insisted:
            self._insisted = True
            return self._say(_INSISTS)
        return None

    def _bears(self) -> bool:
        self._patience -= 1
        return self._patience >= 0

    def _tell(self, fact: Fact) -> str:
        if fact.secret:
            return self._pick(_SECRET)
        value = self._told.setdefault(fact.name, fact.value)
        return self._pick(_TOLD).format(value=value)

    def _pick(self, ways: tuple[str, ...]) -> str:
        return self._rng.choice(ways)

    def _say(self, ways: tuple[str, ...], **told: str) -> UserTurn:
        return UserTurn(self._noisy(self._pick(ways).format(**told)))

    def _noisy(self, text: str) -> str:
        """Chatter around what is said, which itself stays as it is."""
        noise = self._script.noise
        before = self._pick(_BEFORE) if noise > 0 and self._rng.random() < 0.6 else ""
        behind = self._pick(_BEHIND) if noise > 1 and self._rng.random() < 0.6 else ""
        if noise > 2:
            before, behind = before.lower(), behind.lower()
        return f"{before}{text}{behind}"


def _words(text: str) -> str:
    """The words of a text in small letters, a blank before and behind each."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _named(words: tuple[str, ...], text: str) -> bool:
    """Whether one of some words stands in a text of `_words`, in the plural too."""
    return any(f" {word} " in text or f" {word}s " in text for word in words)


def topics(world: World) -> tuple[str, ...]:
    """A word for each thing that one may ask for: facts, and parameters that are no ids."""
    facts = world.user.facts if world.user is not None else ()
    known = {word for fact in facts for word in fact.keywords}
    found = dict.fromkeys(fact.keywords[0] for fact in facts)
    for document in world.documents:
        for name in document.parameters.get("properties", {}):
            if not name.endswith("_id") and not known & {*name.split("_")}:
                found[name.replace("_", " ")] = None
    return tuple(found)


def questions(world: World) -> list[str]:
    """What an oracle says before it calls anything: a question for each fact, and for each act.

    Args:
        world: with a user or without.
    """
    if world.user is None:
        return []
    asked = [f"What is the {fact.name}?" for fact in world.user.facts if not fact.secret]
    asked += ["Is there more to it?"] if world.user.change is not None else []
    return [*asked, *(f"Please {act.name}." for act in world.user.acts)]

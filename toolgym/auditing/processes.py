"""A subject in a process of its own: whole episodes are played there, and ended where one hangs."""

from __future__ import annotations

import os
import pickle
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from toolgym._workers.pool import Child, inherited
from toolgym.auditing.subjects import Facts, Item, Outcome, Subject
from toolgym.errors import BadInputError, CheckError, ToolgymError, in_words

__all__ = ["EndedError", "Move", "Played", "Player", "Script"]

_START = 180.0  # seconds in which an environment has to be made: indexes are built, libraries read
_READING = 20.0  # seconds that reading a few prompts has in any case
_PATIENCE = 5  # times a deadline, for a process that works and has not had its share of a processor
_SLICE = 1.0  # seconds after which a wait looks at the clock
_MEMORY = 8 << 30  # bytes of address space
Move = tuple[str, ...]
"""A turn of a script: ``("say", text)`` as it is, ``("answer", text)`` in the subject's form,
``("call", tool, text)``, and ``("paste",)``: what was read last, as the answer."""


@dataclass(frozen=True, slots=True)
class Script:
    """What is played.

    Args:
        name: of the policy.
        moves: one a turn; after the last one it is repeated.
        turns: at most so many.
    """

    name: str
    moves: tuple[Move, ...]
    turns: int = 1


@dataclass(slots=True)
class Played:
    """An episode.

    Args:
        script: name of what was played.
        number: of the task.
        opening: that the policy read first.
        replies: one a turn.
        outcomes: one a turn; of the last reply none, where the step raised.
        seconds: that each step took.
        raised: what a step or the reset raised; None: nothing.
        record: the environment's own row of the episode.
    """

    script: str
    number: int
    opening: str
    replies: list[str]
    outcomes: list[Outcome]
    seconds: list[float]
    raised: str | None = None
    record: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether the environment ended it."""
        return bool(self.outcomes) and self.outcomes[-1].ended

    @property
    def seen(self) -> tuple[Any, ...]:
        """All that can be seen of it, to be compared; NaN equals itself."""
        steps = tuple((o.observation, repr(o.reward), o.ended) for o in self.outcomes)
        return self.opening, steps, self.raised


class EndedError(CheckError):
    """A call that did not return by its deadline, or whose process died."""


class Host:
    """The worker inside the process; see `toolgym._workers.child.serve`.

    Args:
        payload: a pickled function without arguments that makes the subject.
        memory: bytes of address space that the process may have.
        form: how answers are written.
    """

    def __init__(self, payload: bytes, memory: int, form: str) -> None:
        import resource  # POSIX, as all our child processes

        hole = os.open(os.devnull, os.O_WRONLY)
        os.dup2(hole, 1)  # an environment that prints must not write into our output
        os.dup2(hole, 2)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        self._make: Callable[[], Subject] = pickle.loads(payload)  # noqa: S301 - our parent wrote it
        self.subject = self._make()
        self.subject.form = form

    def __call__(self, method: str, *args: Any) -> Any:
        """Call a method of the subject, or one of this host's own."""
        own: dict[str, Callable[..., Any]] = {
            "play": self.play,
            "renew": self.renew,
            "both": self.both,
            "form": self.form,
        }
        if method == "held":
            return _resident()
        return own[method](*args) if method in own else getattr(self.subject, method)(*args)

    def form(self, text: str) -> None:
        """Write answers in another way from now on."""
        self.subject.form = text

    def renew(self) -> None:
        """A fresh instance in the same process."""
        form, self.subject = self.subject.form, self._make()
        self.subject.form = form

    def play(self, script: Script, number: int) -> Played:
        """One episode."""
        return _play(self.subject, script, number)

    def both(self, script: Script, number: int, other: int) -> Played:
        """One episode while another instance plays another task, turn by turn."""
        beside = self._make()
        beside.form = self.subject.form
        found = _begin(self.subject, script, number)
        aside = _begin(beside, script, other)
        for turn in range(script.turns):
            _turn(beside, script, turn, aside)
            _turn(self.subject, script, turn, found)
        beside.close()
        return found


def _begin(subject: Subject, script: Script, number: int) -> Played:
    played = Played(script.name, number, "", [], [], [])
    try:
        played.opening = subject.reset(number)
    except Exception as error:  # whatever the environment of others raises is a finding
        played.raised = f"reset: {type(error).__name__}: {in_words(error)}"
    return played


def _turn(subject: Subject, script: Script, turn: int, played: Played) -> None:
    """Play a turn, unless the episode is over."""
    if played.ended or played.raised is not None:
        return
    began = time.perf_counter()
    try:
        reply = _reply(subject, script.moves[min(turn, len(script.moves) - 1)], played)
        played.replies.append(reply)
        began = time.perf_counter()
        outcome = subject.step(reply)
    except Exception as error:  # as above
        played.raised = f"step: {type(error).__name__}: {in_words(error)}"
        return
    finally:
        played.seconds.append(time.perf_counter() - began)
    played.outcomes.append(outcome)


def _play(subject: Subject, script: Script, number: int) -> Played:
    if script.name == "oracle" and (replies := subject.oracle(number)) is not None:
        moves = tuple(("say", reply) for reply in replies)
        script = Script(script.name, moves or (("say", ""),), max(1, len(moves)))
    played = _begin(subject, script, number)
    for turn in range(script.turns):
        _turn(subject, script, turn, played)
    if played.raised is None:
        played.record = subject.record()
    return played


def _reply(subject: Subject, move: Move, played: Played) -> str:
    kind, *given = move
    if kind == "say":
        return given[0]
    if kind == "answer":
        return subject.answer(given[0])
    if kind == "call":
        return subject.call(given[0], given[1])
    last = played.outcomes[-1].observation if played.outcomes else ""
    return subject.answer(last or played.opening)


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _receive(child: Child, end: float, seconds: float) -> bytes:
    """Wait for an answer; a machine that others keep busy is no reason to call a step endless.

    Args:
        child: that was asked.
        end: reading of the monotonic clock at which the wait is over: longer, where the child is
            at work and has had less than half of its seconds of a processor, and by the time in
            which this process was kept from running itself.
        seconds: that it has.
    """
    last, before = end + (_PATIENCE - 1) * seconds, _worked(child.process.pid)[1]
    seen = before
    while True:
        asked = min(end, time.monotonic() + _SLICE)
        if _has_come(child, asked):
            return child.receive(max(end, time.monotonic() + _READING))
        if (late := time.monotonic() - asked) > _SLICE:
            end, last = end + late, last + late
        if time.monotonic() < end:
            continue
        runs, now = _worked(child.process.pid)
        if now - before >= seconds / 2 or time.monotonic() >= last or not (runs or now > seen):
            raise TimeoutError
        seen, end = now, min(last, time.monotonic() + seconds / 4)


def _has_come(child: Child, until: float) -> bool:
    """Whether a child has said anything, or is gone, by a reading of the monotonic clock."""
    poll = select.poll()
    poll.register(child.reading, select.POLLIN)
    return bool(poll.poll(max(until - time.monotonic(), 0) * 1e3))


def _worked(pid: int) -> tuple[bool, float]:
    """Whether a process runs, waits for a processor or is stopped, and its seconds of a processor.

    False where the system does not say.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False, 0.0
    ticks = int(fields[11]) + int(fields[12])
    return fields[0] in "RT", ticks / os.sysconf("SC_CLK_TCK")


class Player:
    """The parent's side of a subject's process, which is started anew after a call that hung.

    Args:
        make: makes the subject, there.
        deadline: seconds a step.
        hash_seed: of Python's hashes there: sets are iterated in another order by another one.

    Raises:
        BadInputError: what makes the subject cannot be sent to another process.
    """

    def __init__(self, make: Callable[[], Subject], deadline: float, hash_seed: int = 1) -> None:
        try:
            self._payload = cloudpickle.dumps(make)
        except Exception as error:  # whatever an instance of others holds
            raise BadInputError(
                f"the environment cannot be sent to the process in which it is audited ({error}); "
                "give a function that makes it, or its id"
            ) from error
        self._deadline, self._seed = deadline, str(hash_seed)
        self._child: Child | None = None
        self._form: str | None = None

    def start(self) -> Facts:
        """Make the subject; what is known of it.

        Raises:
            ToolgymError: it cannot be made.
        """
        found: Facts = self._ask(_START, "facts")
        return found

    def items(self, numbers: Sequence[int]) -> list[Item]:
        """Tasks by number, each of which may take as long as a step.

        Raises:
            EndedError: a reset did not return, or the process died.
        """
        seconds = min(_START, max(_READING, self._deadline * len(numbers)))
        found: list[Item] = self._ask(seconds, "items", list(numbers))
        return found

    def write_as(self, form: str) -> None:
        """Write answers in this form from now on, in a process that is started anew, too."""
        self._form = form
        self._ask(_START, "form", form)

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the subject that needs more time than a step."""
        return self._ask(_START, method, *args)

    def play(self, script: Script, number: int, method: str = "play", *more: Any) -> Played:
        """One episode.

        Raises:
            EndedError: it did not return by its deadline, or the process died.
        """
        turns = 1 if script.turns == 1 else 2
        seconds = self._deadline * turns + (_START if script.name == "oracle" else 0)
        found: Played = self._ask(seconds, method, script, number, *more)
        return found

    def _ask(self, seconds: float, *job: Any) -> Any:
        if self._child is None:
            self._child = Child("child", environment={**inherited(), "PYTHONHASHSEED": self._seed})
            made = pickle.dumps((Host, (self._payload, _MEMORY, self._form or "{}")))
            self._exchange(self._child, _START, ("held",), made)  # a start is not a step's time
        return self._exchange(self._child, seconds, job)

    def _exchange(
        self, child: Child, seconds: float, job: tuple[Any, ...], made: bytes | None = None
    ) -> Any:
        """Send a job, behind what makes the worker, and wait for its answer."""
        end = time.monotonic() + seconds
        what = job[0] if made is None else "the start"
        try:
            if made is not None:
                child.send(made, end=end)
            child.send(pickle.dumps(job), end=end)
            answer = pickle.loads(_receive(child, end, seconds))  # noqa: S301 - our own child
        except TimeoutError as error:
            self.close()
            said = f"{what} did not return within {seconds:g} s and was ended"
            raise EndedError(said) from error
        except (EOFError, ValueError) as error:
            code = self.close()
            raise EndedError(f"the process died in {what} (exit code {code})") from error
        if isinstance(answer, Exception):
            if isinstance(answer, ToolgymError):
                raise answer
            raise CheckError(f"{what} raised {type(answer).__name__}: {in_words(answer)}")
        return answer

    def close(self) -> int:
        """End the process; its exit code."""
        child, self._child = self._child, None
        return child.kill() if child is not None else 0

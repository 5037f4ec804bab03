"""Jobs that an executor is given: packed once, checked, done again where a worker dies."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Future,
    wait,
)
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import cloudpickle

from toolgym._util.hashes import file_hash
from toolgym._util.workfolder import same_settings
from toolgym.errors import BadInputError, CheckError

__all__ = ["Call", "Calls", "Executor", "LostWorkerError", "code_of", "pack"]

_RETRIES = 4  # of a job whose worker died; one that kills every worker must not go on for ever

Job = TypeVar("Job")
Result = TypeVar("Result")


class LostWorkerError(CheckError, RuntimeError):
    """Worker processes ended; what was done until then is good."""


class Executor(Protocol):
    """What does jobs: those of `concurrent.futures`, those of this module, and their like."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call a function somewhere; it and its arguments can be pickled."""


def pack(
    what: str,
    make: Callable[..., Callable[[Any], Any]],
    parts: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    check: Callable[..., Mapping[str, Any]] | None = None,
) -> bytes:
    """What is the same for all jobs of one kind, for other processes and machines.

    Args:
        what: the jobs are for, such as ``run``; for messages.
        make: called once in each process; what it gives is called with each job.
        parts: the keyword arguments of ``make``.
        settings: with hashes of what is read; compared before the first job.
        check: gives them there, from what ``make`` gave.

    Raises:
        BadInputError: a part that cannot be pickled.
    """
    for name, part in parts.items():
        try:
            cloudpickle.dumps(part)
        except Exception as error:  # pickling runs arbitrary __reduce__ methods
            raise BadInputError(
                f"{name} {part!r:.80} cannot be sent to other processes ({error}); give its name "
                "and arguments, or work in this process alone"
            ) from error
    expected = {"toolgym": _own_hash(), **(settings or {})}
    folders = [os.path.abspath(path) for path in (*sys.path, "")]
    return bytes(cloudpickle.dumps((what, make, dict(parts), expected, check, folders)))


@functools.cache
def _own_hash() -> str:
    """Of this package's files: jobs of one kind are done by one version of it."""
    found = sha256()
    base = Path(__file__).parent.parent
    for folder, _, names in sorted(os.walk(base, followlinks=True)):
        for name in sorted(names):
            if name.endswith((".py", ".json", ".jsonl")):
                found.update(f"{os.path.relpath(folder, base)}/{name}\n".encode())
                found.update(Path(folder, name).read_bytes())
    return found.hexdigest()[:16]


def code_of(*things: Any) -> dict[str, str]:
    """Hashes of the files that hold the code of functions or objects which travel by their names.

    Args:
        things: those of this package, and what is pickled with its code, need none.
    """
    found: dict[str, str] = {}
    for thing in things:
        while isinstance(thing, partial):
            thing = thing.func
        named = thing if hasattr(thing, "__qualname__") else type(thing)
        name = str(getattr(named, "__module__", ""))
        by_value = {"__main__", *cloudpickle.list_registry_pickle_by_value()}
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name not in by_value and "<" not in named.__qualname__:
            found |= {} if name.partition(".")[0] == "toolgym" else {name: file_hash(file)}
    return found


class _Opened:
    """What one `pack` gave in this process, and how many threads use it."""

    def __init__(self, sent: bytes) -> None:
        what, make, parts, expected, check, folders = cloudpickle.loads(sent)
        known = {os.path.abspath(path) for path in sys.path}
        sys.path += [folder for folder in folders if folder not in known]
        self.users = 0
        self.work = make(**parts)
        same_settings(
            f"the {what} that {os.uname().nodename!r} is to work for",
            expected,
            {"toolgym": _own_hash(), **(check(self.work) if check else {})},
            then="give that machine the same files",
        )


_lock = threading.Lock()
_opened: dict[str, _Opened] = {}


def _do(sent: bytes, job: Any) -> Any:
    """Do one job in this process."""
    name = sha256(sent).hexdigest()
    with _lock:
        if name not in _opened:
            made = _Opened(sent)
            for old in [key for key, one in _opened.items() if not one.users]:
                close = getattr(_opened.pop(old).work, "close", None)  # it may be a large model
                if close is not None:
                    close()
            _opened[name] = made
        opened = _opened[name]
        opened.users += 1
    try:
        return opened.work(job)
    finally:
        with _lock:
            opened.users -= 1


class Calls(Generic[Job, Result]):
    """Jobs of one kind, given to an executor.

    Args:
        executor: does them.
        work: from `pack`; or called with each job, where the executor is of this process.
        what: the results are, in the plural.
        own: whether a result is that of a job; an executor may be anybody's.
        told: a job in words.
        less: of what takes less memory.

    Raises:
        BadInputError: the executor has no ``submit``.
    """

    def __init__(
        self,
        executor: Executor,
        work: bytes | Callable[[Job], Result],
        what: str,
        own: Callable[[Job, Result], bool],
        told: Callable[[Job], str],
        less: str = "fewer workers",
    ) -> None:
        if not callable(getattr(executor, "submit", None)):
            raise BadInputError(
                "an executor has a method submit(), such as those of concurrent.futures and of "
                f"toolgym.executors, not {executor!r:.80}"
            )
        self.executor, self.what, self.own = executor, what, own
        self.told, self.less = told, less
        self.function = partial(_do, work) if isinstance(work, bytes) else work

    def begin(self, job: Job) -> Call[Job, Result]:
        """Hand over a job.

        Raises:
            LostWorkerError: the executor takes none.
        """
        return Call(self, job)

    def in_order(
        self, jobs: Iterable[Job], ahead: int
    ) -> Generator[tuple[Job, Result], None, None]:
        """All jobs with their results, in the order of the jobs.

        Args:
            jobs: are taken when they are begun.
            ahead: that are in work at once.

        Raises:
            LostWorkerError: see `Call.settled`.
        """
        waiting: deque[Call[Job, Result]] = deque()
        try:
            for job in jobs:
                waiting.append(self.begin(job))
                if len(waiting) == ahead:
                    yield (call := waiting.popleft()).job, call.result()
            while waiting:
                yield (call := waiting.popleft()).job, call.result()
        finally:
            for call in waiting:
                call.cancel()

    def as_done(self, jobs: Iterable[Job], ahead: int) -> Generator[tuple[Job, Result], None, None]:
        """All jobs with their results, in the order in which these come; see `in_order`."""
        waiting: list[Call[Job, Result]] = []
        left = iter(jobs)
        try:
            while True:
                while len(waiting) < ahead and (job := next(left, _END)) is not _END:
                    waiting.append(self.begin(job))
                if not waiting:
                    return
                wait([call.future for call in waiting], return_when=FIRST_COMPLETED)
                done = [call for call in waiting if call.future.done()]
                # What is finished comes first, so that the end of an executor does not lose it.
                for call in sorted(done, key=lambda call: call.lost()):
                    if call.settled():
                        waiting.remove(call)
                        yield call.job, call.result()
        finally:
            for call in waiting:
                call.cancel()


_END: Any = object()


class Call(Generic[Job, Result]):
    """One job that an executor was given; see `Calls.begin`."""

    def __init__(self, calls: Calls[Job, Result], job: Job) -> None:
        self.calls, self.job, self._tries = calls, job, 0
        self._submit()

    def _submit(self) -> None:
        name = type(self.calls.executor).__name__
        try:
            future = self.calls.executor.submit(self.calls.function, self.job)
        except (RuntimeError, OSError) as error:  # broken, shut down, or no process can be started
            raise LostWorkerError(
                f"the workers of {name} have died, or it was shut down ({error}): what was "
                "finished is kept; run the same again to go on"
            ) from error
        if not isinstance(future, Future):
            raise BadInputError(
                f"submit() of {name} must give a concurrent.futures.Future, not {future!r:.80}"
            )
        self.future: Future[Result] = future
        self._tries += 1

    def lost(self) -> bool:
        """Whether it has ended without a result or an error of its own."""
        return self.future.cancelled() or isinstance(self.future.exception(), BrokenExecutor)

    def settled(self) -> bool:
        """Wait for the end; whether there is a result. After a worker's death it is begun anew.

        Raises:
            LostWorkerError: the job has ended its worker too often, or no worker is left.
            CheckError: the result is of another job.
            ModuleNotFoundError: the worker lacks a module.
            Exception: what the job raised.
        """
        try:
            found = self.future.result()
        except (BrokenExecutor, CancelledError) as error:
            if self._tries > _RETRIES:
                raise LostWorkerError(
                    f"{self.calls.told(self.job)} has ended its worker process {self._tries} times "
                    f"({error}): what was finished is kept; run the same again to go on, with "
                    f"{self.calls.less} if memory is short"
                ) from error
            self._submit()
            return False
        except ModuleNotFoundError as error:
            raise BadInputError(
                f"{self.calls.told(self.job)} needs the module {error.name!r}, which a worker "
                "process cannot import: install it there, or work in this process alone"
            ) from error
        if not self.calls.own(self.job, found):
            raise CheckError(
                f"{type(self.calls.executor).__name__} gave back other {self.calls.what} than it "
                f"was given, for {self.calls.told(self.job)}: a bug of that executor"
            )
        return True

    def result(self) -> Result:
        """What the job gave; see `settled`."""
        while not self.settled():
            pass
        return self.future.result()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self.future.cancel()

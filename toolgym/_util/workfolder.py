"""Where work is done: held by one process, compared with what it was begun with, whole or not."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from toolgym.errors import RunMismatchError

__all__ = [
    *("LOCK", "build_folder", "cache_folder", "hold", "move_in", "publish", "same_settings"),
    "scratch_folder",
]

LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def _locked(file: Path, *, wait: bool, need: bool = True) -> BinaryIO:
    """The file, made if need be, and held until it is closed.

    The kernel drops the lock when the process dies, however it dies.

    Raises:
        BlockingIOError: another one holds it.
        OSError: the file system has no locks, and one is needed.
    """
    tries = 100
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stream = file.open("ab", buffering=0)
        except (FileExistsError, FileNotFoundError):
            # Its holder may have removed the folder just now.
            tries -= 1
            if not tries:
                raise
            continue
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException as error:
            if not need and isinstance(error, OSError) and error.errno in _NO_LOCKS:
                return stream
            stream.close()
            raise
        with contextlib.suppress(FileNotFoundError):
            # Its holder may have removed or renamed it while this process waited.
            if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return stream
        stream.close()


@contextlib.contextmanager
def hold(
    path: Path,
    doing: str,
    then: str = "wait for it, or choose another folder",
    *,
    wait: bool = False,
) -> Iterator[None]:
    """Hold a folder or a file: two processes would write the same.

    Args:
        path: a folder, made when it is not there; or a file that is there.
        doing: in words, for whoever comes second.
        then: what whoever comes second can do.
        wait: until it is free, instead of refusing.

    Raises:
        RunMismatchError: another process holds it.
    """
    file = path if path.is_file() else path / LOCK
    try:
        stream = _locked(file, wait=wait)
    except BlockingIOError as error:
        raise RunMismatchError(f"another process is {doing}; {then}") from error
    with stream:
        try:
            yield
        finally:
            if file is not path:
                file.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds something: the usual case
                    path.rmdir()


def same_settings(
    where: str | Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    free: Collection[str] = (),
    then: str = "choose another folder, or remove it",
) -> None:
    """Compare settings with those that something was begun with.

    Args:
        where: what was begun.
        before: its settings, as read from its file.
        now: those of this time; plain data.
        free: keys that may differ, with all below them: dotted, and ``*`` stands for anything.
        then: what to do about a difference.

    Raises:
        RunMismatchError: they differ; the first differing key is named.
    """
    for key, old, new in _differences("", before, json.loads(json.dumps(now)), free):
        raise RunMismatchError(
            f"{str(where)!r} was begun with {key} = {_shown(old)}, now it is {_shown(new)}; {then}"
        )


def _differences(
    above: str, before: Any, now: Any, free: Collection[str]
) -> Iterator[tuple[str, Any, Any]]:
    for name in {**now, **before}:
        key, old, new = above + name, before.get(name), now.get(name)
        if old == new or any(fnmatch(key, pattern) for pattern in free):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(f"{key}.", old, new, free)
        else:
            yield key, old, new


def _shown(value: Any) -> str:
    """A value in a message; of a long one the beginning, and a hash that tells it from others."""
    text = json.dumps(value)
    return (
        text
        if len(text) <= 120
        else f"{text[:80]}... (hash {sha256(text.encode()).hexdigest()[:12]})"
    )


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Write a file whole or not at all: a kill leaves the old file or the new one, never a half.

    Two processes write the same file one after the other; what a dead one left is taken over.

    Args:
        target: the file; its folder is made.

    Yields:
        Where to write; it takes the place of the target when the block ends well.
    """
    partial = target.with_name(f".{target.name}.partial")
    with _locked(partial, wait=True, need=False) as stream:
        try:
            yield partial
            os.fsync(stream.fileno())
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def build_folder(target: Path) -> Iterator[Path]:
    """Hold a hidden folder beside a folder that is to be made; whoever comes second waits.

    What is in it, a killed process has left. It stays, to be taken up by the next one, until
    `move_in` ends it; an empty one is removed.
    """
    work = target.with_name(f".{target.name}-building")
    with hold(work, f"building {str(target)!r}", wait=True):
        yield work


def move_in(made: Path, target: Path) -> None:
    """Put a finished folder in its place, and remove the folder in which it was made.

    Raises:
        OSError: something is at the target.
    """
    made.replace(target)
    shutil.rmtree(made.parent, ignore_errors=True)


def scratch_folder(kind: str) -> Path:
    """A temporary folder that is removed when the process ends; of a killed one, by the next."""
    for left in Path(tempfile.gettempdir()).glob(f"toolgym-{kind}-*"):
        with contextlib.suppress(RunMismatchError, OSError), hold(left, "using it"):
            shutil.rmtree(left)
    folder, held = Path(tempfile.mkdtemp(prefix=f"toolgym-{kind}-")), contextlib.ExitStack()
    held.enter_context(hold(folder, "using it"))
    held.callback(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(held.close)
    return folder


def cache_folder(kind: str = "indexes") -> Path:
    """Where what is made once is kept: ``$TOOLGYM_CACHE``, else the user's cache.

    Args:
        kind: ``indexes`` of plain corpora, or ``translators``: converted models.
    """
    named = os.environ.get("TOOLGYM_CACHE")
    if named:
        return Path(named) / kind
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "toolgym" / kind

"""What goes wrong on a machine while a model is trained, in one line with the next step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from toolgym.errors import BadInputError, ToolgymError

__all__ = ["explained"]

# torch and safetensors report these as errors of their own kinds; the text is all there is.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
_NO_SPACE = ("no space left", "os error 28", "pytorchstreamwriter failed")


@contextmanager
def explained(what: str, lighter: str) -> Iterator[None]:
    """Turn "out of memory" and "disk full" of any library into one line.

    Args:
        what: was being done.
        lighter: the next step where memory ran out.

    Raises:
        BadInputError: memory or disk were too small for what was asked.
    """
    try:
        yield
    except Exception as error:
        _explain(error, what, lighter)
        raise


def _explain(error: Exception, what: str, lighter: str) -> None:
    if isinstance(error, ToolgymError):
        return
    text = " ".join(str(error).split())
    folded = text.casefold()
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(part in folded for part in _NO_SPACE):
        raise BadInputError(
            f"the disk is full ({what}: {text:.160}); make room and run the same again: it goes on "
            "from the last whole checkpoint"
        ) from error
    if isinstance(error, MemoryError) or any(part in folded for part in _NO_MEMORY):
        raise BadInputError(f"out of memory ({what}: {text:.160}); {lighter}") from error

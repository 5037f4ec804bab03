"""Optional dependencies: imported where they are used, with one message when they are missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from toolgym.errors import MissingExtraError

# What a user has to know beside the extra's name: Linux gets CUDA builds of torch by default.
_HINTS = {
    "train": " (on a machine without a GPU install the CPU build of torch first, see README)",
    "verl": " (in a virtual environment of its own: what verl requires excludes the extra `train`)",
    "bfcl": " (or alone, without what excludes our other extras: pip install --no-deps bfcl-eval)",
}


def require_extra(module: str, extra: str) -> Any:
    """Import an optional module.

    Args:
        module: dotted module name.
        extra: the extra of toolgym that brings it.

    Raises:
        MissingExtraError: it is not installed; the message names the command that installs it.
    """
    try:
        with warnings.catch_warnings():
            # What tqdm says in a notebook without ipywidgets; our own bars need none.
            warnings.filterwarnings("ignore", message="IProgress not found")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing module *inside* the dependency is a broken installation, not a missing extra.
        if error.name is not None and not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtraError(
            f"{module!r} is not installed; it comes with: pip install 'toolgym[{extra}]'"
            f"{_HINTS.get(extra, '')}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without bars and notices of transformers, and without the hub client's line about each retry.

    Progress goes through callbacks here, and the error at the end of all retries says it all.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    # Loaded already where it will be used; this must not be what loads it.
    notices = sys.modules.get("transformers.utils.logging")
    if notices is not None:
        shown, verbosity = notices.is_progress_bar_enabled(), notices.get_verbosity()
        notices.disable_progress_bar()
        notices.set_verbosity_error()
    try:
        yield
    finally:
        hub.setLevel(level)
        if notices is not None:
            notices.set_verbosity(verbosity)
            if shown:
                notices.enable_progress_bar()


def installed_versions() -> dict[str, str]:
    """What a run may depend on, as installed."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    """Read once a process: what is imported stays, and each file takes a millisecond or two."""
    names = ("toolgym", "gymnasium", "numpy", "bm25s", "torch", "transformers", "trl", "aiohttp")
    found = {"python": platform.python_version()}
    for name in (*names, "mcp", "bfcl-eval"):  # whose classes are the tools of an environment
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found

"""Where what is made once is kept: indexes of corpora, converted models."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


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

"""``python -m toolgym.cli`` is the same as ``toolgym``."""

from __future__ import annotations

from toolgym.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()

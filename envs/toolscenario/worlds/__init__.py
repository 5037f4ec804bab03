"""Facts to ask about: invented worlds, the bundled facts, or your own."""

from __future__ import annotations

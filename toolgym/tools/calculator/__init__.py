"""What the calculator knows: a grammar, exact arithmetic, and algebra in a process of its own."""

from __future__ import annotations

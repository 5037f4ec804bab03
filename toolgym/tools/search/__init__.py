"""Search: an index built from passages in bounded memory, and the best passages for a query."""

from __future__ import annotations

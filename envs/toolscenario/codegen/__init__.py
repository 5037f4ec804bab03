"""Tools by plan: from one `ToolSpec` follow a document, reference calls and Python source."""

from __future__ import annotations

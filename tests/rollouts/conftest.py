"""Tasks that several test files of this folder play."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    """Twelve sums in a file, as arguments of an environment."""
    rows = [
        {"id": f"sum-{n}", "question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(12)
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"tasks": str(path)}

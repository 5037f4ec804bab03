"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped without it."""
    folder = os.environ.get("TOOLGYM_DATA")
    if not folder:
        pytest.skip("TOOLGYM_DATA is not set: these tests need the real data sets")
    return Path(folder)

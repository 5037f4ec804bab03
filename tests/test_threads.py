"""How long threads of OpenMP look before they sleep, and that the caller's own words stand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from toolgym._util.threads import wait_briefly

_NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("PASSIVE", "4000")),
        ({"OMP_WAIT_POLICY": "passive"}, ("passive", "4000")),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
        ({"GOMP_SPINCOUNT": "0"}, ("PASSIVE", "0")),
    ],
)
def test_what_the_environment_says_is_kept(
    said: dict[str, str], expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _NAMES:
        monkeypatch.setenv(name, "")  # so that what is set below goes again
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert tuple(map(os.environ.get, _NAMES)) == expected


def test_it_is_said_before_torch_is_there() -> None:
    """OpenMP reads it once, as it is loaded."""
    code = (
        "import os, sys, toolgym.training\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    )
    bare = {name: value for name, value in os.environ.items() if name not in _NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["PASSIVE", "4000"]

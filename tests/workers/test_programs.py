"""Programs of others: ended with all that they start, also where this process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import alive, wait_for

from toolgym._workers import programs
from toolgym._workers.programs import Program

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_program_is_ended_and_tells_its_code() -> None:
    program = Program(
        [sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"], {}, "/"
    )
    os.write(program.input, b"four")
    assert not program.exited()
    program.close_input()
    wait_for(program.exited)
    assert (program.end(), program.end()) == (4, 4)
    killed = Program(SLEEP, {}, None)
    killed.signal(signal.SIGTERM)
    wait_for(killed.exited)
    assert killed.end() == -signal.SIGTERM
    assert not programs._running


def test_a_program_that_cannot_be_started_is_an_error() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        Program(["no-such-program"], {}, None)
    with pytest.raises(ValueError, match="null byte"):
        Program(["a\0b"], {}, None)


def test_a_warden_that_was_ended_is_replaced_for_all_programs(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from toolgym._workers import programs\n"
        f"first = programs.Program({SLEEP!r}, {{}}, None)\n"
        "before = programs._warden.process\n"
        "before.kill()\n"
        "os.waitid(os.P_PID, before.pid, os.WEXITED | os.WNOWAIT)\n"
        f"second = programs.Program({SLEEP!r}, {{}}, None)\n"
        "warden = programs._warden.process.pid\n"
        "print(first.process.pid, second.process.pid, warden, before.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    first, second, warden, before = map(int, run.stdout.readline().split())
    assert warden != before
    assert all(map(alive, (first, second, warden)))
    run.kill()
    run.communicate()
    wait_for(lambda: not any(map(alive, (first, second, warden))))

"""Work folders: one holder, one comparison of settings, one way to publish."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym._util.jsonl import append_row, appending, dump_line, read_json, read_rows, write_rows
from toolgym._util.workfolder import build_folder, hold, move_in, same_settings
from toolgym.errors import RunMismatchError


def killed(code: str, *arguments: object) -> None:
    """Run code that ends its process with signal 9."""
    start = "import os, signal, sys; from pathlib import Path\n"
    start += "from toolgym._util.workfolder import *\nout = Path(sys.argv[1])\n"
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


DIE = "os.kill(os.getpid(), signal.SIGKILL)"


class TestHold:
    def test_a_second_holder_is_refused_in_one_line_until_the_first_is_done(
        self, tmp_path: Path
    ) -> None:
        folder = tmp_path / "new" / "run"
        with hold(folder, "writing to 'run'"):
            line = r"^another process is writing to 'run'; wait for it, or choose another folder$"
            with pytest.raises(RunMismatchError, match=line), hold(folder, "writing to 'run'"):
                pass
            (folder / "run.json").write_text("{}")
        with hold(folder, "writing"):
            pass
        assert [path.name for path in folder.iterdir()] == ["run.json"]

    def test_a_folder_in_which_nothing_was_done_is_not_left(self, tmp_path: Path) -> None:
        with suppress(KeyError), hold(tmp_path / "run", "writing"):
            raise KeyError
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_held_itself(self, tmp_path: Path) -> None:
        file = tmp_path / "tape.jsonl"
        file.write_text("{}\n")
        with (
            hold(file, "recording"),
            pytest.raises(RunMismatchError, match="recording"),
            hold(file, "recording"),
        ):
            pass
        assert file.read_text() == "{}\n"
        assert list(tmp_path.iterdir()) == [file]

    def test_a_kill_lets_go(self, tmp_path: Path) -> None:
        killed(f"with hold(out, 'x'): {DIE}", tmp_path / "run")
        with hold(tmp_path / "run", "writing"):
            held = list((tmp_path / "run").iterdir())
        assert [path.name for path in held] == [".lock"]

    def test_many_take_turns_though_each_removes_the_lock(self, tmp_path: Path) -> None:
        folder, inside = tmp_path / "run", [0]

        def work(_: int) -> int:
            with hold(folder, "counting", wait=True):
                inside[0] += 1
                alone = inside[0]
                (folder / "scratch").write_text("x")
                (folder / "scratch").unlink()
                inside[0] -= 1
            return alone

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(work, range(200))) == {1}

    def test_a_place_that_cannot_be_is_the_error_of_the_system(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
        (tmp_path / "file").write_text("")
        for place in ("link", "link/run", "file/run"):
            with pytest.raises(OSError, match=place.split("/")[0]), hold(tmp_path / place, "x"):
                pass

    def test_a_file_system_without_locks_is_refused_where_one_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_locks(*_: Any) -> None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(OSError, match="not implemented"), hold(tmp_path / "run", "writing"):
            pass
        assert write_rows(tmp_path / "rows.jsonl", [{"a": 1}]) == 1


PLAIN = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.dictionaries(st.text(max_size=3), inner) | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


class TestSameSettings:
    @pytest.mark.parametrize(
        ("before", "now", "message"),
        [
            ({"a": 1}, {"a": 2}, "'out' was begun with a = 1, now it is 2; choose another folder"),
            ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, "a.b.c = 1, now it is 2"),
            ({"a": 1}, {}, "a = 1, now it is null"),
            ({}, {"a": {"b": 1}}, 'a = null, now it is {"b": 1}'),
            ({"x": 0, "y": 1, "b": 3}, {"x": 9, "y": 2, "b": 3}, "y = 1, now it is 2"),
            ({"x": {"d": 1, "e": 1}}, {"x": {"d": 2, "e": 2}}, "x.e = 1, now it is 2"),
        ],
    )
    def test_the_first_key_that_differs_is_named(
        self, before: dict[str, Any], now: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(RunMismatchError) as caught:
            same_settings("out", before, now, free=("x", "*.d") if "y" in now else ("*.d",))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_long_values_that_begin_alike_look_different(self) -> None:
        with pytest.raises(RunMismatchError) as caught:
            same_settings("out", {"a": "x" * 900}, {"a": "x" * 901})
        old, new = str(caught.value).split("now it is")
        assert old.split("(hash ")[1][:12] != new.split("(hash ")[1][:12]
        assert len(str(caught.value)) < 400

    @given(PLAIN)
    def test_what_was_written_and_read_again_is_the_same(self, value: Any) -> None:
        same_settings("out", json.loads(json.dumps({"a": value})), {"a": value})
        if value is not None:
            with pytest.raises(RunMismatchError, match="begun with a"):
                same_settings("out", {"a": [value]}, {"a": value})


class TestPublish:
    def test_an_error_and_a_kill_leave_the_old_file_and_the_next_writer_no_remains(
        self, tmp_path: Path
    ) -> None:
        target = tmp_path / "rows.jsonl"
        write_rows(target, [{"a": 1}])
        with pytest.raises(ValueError, match="JSON"):
            write_rows(target, iter([{"a": 2}, {"a": float("nan")}]))
        assert list(tmp_path.iterdir()) == [target]
        killed(f"with publish(out) as part: part.write_text('half'); {DIE}", target)
        assert list(read_rows(target)) == [(1, {"a": 1})]
        assert len(list(tmp_path.iterdir())) == 2
        write_rows(target, [{"a": 3}])
        assert list(read_rows(target)) == [(1, {"a": 3})]
        assert list(tmp_path.iterdir()) == [target]

    def test_writers_at_once_leave_one_whole_file(self, tmp_path: Path) -> None:
        target = tmp_path / "new" / "rows.jsonl"
        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(lambda n: write_rows(target, [{"n": n}] * 50), range(40)))
        assert counts == [50] * 40
        rows = [row["n"] for _, row in read_rows(target)]
        assert rows == rows[:1] * 50
        assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_a_kill_left_half_made_is_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "model"
    killed(
        "with build_folder(out) as work:\n (work / 'done').mkdir(); (work / 'done' / 'a').touch()\n"
        f" {DIE}",
        target,
    )
    assert [path.name for path in tmp_path.iterdir()] == [".model-building"]
    with build_folder(target) as work:
        assert (work / "done" / "a").exists()
        move_in(work / "done", target)
    assert list(tmp_path.iterdir()) == [target]
    with build_folder(target) as work:
        (work / "done").mkdir()
        with pytest.raises(OSError, match="not empty"):
            move_in(work / "done", target)
    assert [path.name for path in target.iterdir()] == ["a"]


def test_a_temporary_folder_of_a_killed_process_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed(f"(scratch_folder('x') / 'big').write_text('x'); {DIE}", tmp_path)
    (dead,) = tmp_path.iterdir()
    code = (
        "from toolgym._util.workfolder import scratch_folder as new\n"
        "one, two = new('x'), new('x')\n"
        "assert one.is_dir() and two.is_dir() and one != two\n"
        "print(len(list(one.parent.iterdir())))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "2\n"
    assert not dead.exists()
    assert list(tmp_path.iterdir()) == []


class _Full:
    """A stream on a disk that is full after some bytes."""

    def __init__(self, stream: Any, room: int) -> None:
        self._stream, self._room = stream, room
        self.tell, self.truncate = stream.tell, stream.truncate

    def write(self, view: memoryview) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count: int = self._stream.write(view[: self._room])
        self._room -= count
        return count


ROWS = st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers(), max_size=3))


@given(before=ROWS, torn=st.integers(0, 60), after=ROWS)
def test_rows_survive_a_full_disk_and_a_kill_in_the_middle_of_a_line(
    tmp_path_factory: pytest.TempPathFactory, before: Any, torn: int, after: Any
) -> None:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lost = {"lost": "\N{SNOWMAN}" * 20}
    with appending(file) as stream:
        for row in before:
            append_row(stream, row)
        with pytest.raises(OSError, match="space"):
            append_row(_Full(stream, torn), lost)  # type: ignore[arg-type]
        for row in after:
            append_row(stream, row)
    with file.open("ab") as killed_writer:
        killed_writer.write(dump_line(lost).encode()[:torn])
    assert [row for _, row in read_rows(file, torn=True)] == before + after
    with appending(file) as stream:
        append_row(stream, {"last": 1})
    assert [row for _, row in read_rows(file)] == [*before, *after, {"last": 1}]


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "{", "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json' (is not valid JSON|must hold)"):
            read_json(tmp_path / "x.json")

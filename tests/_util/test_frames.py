"""Files of lines compressed with zstd: any line is found, and what a kill leaves is cut off."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from toolgym._util import frames
from toolgym._util.frames import FrameWriter, LineFile, drop_torn_frame
from toolgym._util.jsonl import append_line, appending, read_lines, write_raw
from toolgym.errors import BadInputError

LINES = st.lists(
    st.binary(min_size=1, max_size=60).map(lambda b: b"x" + b.replace(b"\n", b"") + b"\n"),
    min_size=1,
    max_size=12,
)
NOTE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"


def as_frames(lines: list[bytes]) -> list[bytes]:
    return [zstandard.ZstdCompressor().compress(line) for line in lines]


def streamed(data: bytes, size: int) -> bytes:
    """As the zstd tool packs what comes through a pipe: in frames that do not say their length."""
    found = io.BytesIO()
    for begin in range(0, len(data), size):
        packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
        found.write(packer.compress(data[begin : begin + size]) + packer.flush())
    return found.getvalue()


def check(path: Path, lines: list[bytes]) -> None:
    """Every way of reading gives the lines, and each line stands where it is said to."""
    read = list(read_lines(path))
    assert [raw for _, _, raw in read] == lines
    with LineFile(path) as file:
        for number, position, raw in reversed(read):
            assert file.line(position) == raw == lines[number - 1]


@given(LINES, st.integers(1, 200), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_lines_of_frames_of_any_size(lines: list[bytes], size: int, huge: bool, note: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "_LARGEST", 20 if huge else 1 << 22)
        path = Path(folder) / "t.jsonl.zst"
        path.write_bytes(NOTE * note + streamed(b"".join(lines), size) + NOTE * note)
        check(path, lines)
        patch.setattr(frames, "FRAME", size)
        write_raw(path, lines)
        check(path, lines)
        before = path.read_bytes()
        write_raw(path, iter(lines))
        assert path.read_bytes() == before


@given(LINES, LINES, st.data())
@settings(deadline=None, max_examples=60)
def test_a_writer_may_be_killed_at_any_byte(
    lines: list[bytes], more: list[bytes], data: st.DataObject
) -> None:
    packed = as_frames(lines)
    whole = b"".join(packed)
    cut = data.draw(st.integers(0, len(whole)))
    kept = sum(len(b"".join(packed[: n + 1])) <= cut for n in range(len(packed)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl.zst"
        path.write_bytes(whole[:cut])
        assert [raw for *_, raw in read_lines(path, torn=True)] == lines[:kept]
        if cut not in (len(b"".join(packed[:kept])),):
            with pytest.raises(BadInputError, match="ends in the middle of a zstd frame"):
                list(read_lines(path))
        with appending(path) as stream:
            for line in more:
                append_line(stream, line.decode("latin-1"))
        check(path, lines[:kept] + [line.decode("latin-1").encode() for line in more])
        assert zstandard.ZstdDecompressor().stream_reader(
            io.BytesIO(path.read_bytes()), read_across_frames=True
        ).read() == b"".join(lines[:kept]) + b"".join(x.decode("latin-1").encode() for x in more)


def test_a_torn_line_that_was_compressed_whole_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(streamed(b"one\ntwo\nthr", 5))
    assert [raw for *_, raw in read_lines(path, torn=True)] == [b"one\n", b"two\n"]
    drop_torn_frame(path)
    check(path, [b"one\n", b"two\n"])


@pytest.mark.parametrize("content", [b"plain text\n", b"\x28\xb5\x2f\xfdjunk", b"\x00" * 40])
def test_what_is_not_zstd_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"t\.jsonl\.zst") as error:
        list(read_lines(path))
    assert "\n" not in str(error.value)


def test_a_damaged_frame_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    writer = FrameWriter(stream)  # type: ignore[arg-type]
    writer.write(b"some line of text that is long enough to be packed, packed, packed\n" * 40)
    writer.flush()
    content = bytearray(stream.getvalue())
    content[-2] ^= 1  # of the checksum
    path = tmp_path / "t.jsonl.zst"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="is damaged in the zstd frame that ends at byte"):
        list(read_lines(path))
    with LineFile(path) as file, pytest.raises(BadInputError, match="is damaged"):
        file.line(0)

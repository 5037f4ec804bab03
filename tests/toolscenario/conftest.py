"""Fixtures of the scenario tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from toolgym._util.jsonl import write_rows

pytest.importorskip("aiohttp")

from scripted_model import KEY, QUESTIONS, Model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr("toolgym.policies.client._FIRST_DELAY", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Model()
    yield made
    made.end()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "q.jsonl"
    write_rows(path, QUESTIONS)
    return path


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port, and what connected to it."""
    connected: list[Any] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.05)
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                try:
                    connected.append(server.accept()[1])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1], connected
        ended.set()
        thread.join()

"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time: the cores are shared.
settings.register_profile("toolgym", deadline=None)
settings.load_profile("toolgym")

# Before torch or a tokenizer is imported: test processes share the cores, and no test may depend on
# what a hub says today.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


# A suite that is started with Ctrl-C ignored (``nohup make test &``) would hand that on to each
# process that it starts; a handler of its own does not travel: they begin with the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Search indexes of test corpora must neither fill the user's cache nor come from it.
os.environ.setdefault("TOOLGYM_CACHE", tempfile.mkdtemp(prefix="toolgym-test-cache-"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped without it."""
    folder = os.environ.get("TOOLGYM_DATA")
    if not folder:
        pytest.skip("TOOLGYM_DATA is not set: these tests need the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a few training steps: everything can be run with it, and it knows nothing."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from toolgym._util.optional import quiet
    from toolgym.miniature.model import BaseSettings
    from toolgym.miniature.preset import build_base

    with quiet():
        return build_base(tmp_path_factory.mktemp("base"), settings=BaseSettings.tiny())

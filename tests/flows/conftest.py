"""The flows' tests run on a real sandbox exchange."""

import pickle
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest
from sandbox_cycles import START, SYMBOL
from sandbox_positions import ETH
from sandbox_server import running_sandbox

from flows import protect as watch
from tasks import execute, fetch, ledger, protect
from tasks.adapters.quality import suite
from tasks.core.types import DataFailure
from tasks.settings import settings

HISTORY_BARS = "300"  # what is traded here needs no longer past, and each test fetches and keeps its own


@pytest.fixture(autouse=True, scope="session")
def judged_once() -> Iterator[None]:
    """Validate the very same frames once (300 ms): most tests begin at one hour of one market."""
    judge, known = suite.validate, dict[bytes, list[DataFailure]]()

    def remembered(frames: suite.Frames, as_of: datetime) -> list[DataFailure]:
        asked = sha256(pickle.dumps((frames, as_of))).digest()
        if asked not in known:
            known[asked] = judge(frames, as_of)
        return [*known[asked]]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(suite, "validate", remembered)
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again as often as in life, and fifty times as soon: the sandbox's clock stands still meanwhile."""
    for module in (execute, fetch, ledger, protect):
        monkeypatch.setattr(module, "PAUSES", tuple(pause / 50 for pause in module.PAUSES))
    monkeypatch.setattr(watch, "PAUSE_S", 0.01)


@pytest.fixture
def exchange(home: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a sandbox with one symbol, its time stepped, which the settings name."""
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SYMBOL)
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", HISTORY_BARS)
        settings.cache_clear()
        yield url


@pytest.fixture
def two_symbols(home: Path, impatient: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a sandbox like `exchange`, with two symbols."""
    with running_sandbox(symbols=(SYMBOL, ETH), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", f"{SYMBOL},{ETH}")
        monkeypatch.setenv("QUARTERDECK_HISTORY_BARS", HISTORY_BARS)
        settings.cache_clear()
        yield url


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a venue that does not answer again at once: its clock stands still meanwhile."""
    monkeypatch.setattr(execute, "IN_FLIGHT_S", 0.0)
    for module in (execute, protect, ledger):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))

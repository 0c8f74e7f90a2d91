"""The flows' tests run on a real sandbox exchange."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_cycles import START, SYMBOL
from sandbox_positions import ETH
from sandbox_server import running_sandbox

from tasks import execute, ledger, protect
from tasks.settings import settings


@pytest.fixture
def exchange(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a sandbox with one symbol, its time stepped, which the settings name."""
    with running_sandbox(symbols=(SYMBOL,), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", SYMBOL)
        settings.cache_clear()
        yield url


@pytest.fixture
def two_symbols(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a sandbox like `exchange`, with two symbols."""
    with running_sandbox(symbols=(SYMBOL, ETH), start=START, stepped=True, seed=3) as url:
        monkeypatch.setenv("QUARTERDECK_SANDBOX_URL", url)
        monkeypatch.setenv("QUARTERDECK_SYMBOLS", f"{SYMBOL},{ETH}")
        settings.cache_clear()
        yield url


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a venue that does not answer again at once: its clock stands still meanwhile."""
    for module in (execute, protect, ledger):
        monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))

"""The flows' tests run on a real sandbox exchange and under Prefect's own harness, each started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_cycles import START, SYMBOL
from sandbox_positions import ETH
from sandbox_server import running_sandbox

from tasks import connections, execute, ledger, protect
from tasks.settings import settings


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of our own (about 20 s)."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state of its own for each test."""
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path))
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", "")
    for name in ("QUARTERDECK_DECIDER", "QUARTERDECK_MODEL", "QUARTERDECK_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()
    connections.close_stores()


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

"""The flows' tests run on a real sandbox exchange and under Prefect's own harness, each started once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import connections
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

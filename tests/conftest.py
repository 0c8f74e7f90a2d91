"""No test reaches a model or a network: only servers that the tests start on this machine."""

import gc
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

MEMORY = Path("/dev/shm")  # thousands of commits would each wait for a disk; the 64 MB of a container are too few
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
ssl.create_default_context = cache(ssl.create_default_context)  # 20 ms for each client; no test speaks TLS
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["QUARTERDECK_NO_MODEL_CALLS"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
_home = tempfile.TemporaryDirectory(prefix="quarterdeck-tests-")  # of a test that asks for none of its own
os.environ["QUARTERDECK_HOME"] = _home.name
os.environ["QUARTERDECK_MLFLOW_URL"] = ""
os.environ["QUARTERDECK_BUDGET__USD_PER_1K_TOKENS"] = "0.01"  # the tests' servers stand for providers, which take money

# A busy machine is not a failing test, and a landing must not depend on the examples of the day.
hypothesis_settings.register_profile(
    "quarterdeck",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("quarterdeck")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server of our own (about 20 s)."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state of its own for each test."""
    from tasks.adapters.store.database import Database
    from tasks.settings import settings
    from tests import migrated
    from tests.closing import close_stores

    monkeypatch.setattr(Database, "migrate", migrated.migrate)
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path))
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", "")
    monkeypatch.setenv("QUARTERDECK_PATIENCE_S", "0")  # the sandbox tells at once, unless a test asks otherwise
    for name in ("QUARTERDECK_DECIDER", "QUARTERDECK_MODEL", "QUARTERDECK_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()
    close_stores()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files with slow tests begin first where several processes share them: one at the end keeps one alone busy."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at the millions of objects that imports have made, nor come too often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """Leave nothing behind; what still writes there by now is a thread that the process takes with it."""
    gc.freeze()  # pytest collects five times over at the end
    shutil.rmtree(_home.name, ignore_errors=True)
    _home.cleanup()

"""A real MLflow server for tests, in a folder of its own."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
from free_ports import free_port
from starlette.types import ASGIApp

from deployments.servers import MLFLOW_ORIGINS, mlflow_alone
from tasks.settings import ROOT


def app() -> ASGIApp:
    """Return what `up` starts, in one process and not in two as `mlflow server`, but without the door."""
    os.environ |= {MLFLOW_ORIGINS: "", "PREFECT_SERVER_API_AUTH_STRING": "no:door"}
    return mlflow_alone().app


def healthy(url: str, server: subprocess.Popen[bytes], seconds: float = 180) -> bool:
    """Wait until the server answers; False when it has ended instead, as it does where its port is taken."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:
                if reply.status == 200:
                    return True
        except (URLError, OSError):
            time.sleep(0.3)
    server.terminate()
    pytest.fail(f"no MLflow server at {url} after {seconds} s")


def serve_mlflow(home: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Start an MLflow server; on another port where the first one was taken meanwhile."""
    given = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home / 'mlflow.db'}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(home / "artifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}",
    }
    for _ in range(3):
        port = str(free_port())
        command = [sys.executable, "-m", "uvicorn", "--factory", "mlflow_server:app", "--port", port]
        with (home / "log").open("ab") as log:
            server = subprocess.Popen(command, env={**os.environ, **given}, cwd=home, stdout=log, stderr=log)
        if healthy(f"http://127.0.0.1:{port}", server):
            return f"http://127.0.0.1:{port}", server
    pytest.fail(f"the MLflow server ended while starting: {(home / 'log').read_text()[-1000:]}")


@contextmanager
def running_mlflow(home: Path) -> Iterator[str]:
    """Serve MLflow from a folder; yields its address."""
    address, server = serve_mlflow(home)
    try:
        yield address
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()

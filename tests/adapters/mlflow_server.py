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
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    for _ in range(3):
        port = str(free_port())
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1",
            "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}",
            "--artifacts-destination", str(home / "artifacts"),
        ]  # fmt: skip
        with (home / "log").open("ab") as log:
            server = subprocess.Popen(command, env={**os.environ, **quiet}, cwd=home, stdout=log, stderr=log)
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
        server.terminate()  # it passes the signal on to its one worker
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()

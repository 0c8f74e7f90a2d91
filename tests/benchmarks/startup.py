"""From `quarterdeck up --once` to the first completed cycle: where the time goes."""

import json
import os
import subprocess
import sys
import tempfile
import time

from tests.adapters.free_ports import free_port


def main() -> None:
    """Start everything in a fresh HOME on free ports, and print the seconds per step that it reports."""
    with tempfile.TemporaryDirectory() as home:
        ports = [free_port() for _ in range(3)]
        env = {
            **os.environ, "QUARTERDECK_HOME": home, "QUARTERDECK_SANDBOX_URL": f"http://127.0.0.1:{ports[0]}",
            "QUARTERDECK_PREFECT_API_URL": f"http://127.0.0.1:{ports[1]}/api",
            "QUARTERDECK_MLFLOW_URL": f"http://127.0.0.1:{ports[2]}",
        }  # fmt: skip
        began = time.perf_counter()
        command = [sys.executable, "-m", "deployments.cli", "up", "--once", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
        print(f"exit={done.returncode} wall_s={time.perf_counter() - began:.1f}")
        document = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "{}"
        for name, value in json.loads(document).items():
            print(f"{name}: {value}")

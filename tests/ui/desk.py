"""The desk of an account that traded for some simulated hours, on a wide screen and on a phone's."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from free_ports import free_port
from playwright.sync_api import Error, Page, ViewportSize

from tests.chaos.world import Databases, world
from tests.soak import week
from ui import walk

HOURS, SEED = 5.0, 4
SCREENS: dict[str, ViewportSize] = {
    "desk": {"width": 1400, "height": 900}, "desk-phone": {"width": 400, "height": 860},
}  # fmt: skip


def pictures(shoot: walk.Shoot) -> None:
    """Trade, serve the desk as `quarterdeck metrics` does, and look at it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        world(Databases(Path(folder), postgres=False), SEED, postgres=False) as here,
    ):
        week.soak(here, HOURS, SEED, time.monotonic() + 900)
        port = free_port()
        command = [sys.executable, "-m", "deployments.cli", "metrics", "--port", str(port)]
        with subprocess.Popen(command) as served, walk.browser() as page:
            try:
                for name, screen in SCREENS.items():
                    page.set_viewport_size(screen)
                    _open(page, f"http://127.0.0.1:{port}/desk")
                    page.set_viewport_size(screen | {"height": page.evaluate("document.body.scrollHeight")})
                    shoot(name, page)
            finally:
                served.terminate()


def _open(page: Page, url: str) -> None:
    """Go there once something answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            page.goto(url)
        except Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return

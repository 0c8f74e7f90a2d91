"""Make the pictures that the README and the docs show: `python -m tests.ui [FOLDER]`, by default docs/images."""

import signal
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "adapters")]

from ui import desk, system, walk  # noqa: E402  (their path is set above)

COLORS = 64


def main(into: Path) -> None:
    """Start everything, walk through both pages, and save what is seen."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing running
    into.mkdir(parents=True, exist_ok=True)

    def shoot(name: str, page: Page) -> None:
        small = Image.open(BytesIO(page.screenshot())).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        small.save(into / f"{name}.png", optimize=True)
        print(f"{name}.png {(into / f'{name}.png').stat().st_size / 1000:.0f} kB")

    with tempfile.TemporaryDirectory() as folder, system.running(Path(folder)) as started, walk.browser() as page:
        walk.enter(page, started.opened)
        walk.deployments(page, started.prefect, shoot)
        walk.ask(page, system.SYMBOL, system.QUESTION, system.earlier_close(started), shoot)
        walk.wait_completed(page)
        walk.decision(page, shoot)
        asked = page.url
        found = system.compare_prompts(started)
        first, second = (row["label"] for row in found["rows"][:2])
        walk.compare_runs(page, started.mlflow, (first, second), shoot)
        page.goto(asked)
        walk.evaluation(walk.trace(page, shoot), shoot)
        started.quarterdeck("prompts", "sync")
        walk.prompt(page, started.mlflow, "single", 3, shoot)
    desk.pictures(shoot)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")

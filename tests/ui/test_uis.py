"""Prefect's and MLflow's pages do what the README says one does there. Needs a Chromium; costs one `up`."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from ui import system, walk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(walk.chromium() is None, reason="no chromium on PATH (Debian: apt-get install chromium)"),
]


def test_a_person_asks_in_prefect_and_compares_prompts_in_mlflow(tmp_path):
    with system.running(tmp_path) as started, walk.browser() as page:
        walk.enter(page, started.opened)
        assert {"watch", "trade-15m", "trade-adhoc", "protect", "settle"} <= set(
            walk.deployments(page, started.prefect)
        )
        walk.ask(page, system.SYMBOL, system.QUESTION, system.earlier_close(started))
        walk.wait_completed(page)
        told = walk.decision(page)
        assert "OPEN_LONG" in told
        assert system.QUESTION in told
        assert system.ENTRY["reasoning"] in told

        found = system.compare_prompts(started)
        first, second = (row["label"] for row in found["rows"][:2])
        compared = walk.compare_runs(page, started.mlflow, (first, second))
        assert "single/v001" in compared
        assert "single/v002" in compared
        assert "expectancy_r" in compared

"""Prefect's and MLflow's pages do what the README says one does there. Needs a Chromium; costs one `up`."""

import json
import re
from decimal import Decimal

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tasks.adapters.files.prompts import files_of
from ui import system, walk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(walk.chromium() is None, reason="no chromium on PATH (Debian: apt-get install chromium)"),
]


def test_a_person_asks_in_prefect_and_compares_prompts_in_mlflow(tmp_path):
    with system.running(tmp_path) as started, walk.browser() as page:
        walk.enter(page, started.opened)
        assert {"trade-15m", "trade-adhoc", "protect", "settle"} <= walk.deployments(page, started.prefect)
        walk.ask(page, system.SYMBOL, system.QUESTION, system.earlier_close(started))
        walk.wait_completed(page)
        told, asked = walk.decision(page), page.url
        assert "OPEN_LONG" in told
        assert system.QUESTION in told
        assert system.ENTRY["reasoning"] in told

        found = system.compare_prompts(started)
        first, second = (row["label"] for row in found["rows"][:2])
        compared = walk.compare_runs(page, started.mlflow, (first, second))
        assert "single/v003" in compared
        assert "single/v004" in compared
        assert "expectancy_r" in compared

        page.goto(asked)
        traced = walk.trace(page)
        back = walk.follow(walk.way_back(traced))
        assert back.url.rpartition("/")[2] == asked.partition("?")[0].rpartition("/")[2]
        version, evaluated = walk.evaluation(traced)
        assert "Viewing version 3" in version
        assert first in evaluated
        assert "net_r/mean" in evaluated

        started.quarterdeck("prompts", "sync")
        shown = walk.prompt(page, started.mlflow, "single", 3)
        assert files_of("single")[2].why in shown
        assert "Model: openai/scripted" in shown
        assert "Structured output" in shown


def test_what_a_person_set_in_prefect_stays_through_a_restart_and_a_deploy(tmp_path):
    with system.running(tmp_path) as started:
        with walk.browser() as page:
            walk.enter(page, started.opened)
            walk.open_deployment(page, started.prefect, "trade-15m")
            walk.run_every(page, 45)
            walk.open_deployment(page, started.prefect, "trade-1h")
            walk.switch_off(page)
        started.quarterdeck("down")
        started.quarterdeck("up", "--detach")
        started.quarterdeck("deploy")
        with walk.browser() as page:
            walk.enter(page, started.opened)
            walk.open_deployment(page, started.prefect, "trade-15m")
            assert walk.schedules(page) == {"toggle Every 45 minutes": True}
            walk.open_deployment(page, started.prefect, "trade-1h")
            assert walk.schedules(page) == {"toggle Every 1 hour": False}
            started.quarterdeck("deploy", "--reset")
            walk.open_deployment(page, started.prefect, "trade-15m")
            assert walk.schedules(page) == {"toggle Every 15 minutes": True}


def test_a_person_approves_less_of_an_entry_and_closes_it_by_forms(tmp_path):
    # the market of the sandbox goes on for the ten minutes and more since the close that is asked about
    moved = {"QUARTERDECK_LIMITS__MAX_SLIPPAGE_BPS": "500"}
    with system.running(tmp_path, QUARTERDECK_APPROVE="entries", **moved) as started, walk.browser() as page:
        walk.enter(page, started.opened)
        walk.deployments(page, started.prefect)
        walk.ask(page, system.SYMBOL, system.QUESTION, system.earlier_close(started))
        walk.wait_completed(page)
        assert "no open positions" in started.quarterdeck("positions")
        asked = walk.approve(page, started.prefect, 50)
        proposed = re.search(r"OPEN_LONG BTC/USDT:USDT, ([\d.]+) BTC", asked)
        [held] = json.loads(started.quarterdeck("positions", "--json"))["positions"]
        assert 0 < Decimal(held["quantity"]) <= Decimal(proposed[1]) / 2
        walk.close(page, started.prefect, system.SYMBOL)
        assert "no open positions" in started.quarterdeck("positions")

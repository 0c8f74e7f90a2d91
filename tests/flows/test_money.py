"""What models cost is one number in budget, `status`, report, MLflow and decision, and says how it is known."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from model_server import ModelServer, Reply
from moments_sample import moment
from store_samples import a_full_cycle

from deployments.status import status
from tasks import connections, mirror
from tasks.adapters.charts.comparison_report import page_of
from tasks.adapters.deciders import build
from tasks.connections import store
from tasks.core.pages.decision import to_markdown
from tasks.core.pages.numbers import plain
from tasks.core.types import Answer, Question, day_start, exact_sum
from tasks.desk import read_day
from tasks.settings import settings

HOLD = '{"action":"HOLD","confidence":0.5}'


def answers(server: ModelServer, monkeypatch, given: str, *replies: Reply, model: str = "openai/nobody") -> None:
    """Decide once for each reply, and keep what was decided as live does."""
    env = {"MODEL": model, "MODEL_BASE_URL": server.url, "BUDGET__USD_PER_1K_TOKENS": given, "PROVIDER_TIMEOUT_S": "1"}
    for name, value in env.items():
        monkeypatch.setenv(f"QUARTERDECK_{name}", value) if value else monkeypatch.delenv(f"QUARTERDECK_{name}")
    settings.cache_clear()
    now, kept = datetime.now(UTC), store()
    for n, reply in enumerate(replies):
        server.default = reply
        question = Question(snapshot=moment(50 + n))
        [answer] = asyncio.run(build("llm:single", settings(), kept).decide([question]))
        kept.cycles.save(a_full_cycle(f"c{n}", as_of=now - timedelta(seconds=n), decided=answer), now)


def everywhere() -> tuple[str, Decimal]:
    """Return what each place says models cost today, which must be the same, and the amount."""
    now = datetime.now(UTC)
    models, day = status(settings())["models"], read_day(now.date())
    booked, metrics = store().budget.spent(now), mirror.session_metrics(now.date())[0]
    usd, calls = models["usd_today"], models["calls_today"]
    assert (models["usd_booked"], booked.usd, booked.calls, models["calls_booked"]) == (usd, usd, calls, calls)
    assert (metrics["cost_usd"], metrics["model_calls"]) == (float(usd), calls)
    assert metrics["model_tokens"] == models["tokens_today"]
    assert exact_sum(use.cost_usd for use in store().decisions.model_use(day_start(now))) == usd
    assert exact_sum(answer.cost_usd for _, answer in day.decided) == usd
    assert f"models {models['cost']}," in day.headline
    assert models["cost"] in page_of("daily.html.j2", day=day, picture="", tables=[], told={})
    return models["cost"], usd


def page(n: int = 0) -> str:
    found = next(record for record in store().cycles.oldest_first() if record.cycle_id == f"c{n}")
    kept: Answer = store().decisions.of([f"c{n}"])[f"c{n}"]
    return to_markdown(found.replace(decided=kept))


def test_an_unknown_price_is_assumed_and_says_so_wherever_it_appears(home, monkeypatch):
    with ModelServer() as server:
        answers(server, monkeypatch, "0.01", Reply(HOLD, tokens_in=6000, tokens_out=250), Reply(HOLD, tokens_in=1))
    said, usd = everywhere()
    assert usd == Decimal("0.0625") + Decimal("0.00001") * sum([1, Reply(HOLD).tokens_out])
    assert said.endswith("USD (assumed)")
    assert "0.0625 USD (assumed)" in page()


def test_a_model_on_this_machine_is_free_and_says_so_unless_the_settings_have_a_price(home, monkeypatch):
    with ModelServer() as server:
        answers(server, monkeypatch, "", Reply(HOLD, tokens_in=6000, tokens_out=250), model="openai/gpt-4o")
    assert everywhere() == ("0 USD (free: served here)", 0)
    assert "0 USD (free: served here)" in page()


def test_a_known_price_is_marked_by_nothing(home, monkeypatch):
    with ModelServer() as server:
        answers(server, monkeypatch, "0.01", Reply(HOLD, tokens_in=6000, tokens_out=250), model="openai/gpt-4o")
    said, usd = everywhere()
    assert said == f"{plain(usd)} USD"
    assert 0 < usd < 1


def test_what_the_budget_refused_is_no_call(home, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_BUDGET__CALLS_PER_DAY", "1")
    with ModelServer() as server:
        answers(server, monkeypatch, "0.01", Reply(HOLD, tokens_in=10), Reply(HOLD, tokens_in=10))
    assert everywhere()[1] > 0
    assert status(settings())["models"]["calls_today"] == 1


def test_a_shadow_pays_the_price_that_the_settings_have_for_the_champion(home, monkeypatch):
    with ModelServer(default=Reply(HOLD, tokens_in=6000, tokens_out=250)) as server:
        answers(server, monkeypatch, "0.02")
        [answer] = asyncio.run(connections.decider("llm:single", shadow=True).decide([Question(snapshot=moment(50))]))
    assert (answer.cost_usd, [call.pricing for call in answer.calls]) == (Decimal("0.125"), ["assumed"])
    assert everywhere()[1] == 0, "out of a purse of its own"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True), ("http://localhost/v1", True), ("http://[::1]:1/v1", True), ("", False),
        ("http://192.168.1.5:8000/v1", False), ("https://127.0.0.1.example.com/v1", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_this_machine(url, local):
    from tasks.adapters.model.litellm_model import is_local

    assert is_local(url) is local

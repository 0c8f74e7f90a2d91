"""Late runs of a schedule end at once, by name; a run that somebody asked for never does."""

import importlib
from datetime import UTC, datetime, timedelta

import pytest

from flows import clock
from tasks import fetch
from tasks.connections import store
from tasks.core.errors import VenueError
from tasks.core.types.alert import AlertKind
from tasks.settings import settings

LATEST = {"trade": 840, "protect": 240, "settle": 1800, "watch": 240}
STORY = {"trade": "run_cycles", "protect": "reconcile", "settle": "settle_all", "watch": "look"}


@pytest.fixture
def due(monkeypatch):
    """Say how many seconds ago this run was due."""

    def ago(seconds: float | None) -> None:
        at = None if seconds is None else datetime.now(UTC) - timedelta(seconds=seconds)
        monkeypatch.setattr(clock, "scheduled_time", lambda: at)

    return ago


@pytest.fixture
def told(monkeypatch):
    """Replace each flow's story by one that only says it was told."""
    stories: list[str] = []
    for flow, story in STORY.items():

        async def tell(*_: object, flow: str = flow) -> dict[str, int]:
            stories.append(flow)
            return {}

        monkeypatch.setattr(importlib.import_module(f"flows.{flow}"), story, tell)
    return stories


@pytest.mark.parametrize(("late", "skipped"), [(None, False), (0, False), (55, False), (61, True), (-300, False)])
def test_a_run_is_too_old_once_it_is_later_than_it_may_be(due, late, skipped):
    due(late)
    state = clock.too_old(60)
    assert (state is not None) is skipped
    if state is not None:
        assert (state.name, state.is_cancelled()) == ("Skipped", True)
        assert state.message == "61 s late, more than 60 s: skipped"


def asked(flow: str, **options: object):
    run = getattr(importlib.import_module(f"flows.{flow}"), flow)
    return run.fn(**({"trigger": "schedule", "reason": ""} if flow == "trade" else {}), **options)


@pytest.mark.parametrize("flow", LATEST)
async def test_a_late_scheduled_run_is_skipped_and_does_nothing(home, due, told, flow):
    due(LATEST[flow] + 5)
    state = await asked(flow)
    assert state.name == "Skipped"
    assert told == []


@pytest.mark.parametrize("flow", LATEST)
async def test_a_scheduled_run_that_is_not_too_late_tells_its_story(home, due, told, flow):
    due(LATEST[flow] - 30)
    await asked(flow)
    assert told == [flow]


@pytest.mark.parametrize("flow", LATEST)
async def test_how_late_a_run_may_be_can_be_said(home, due, told, flow):
    due(LATEST[flow] - 30)
    assert (await asked(flow, max_age_s=60)).name == "Skipped"
    due(LATEST[flow] + 60)
    await asked(flow, max_age_s=LATEST[flow] + 120)
    assert told == [flow]


@pytest.mark.parametrize("trigger", ["event", "adhoc"])
async def test_what_an_event_or_a_person_asks_for_is_never_too_old(home, due, told, trigger):
    from flows.trade import trade

    due(86_400)
    assert await trade.fn(trigger=trigger, reason="") == []
    assert told == ["trade"]


class Venue:
    """A venue whose clock is so many seconds off ours."""

    name = "bybit-live"

    def __init__(self, off_s: float) -> None:
        self.off = timedelta(seconds=off_s)

    async def now(self) -> datetime:
        return datetime.now(UTC) + self.off


@pytest.mark.parametrize("off_s", [-3600, -61, 61, 2_300_000_000])  # the last: 2099
@pytest.mark.parametrize("profile", ["testnet", "live", "paper"])
async def test_a_venue_clock_that_is_not_of_our_time_is_refused_and_told_once(profile, off_s, home, monkeypatch):
    monkeypatch.setattr(fetch, "venue", lambda: Venue(off_s))
    monkeypatch.setenv("QUARTERDECK_PROFILE", profile)
    settings.cache_clear()
    for _ in range(2):
        with pytest.raises(VenueError, match=r"the venue says it is .*; set this machine's clock"):
            await fetch.venue_now()
    assert [kind for _, kind, _ in store().alerts.since(datetime.min.replace(tzinfo=UTC))] == [AlertKind.CLOCK]


@pytest.mark.parametrize("given", [{"PROFILE": "sandbox"}, {"PROFILE": "paper", "VENUE_URL": "http://127.0.0.1:1"}])
async def test_a_sandbox_may_replay_another_time_and_a_venue_be_seconds_off(given, home, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(f"QUARTERDECK_{name}", value)
    settings.cache_clear()
    monkeypatch.setattr(fetch, "venue", lambda: Venue(-50_000_000))
    assert (await fetch.venue_now()).year < datetime.now(UTC).year
    monkeypatch.setenv("QUARTERDECK_PROFILE", "live")
    monkeypatch.delenv("QUARTERDECK_VENUE_URL", raising=False)
    settings.cache_clear()
    monkeypatch.setattr(fetch, "venue", lambda: Venue(45))
    assert (await fetch.venue_now()) > datetime.now(UTC) + timedelta(seconds=40)

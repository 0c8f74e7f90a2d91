"""Old bulk goes, on both databases; what explains a decision stays."""

from datetime import timedelta
from decimal import Decimal

import pytest
from store_samples import AT, a_cycle, a_decision, a_full_cycle, a_position, a_reason, a_snapshot, an_outcome, minutes

from tasks.adapters.store import retention
from tasks.core.types.record import CycleStatus

OLD = AT - timedelta(days=400)
BEFORE = AT - timedelta(days=365)


def keep_quiet(store, name, at):
    record = a_cycle(name, as_of=at, status=CycleStatus.QUIET)
    store.cycles.begin(record, at)
    store.cycles.save(record, at)


def fill(store, at, name):
    """A quiet cycle and a decided one with everything about it."""
    keep_quiet(store, f"quiet-{name}", at)
    decided = a_full_cycle(f"decided-{name}", as_of=at + minutes(5))
    store.cycles.begin(decided, at)
    store.cycles.save(decided, at)
    store.events.add("default", [a_reason(as_of=at, fingerprint=f"f-{name}")])
    store.replies.keep(f"hash-{name}", a_decision().calls[0], at)


def test_old_bulk_is_deleted_and_every_decision_stays_whole(store):
    fill(store, OLD, "old"), fill(store, AT, "new")
    store.positions.save(a_position())
    store.outcomes.save(an_outcome())
    before, kept = store.counts(), store.cycles.get("decided-old")
    assert store.retention.prune("default", BEFORE) == {
        "cycles": 1, "events": 1, "replies": 1, "budgets": 0
    }  # fmt: skip
    after = store.counts()
    assert {name: before[name] - after[name] for name in before if before[name] != after[name]} == {
        "cycles": 1, "events": 1, "replies": 1
    }  # fmt: skip
    assert store.cycles.get("decided-old") == kept
    assert (store.cycles.get("quiet-old"), store.cycles.get("quiet-new") is None) == (None, False)
    assert sum(store.retention.prune("default", BEFORE).values()) == 0


def test_budgets_of_old_days_go(store):
    from tasks.core.decision.budget import Charge
    from tasks.core.types.limits import Budget

    for at in (OLD, AT):
        store.budget.reserve(Charge(session="s", symbol="BTC/USDT:USDT", decision="d"), Decimal("0.01"), Budget(), at)
    assert store.retention.prune("default", BEFORE)["budgets"] == 1
    assert store.budget.spent(AT).calls == 1


def test_another_strategys_cycles_are_its_own_affair(store):
    keep_quiet(store, "theirs", OLD)
    assert store.retention.prune("other", BEFORE)["cycles"] == 0


def test_a_quiet_cycle_that_was_sampled_stays(store):
    record = a_full_cycle("sampled", as_of=OLD, status=CycleStatus.QUIET, snapshot=a_snapshot())
    store.cycles.begin(record, OLD)
    store.cycles.save(record, OLD)
    assert store.retention.prune("default", BEFORE)["cycles"] == 0


def test_much_goes_in_batches_and_the_rest_next_time(store, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "BATCHES", 2)
    for number in range(5):
        keep_quiet(store, f"q{number}", OLD + minutes(5 * number))
    assert [store.retention.prune("default", BEFORE)["cycles"] for _ in range(3)] == [4, 1, 0]


@pytest.mark.parametrize(("days", "left"), [(0, 1), (365, 0)])
def test_the_setting_says_how_long_and_nought_keeps_everything(days, left, store, store_url, monkeypatch):
    from tasks import retention
    from tasks.settings import load

    keep_quiet(store, "old", OLD)
    monkeypatch.setattr(retention, "settings", lambda: load(retention_days=days))
    monkeypatch.setattr(retention, "store", lambda: store)
    assert retention.prune.fn(AT) == 1 - left
    assert store.counts()["cycles"] == left

"""What `settle` adds up and hands on: all of it, once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from store_samples import a_cycle, a_decision, a_full_cycle, a_hold, a_position

from tasks import mirror, settle
from tasks.adapters.store.database import row_of
from tasks.adapters.store.tables import CycleRow
from tasks.connections import store
from tasks.core.types.record import CycleStatus

MIDNIGHT = datetime(2024, 1, 9, tzinfo=UTC)
LAST = MIDNIGHT - timedelta(minutes=5)


def closed(n: int, at: datetime):
    loss = {"exit_price": Decimal(64000), "realized_pnl": Decimal("-0.1"), "opened_at": at - timedelta(hours=1)}
    return a_position(f"p{n}", cycle_id="decided", quantity=Decimal(0), closed_at=at, **loss)


def test_a_day_of_many_cycles_and_trades_is_added_up_whole_and_without_the_day_before(home):
    symbols = [f"S{n}/USDT:USDT" for n in range(8)]
    quiet = [
        a_cycle(f"{symbol}-{n}", symbol=symbol, as_of=LAST + timedelta(minutes=5 * n), status=CycleStatus.QUIET)
        for symbol in symbols
        for n in range(301)
    ]
    decided = [
        a_full_cycle("decided", as_of=MIDNIGHT),
        a_full_cycle("held", as_of=MIDNIGHT + timedelta(minutes=5), status=CycleStatus.HELD, decided=a_hold()),
        a_full_cycle("before", as_of=LAST),
    ]
    store().cycles.save_all(decided[:2], MIDNIGHT)
    store().cycles.save_all(decided[2:], LAST)
    times = {"started_at": MIDNIGHT, "updated_at": MIDNIGHT}
    rows = [row_of(CycleRow, cycle, record=cycle.model_dump(mode="json"), **times) for cycle in quiet]
    with store().database.writing() as connection:
        connection.execute(store().insert(CycleRow), rows)
    for n in range(205):
        store().positions.save(closed(n, MIDNIGHT + timedelta(seconds=n - 1)))
    found, answers = mirror.session_metrics(MIDNIGHT.date())
    assert answers == [a_decision(), a_hold()]
    assert found["cycles"] == 2306  # and without the day after
    assert {name: n for name, n in found.items() if name.startswith(("status.", "action."))} == {
        "status.quiet": 2304, "status.executed": 1, "status.held": 1, "action.OPEN_LONG": 1, "action.HOLD": 1,
    }  # fmt: skip
    assert (found["decisions"], found["model_calls"]) == (2, len(a_decision().calls))
    assert (found["invalid"], found["denied"], found["scored"]) == (0, 0, 0)
    assert found["cost_usd"] == float(a_decision().cost_usd)
    assert (found["closed_trades"], found["realized_pnl"]) == (204, -20.4)
    assert found["mean_r"] < 0


def test_an_outcome_is_handed_on_once_with_its_decision_though_it_was_there_before(home):
    cycle = a_full_cycle("decided", as_of=MIDNIGHT)
    store().cycles.save(cycle, MIDNIGHT)
    store().positions.save(closed(1, MIDNIGHT))
    [outcome] = store().outcomes.newest("default")
    assert settle.settle_outcomes.fn() == [(cycle, outcome)]
    assert settle.settle_outcomes.fn() == []


def test_an_outcome_whose_handing_on_was_not_noted_is_handed_on_again(home, monkeypatch):
    store().positions.save(closed(1, MIDNIGHT))
    with monkeypatch.context() as patch:
        patch.setattr(store().outcomes, "mark_settled", lambda *_: {}["no answer"])
        with pytest.raises(KeyError):
            settle.settle_outcomes.fn()
    assert len(settle.settle_outcomes.fn()) == 1

"""Positions, outcomes, equity, halts and pauses."""

from datetime import UTC, datetime
from decimal import Decimal

from alembic import command
from alembic.config import Config
from sqlalchemy import insert
from store_samples import AT, BTC, a_cycle, a_decision, a_position, an_outcome, minutes

from tasks.adapters.store.database import MIGRATIONS, row_of
from tasks.adapters.store.tables import OutcomeRow, PositionRow
from tasks.core.trading import ledger
from tasks.core.types.record import EquityPoint


def closed(position_id: str, after: float, **fields: object):
    return a_position(
        position_id, quantity=Decimal(0), exit_price=Decimal(66000), closed_at=AT + minutes(after), **fields
    )


def test_position_comes_back_whole_and_in_its_newest_state(store):
    store.positions.save(a_position())
    moved = a_position(stop=Decimal("65000.1"), followups_done=("MOVE_STOP: breakeven on +1.0R",), peak_r=1.25)
    store.positions.save(moved)
    assert store.positions.get("p1") == moved
    assert store.positions.get("p2") is None


def test_open_and_closed_positions_are_told_apart(store):
    store.positions.save(a_position("later", opened_at=AT + minutes(5)))
    store.positions.save(a_position("open"))
    store.positions.save(closed("old", 10))
    store.positions.save(closed("new", 20))
    store.positions.save(a_position("other", strategy="other"))
    assert [p.position_id for p in store.positions.open("default")] == ["open", "later"]
    assert [p.position_id for p in store.positions.closed("default")] == ["new", "old"]
    assert [p.position_id for p in store.positions.closed("default", since=AT + minutes(15))] == ["new"]
    assert [p.position_id for p in store.positions.closed("default", limit=1)] == ["new"]


def test_a_position_that_closes_has_its_outcome_at_once_and_an_open_one_has_none(store):
    store.positions.save(a_position("open"))
    store.positions.save(closed("p1", 60))
    assert store.outcomes.newest("default") == [ledger.outcome(closed("p1", 60))]
    assert store.positions.without_outcome("default") == []


def test_an_outcome_is_settled_once_and_again_when_a_late_fee_changes_it(store):
    for position_id, after in (("p1", 60), ("p2", 50)):
        store.positions.save(closed(position_id, after))
    store.positions.save(closed("other", 1, strategy="other"))
    found = store.outcomes.unsettled("default")
    assert [outcome.position_id for outcome in found] == ["p2", "p1"]
    store.outcomes.mark_settled(found, AT)
    store.positions.save(closed("p1", 60))
    assert store.outcomes.unsettled("default") == []
    store.positions.save(closed("p1", 60, fees=Decimal("0.5")))
    assert [outcome.fees for outcome in store.outcomes.unsettled("default")] == [Decimal("0.5")]


def test_what_closed_before_outcomes_came_with_positions_is_settled_and_what_was_settled_is_not_again(
    empty_url, open_store
):
    store = open_store(empty_url)
    config = Config(MIGRATIONS / "alembic.ini")
    with store.database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
        for position_id in ("settled", "waiting"):
            position = closed(position_id, 60)
            connection.execute(insert(PositionRow).values(row_of(PositionRow, position)))
        outcome = row_of(OutcomeRow, ledger.outcome(closed("settled", 60)), tracked=False)
        connection.execute(insert(OutcomeRow).values(outcome))
    store.migrate()
    assert [position.position_id for position in store.positions.without_outcome("default")] == ["waiting"]
    assert store.outcomes.unsettled("default") == []


def test_outcomes_are_newest_first_and_none_of_the_future(store):
    for number, symbol in ((1, BTC), (2, BTC), (3, "ETH/USDT:USDT")):
        store.positions.save(closed(f"p{number}", number, symbol=symbol))
        store.outcomes.save(an_outcome(f"p{number}", symbol=symbol, closed_at=AT + minutes(number)))
    store.positions.save(closed("o", 1, strategy="other"))
    store.outcomes.save(an_outcome("o"))

    def ids(**filters):
        return [outcome.position_id for outcome in store.outcomes.newest("default", **filters)]

    assert ids() == ["p3", "p2", "p1"]
    assert ids(symbol=BTC) == ["p2", "p1"]
    assert ids(until=AT + minutes(2)) == ["p2", "p1"]
    assert ids(since=AT + minutes(2)) == ["p3", "p2"]
    assert ids(limit=1) == ["p3"]


def test_outcome_is_tracked_once_and_again_when_it_changes(store):
    store.positions.save(closed("p1", 60))
    store.outcomes.save(an_outcome())
    store.cycles.begin(a_cycle(), AT)
    store.decisions.keep("c1", a_decision(), AT)
    assert store.outcomes.untracked(5) == []  # MLflow has no trace yet to attach it to
    store.decisions.mark_tracked("c1", "trace")
    assert store.outcomes.untracked(5) == [("trace", an_outcome())]
    store.outcomes.mark_tracked("p1")
    store.outcomes.save(an_outcome())
    assert store.outcomes.untracked(5) == []
    store.outcomes.save(an_outcome(fees=Decimal("0.50")))
    assert store.outcomes.untracked(5) == [("trace", an_outcome(fees=Decimal("0.50")))]


def point(at: datetime, equity: int = 100, strategy: str = "default") -> EquityPoint:
    return EquityPoint(at=at, strategy=strategy, equity=Decimal(equity), peak=Decimal(120))


def test_equity_is_found_by_time(store):
    yesterday = point(datetime(2026, 11, 19, 23, 59, 59, 999_999, tzinfo=UTC))
    midnight = point(datetime(2026, 11, 20, tzinfo=UTC), 101)
    noon = point(AT, 102)
    for one in (noon, yesterday, midnight, point(AT + minutes(5), 7, "other")):
        store.equity.save(one)
    assert store.equity.last("default") == noon
    assert store.equity.last("nobody") is None
    assert store.equity.since("default", midnight.at) == [midnight, noon]
    assert store.equity.since("default", midnight.at, AT - minutes(1)) == [midnight]
    assert store.equity.since("default", midnight.at, midnight.at) == [midnight]


def test_equity_of_the_same_moment_is_replaced(store):
    store.equity.save(point(AT, 100))
    store.equity.save(point(AT, 101))
    assert store.equity.since("default", AT) == [point(AT, 101)]


def test_halt_is_in_force_until_resumed(store):
    assert store.halts.newest() is None
    first = store.halts.add("ledger mismatch", "protect", AT)
    assert store.halts.add("ledger mismatch", "protect", AT + minutes(1)) == first
    second = store.halts.add("by hand", "ada", AT + minutes(2))
    assert store.halts.newest() == second
    lifted = store.halts.resume("ada", AT + minutes(3))
    assert lifted == [halt.model_copy(update={"resumed_at": AT + minutes(3)}) for halt in (first, second)]
    assert store.halts.newest() is None
    assert store.halts.resume("ada", AT + minutes(4)) == []
    assert store.halts.add("ledger mismatch", "protect", AT + minutes(5)).halt_id > second.halt_id


def test_shorter_pause_never_ends_a_longer_one(store):
    assert store.pauses.until("default", BTC) is None
    store.pauses.add("default", BTC, AT + minutes(60))
    store.pauses.add("default", BTC, AT + minutes(5))
    assert store.pauses.until("default", BTC) == AT + minutes(60)
    store.pauses.add("default", BTC, AT + minutes(90))
    assert store.pauses.until("default", BTC) == AT + minutes(90)
    assert store.pauses.until("other", BTC) is None

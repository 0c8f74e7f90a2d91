"""Positions, outcomes, equity, halts and pauses."""

from datetime import UTC, datetime
from decimal import Decimal

from releases.release_0009 import of_release
from sqlalchemy import column, insert, text
from sqlalchemy import table as sa_table
from store_samples import AT, BTC, a_cycle, a_decision, a_fill, a_position, an_intent, an_outcome, minutes

from tasks.adapters.store.database import row_of
from tasks.adapters.store.tables import CycleRow, FillRow, IntentRow, OutcomeRow, PositionRow
from tasks.core.trading import ledger
from tasks.core.types.portfolio import Position
from tasks.core.types.record import EquityPoint


def closed(position_id: str, after: float, **fields: object):
    return a_position(
        position_id, quantity=Decimal(0), exit_price=Decimal(66000), closed_at=AT + minutes(after), **fields
    )


def test_position_comes_back_whole_and_in_its_newest_state(store):
    store.positions.save(a_position())
    moved = a_position(stop=Decimal("65000.1"), followups_done=("MOVE_STOP: breakeven on +1.0R",))
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
    with store.database.writing() as connection:
        of_release(connection, "0009")
        for position_id in ("settled", "waiting"):
            put_before_0015(connection, closed(position_id, 60))
        put_before_0015(connection, an_outcome("settled"))
    store.migrate()
    assert [position.position_id for position in store.positions.without_outcome("default")] == ["waiting"]
    assert store.outcomes.unsettled("default") == []


def test_outcomes_of_before_are_measured_by_what_their_entries_risked(empty_url, open_store):
    """Bought 1 at 100 with the stop at 90, added 1 at 110 with the stop at 100, sold for 30 less fees of 1: not 1 R."""
    store = open_store(empty_url)
    two = {"entry_quantity": Decimal(2), "avg_price": Decimal(105), "initial_stop": Decimal(90)}
    shorts = {"side": "short", "symbol": "ETH/USDT:USDT", "initial_stop": Decimal(120)}
    trades = {
        "added": ({}, [("qd-1", 100, "90"), ("qd-2", 110, "100")]),
        "short": (shorts, [("qd-3", 110, "120"), ("qd-4", 100, "110")]),
        "naked": ({"symbol": "A/USDT:USDT"}, [("qd-5", 100, "90"), ("qd-6", 110, None)]),
        "gone": ({"symbol": "B/USDT:USDT"}, []),
        "never": ({"symbol": "C/USDT:USDT", "initial_stop": None}, []),
    }
    with store.database.writing() as connection:
        of_release(connection, "0014")
        cycle = row_of(CycleRow, a_cycle(), record={}, started_at=AT, updated_at=AT)
        connection.execute(insert(CycleRow).values(cycle))
        for name, (fields, entries) in trades.items():
            position = closed(name, 60, **(two | fields))
            entered = {"symbol": position.symbol, "side": "sell" if position.side == "short" else "buy"}
            put_before_0015(connection, position)
            old_r = None if name == "never" else Decimal(1)
            sums = {"entry_price": Decimal(105), "pnl": Decimal(29), "fees": Decimal(1), "outcome_r": old_r}
            put_before_0015(connection, an_outcome(name, symbol=position.symbol, **sums), settled_at=None)
            sides = {"buy": "sell", "sell": "buy"}
            out = an_intent(f"out-{name}", symbol=position.symbol, side=sides[entered["side"]], reduce_only=True)
            sent = [an_intent(key, **entered, stop=stop and Decimal(stop)) for key, _, stop in entries]
            for leg, intent in enumerate((*sent, out)):
                row = row_of(IntentRow, intent, cycle_id="c1", leg=leg, state="done", persisted_at=AT, fence=None)
                del row["asked_by"]
                connection.execute(insert(IntentRow).values(row))
            filled = {"quantity": Decimal(1), "at": AT}
            for key, price, _ in entries:
                fill = a_fill(key, client_order_id=key, price=Decimal(price), **entered, **filled)
                connection.execute(insert(FillRow).values(row_of(FillRow, fill)))
            fill = a_fill(
                f"out-{name}", client_order_id=out.client_order_id, symbol=out.symbol, side=out.side, **filled
            )
            connection.execute(insert(FillRow).values(row_of(FillRow, fill)))
    store.migrate()
    found = {each.position_id: each.outcome_r for each in store.outcomes.newest("default")}
    twice = Decimal(29) / 30  # of the average and the first stop, where the fills are gone
    assert found == {
        "added": Decimal("1.45"), "short": Decimal("1.45"), "naked": None, "gone": twice, "never": None
    }  # fmt: skip
    kept = store.positions.get("added")
    assert (kept.first_price, kept.first_quantity, kept.risk) == (None, 0, None)
    assert ledger.outcome(kept).outcome_r is None


def put_before_0015(connection, one, **more):
    """Insert a position or outcome as a release before 0015 did."""
    table = PositionRow if isinstance(one, Position) else OutcomeRow
    row = row_of(table, one, **({"peak_r": 0.0} if table is PositionRow else {"tracked": False}), **more)
    r = row.pop("outcome_r", None)
    had = sa_table(table.__tablename__, column("peak_r"), *(column(c.name, c.type) for c in table.__table__.columns))
    connection.execute(insert(had).values({k: v for k, v in row.items() if k not in NEW}))
    if r is not None:
        old = text(f"UPDATE outcomes SET r_multiple = {r} WHERE position_id = :name")
        connection.execute(old, {"name": one.position_id})


NEW = {"first_price", "first_quantity", "risk", "exit_reason"}


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

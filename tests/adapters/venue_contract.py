"""What any `ports.Venue` must do, as plain functions: the ccxt venue on the sandbox and the paper venue pass the same.

`CHECKS` are async functions (venue, symbol, advance). The account is flat, has quote to trade with and is the check's
own; `advance(seconds)` lets the venue's time pass. A check leaves the account flat. What a venue tells of orders, fills
and positions may come late: a check waits for it, and then it must be right.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from decimal import Decimal
from typing import TypeVar

import pytest

from tasks.core.errors import DuplicateOrder, InputError, OrderRejected, VenueError
from tasks.core.ports import Venue
from tasks.core.types import floor_to_step
from tasks.core.types.bars import COLUMNS, duration, floor_time
from tasks.core.types.orders import Fill, Instrument, Order, OrderIntent, OrderStatus, OrderType, VenuePosition

Advance = Callable[[float], Awaitable[None]]
PATIENCE = 5  # how often a check lets a second pass while it waits for what the venue tells late
T = TypeVar("T")


async def the_clock_is_aware_utc_and_does_not_run_backwards(venue: Venue, symbol: str, advance: Advance) -> None:
    first = await venue.now()
    assert first.tzinfo is not None
    assert first.utcoffset() == timedelta(0)
    await advance(1)
    assert await venue.now() > first


async def an_instrument_says_its_steps(venue: Venue, symbol: str, advance: Advance) -> None:
    instrument = await venue.instrument(symbol)
    assert instrument.symbol == symbol
    assert instrument.tick > 0
    assert instrument.step > 0
    assert instrument.max_leverage >= 1


async def an_unknown_symbol_is_the_users_mistake(venue: Venue, symbol: str, advance: Advance) -> None:
    with pytest.raises(InputError, match="NOPE/USDT:USDT"):
        await venue.instrument("NOPE/USDT:USDT")


async def bars_are_closed_ascending_unique_and_do_not_change(venue: Venue, symbol: str, advance: Advance) -> None:
    now = await venue.now()
    since = floor_time(now, "5m") - timedelta(hours=5)
    bars = await venue.fetch_bars(symbol, "5m", since, now + timedelta(days=1))
    assert (bars.index[0], len(bars)) == (since, 60)
    assert bars.index[-1] + duration("5m") <= now
    assert bars.index.is_monotonic_increasing
    assert bars.index.is_unique
    assert (bars.index.name, str(bars.index.tz), tuple(bars.columns)) == ("open_time", "UTC", COLUMNS)
    assert set(bars.dtypes.astype(str)) == {"float64"}
    assert (bars["high"] >= bars[["open", "close"]].max(axis=1)).all()
    assert (bars["low"] <= bars[["open", "close"]].min(axis=1)).all()
    await advance(301)
    again = await venue.fetch_bars(symbol, "5m", since, now)
    assert again.equals(bars)


async def the_book_is_ordered_and_not_crossed(venue: Venue, symbol: str, advance: Advance) -> None:
    book = await venue.fetch_book(symbol)
    bids, asks = [p for p, _ in book.bids], [p for p, _ in book.asks]
    assert bids == sorted(bids, reverse=True)
    assert asks == sorted(asks)
    assert 0 < bids[0] < asks[0]
    assert all(quantity > 0 for _, quantity in [*book.bids, *book.asks])


async def a_flat_account_has_equity_and_no_position(venue: Venue, symbol: str, advance: Advance) -> None:
    balance = await venue.balance()
    assert balance.equity > 0
    assert 0 <= balance.available <= balance.equity
    assert await venue.positions() == []


async def an_entry_is_protected_filled_and_found_and_closes(venue: Venue, symbol: str, advance: Advance) -> None:
    started, before = await venue.now(), await venue.balance()
    entry = await _entry(venue, symbol, "contract-entry-1")
    sent = await venue.submit(entry)
    assert sent.client_order_id == entry.client_order_id
    held = await _position(venue, symbol, advance)
    assert (held.side, held.quantity, held.stop, held.target) == ("long", entry.quantity, entry.stop, entry.target)
    found = await _found(venue, entry, advance)
    assert (found.status, found.filled) == (OrderStatus.FILLED, entry.quantity)
    assert found.avg_price == held.avg_price
    assert found.client_order_id not in {order.client_order_id for order in await venue.open_orders(symbol)}

    async def fills() -> list[Fill]:
        return [f for f in await venue.fills(symbol, started) if f.client_order_id == entry.client_order_id]

    bought = await _until(fills, lambda fills: sum(f.quantity for f in fills) == entry.quantity, advance)
    assert all(f.fee > 0 and f.side == "buy" and f.at.tzinfo is UTC for f in bought)
    assert len({f.fill_id for f in bought}) == len(bought)
    assert (await venue.balance()).available < before.available
    await _flatten(venue, symbol, advance, "contract-exit-1")


async def an_id_is_used_once(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-entry-2")
    await venue.submit(entry)
    held = await _position(venue, symbol, advance)
    with pytest.raises(DuplicateOrder):
        await venue.submit(entry)
    after = await _position(venue, symbol, advance)
    assert (after.quantity, after.avg_price) == (held.quantity, held.avg_price)
    await _flatten(venue, symbol, advance, "contract-exit-2")


async def protection_changes_one_side_at_a_time_and_zero_removes(venue: Venue, symbol: str, advance: Advance) -> None:
    instrument = await venue.instrument(symbol)
    entry = await _entry(venue, symbol, "contract-entry-3")
    await venue.submit(entry)
    await _position(venue, symbol, advance)
    tighter = entry.stop + 10 * instrument.tick
    await venue.set_protection(symbol, tighter, None)
    await _protected(venue, symbol, advance, tighter, entry.target)
    await venue.set_protection(symbol, tighter, None)  # the same again is no error
    await venue.set_protection(symbol, None, Decimal(0))
    await _protected(venue, symbol, advance, tighter, None)
    target = entry.model_copy(update={"type": OrderType.TARGET, "price": entry.target, "side": "sell"})
    await venue.submit(target.model_copy(update={"client_order_id": "contract-target-3"}))
    await _protected(venue, symbol, advance, tighter, entry.target)
    cancel = target.model_copy(update={"type": OrderType.CANCEL_TARGET, "price": None})
    await venue.submit(cancel.model_copy(update={"client_order_id": "contract-cancel-3"}))
    await _protected(venue, symbol, advance, tighter, None)
    await _flatten(venue, symbol, advance, "contract-exit-3")


async def protection_without_a_position_is_refused(venue: Venue, symbol: str, advance: Advance) -> None:
    with pytest.raises(OrderRejected):
        await venue.set_protection(symbol, (await venue.fetch_book(symbol)).bids[0][0] / 2 // 1, None)


async def a_stop_on_the_wrong_side_is_refused(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-entry-4")
    with pytest.raises(OrderRejected):
        await venue.submit(entry.model_copy(update={"stop": entry.target, "target": None}))
    assert await venue.positions() == []


async def a_limit_rests_is_found_and_is_cancelled(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-limit-5")
    instrument = await venue.instrument(symbol)
    price = floor_to_step((await venue.fetch_book(symbol)).bids[0][0] * Decimal("0.97"), instrument.tick)
    limit = entry.model_copy(update={"type": OrderType.LIMIT, "price": price, "stop": price * Decimal("0.9") // 1})
    sent = await venue.submit(limit)
    assert (sent.status, sent.filled, sent.price) == (OrderStatus.OPEN, 0, price)
    found = await _found(venue, limit, advance)
    assert await venue.open_orders(symbol) == [found]
    assert (found.quantity, found.stop, found.target, found.type) == (limit.quantity, limit.stop, limit.target, "limit")
    await venue.cancel(symbol, limit.client_order_id)
    assert await venue.open_orders(symbol) == []
    gone = await venue.find_order(symbol, limit.client_order_id)
    assert gone is not None
    assert gone.status is OrderStatus.CANCELLED
    await venue.cancel(symbol, limit.client_order_id)  # one that is gone already is fine
    assert await venue.positions() == []


async def an_id_nobody_sent_is_none_and_may_be_cancelled(venue: Venue, symbol: str, advance: Advance) -> None:
    assert await venue.find_order(symbol, "contract-never-sent") is None
    await venue.cancel(symbol, "contract-never-sent")


async def what_cannot_be_paid_for_is_refused(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-entry-6")
    instrument, equity = await venue.instrument(symbol), (await venue.balance()).equity
    price = (await venue.fetch_book(symbol)).asks[0][0]
    too_much = floor_to_step(equity * instrument.max_leverage * 5 / price, instrument.step)
    with pytest.raises(OrderRejected):
        await venue.submit(entry.model_copy(update={"quantity": too_much}))
    assert await venue.positions() == []


async def reduce_only_opens_nothing(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-reduce-7")
    with pytest.raises(OrderRejected):
        await venue.submit(entry.model_copy(update={"reduce_only": True, "stop": None, "target": None}))
    assert await venue.positions() == []


async def reduce_only_never_flips(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-entry-8")
    await venue.submit(entry)
    await _position(venue, symbol, advance)
    fields = {"side": "sell", "reduce_only": True, "stop": None, "target": None, "quantity": entry.quantity * 2}
    try:  # venues differ: the order is cut to the position, or refused; a flip is what none may do
        await venue.submit(entry.model_copy(update=fields | {"client_order_id": "contract-reduce-8"}))
    except OrderRejected:
        await _flatten(venue, symbol, advance, "contract-exit-8")
    await _until(venue.positions, lambda positions: positions == [], advance)
    await advance(PATIENCE)
    assert await venue.positions() == []


async def no_error_but_ours_leaves_the_venue(venue: Venue, symbol: str, advance: Advance) -> None:
    entry = await _entry(venue, symbol, "contract-entry-9")
    instrument = await venue.instrument(symbol)
    wrongs = ({"quantity": Decimal(0)}, {"quantity": instrument.step / 2}, {"type": OrderType.LIMIT})
    for n, wrong in enumerate(wrongs):
        with pytest.raises(VenueError):
            await venue.submit(entry.model_copy(update={"client_order_id": f"contract-wrong-{n}", **wrong}))
    assert await venue.positions() == []


CHECKS = (
    the_clock_is_aware_utc_and_does_not_run_backwards,
    an_instrument_says_its_steps,
    an_unknown_symbol_is_the_users_mistake,
    bars_are_closed_ascending_unique_and_do_not_change,
    the_book_is_ordered_and_not_crossed,
    a_flat_account_has_equity_and_no_position,
    an_entry_is_protected_filled_and_found_and_closes,
    an_id_is_used_once,
    protection_changes_one_side_at_a_time_and_zero_removes,
    protection_without_a_position_is_refused,
    a_stop_on_the_wrong_side_is_refused,
    a_limit_rests_is_found_and_is_cancelled,
    an_id_nobody_sent_is_none_and_may_be_cancelled,
    what_cannot_be_paid_for_is_refused,
    reduce_only_opens_nothing,
    reduce_only_never_flips,
    no_error_but_ours_leaves_the_venue,
)


async def _entry(venue: Venue, symbol: str, client_order_id: str) -> OrderIntent:
    """Make a long market entry of a few steps with a stop and a target 5 % away."""
    instrument: Instrument = await venue.instrument(symbol)
    price = (await venue.fetch_book(symbol)).asks[0][0]
    needed = max(instrument.min_quantity, instrument.min_notional / price, instrument.step)
    return OrderIntent(
        client_order_id=client_order_id,
        symbol=symbol,
        side="buy",
        type=OrderType.MARKET,
        quantity=floor_to_step(needed, instrument.step) + 4 * instrument.step,
        stop=floor_to_step(price * Decimal("0.95"), instrument.tick),
        target=floor_to_step(price * Decimal("1.05"), instrument.tick),
    )


async def _until(read: Callable[[], Awaitable[T]], right: Callable[[T], bool], advance: Advance) -> T:
    """Read until it is right."""
    for _ in range(PATIENCE):
        if right(seen := await read()):
            return seen
        await advance(1)
    raise AssertionError(f"after {PATIENCE} s of the venue's time: {seen}")


async def _found(venue: Venue, intent: OrderIntent, advance: Advance) -> Order:
    order = await _until(
        lambda: venue.find_order(intent.symbol, intent.client_order_id), lambda order: order is not None, advance
    )
    assert order is not None
    return order


async def _position(venue: Venue, symbol: str, advance: Advance) -> VenuePosition:
    return (await _until(venue.positions, lambda held: any(p.symbol == symbol for p in held), advance))[0]


async def _protected(venue: Venue, symbol: str, advance: Advance, stop: Decimal | None, target: Decimal | None) -> None:
    """Wait until the position has this stop and this target."""
    await _until(
        venue.positions, lambda held: [(p.stop, p.target) for p in held if p.symbol == symbol] == [(stop, target)],
        advance,
    )  # fmt: skip


async def _flatten(venue: Venue, symbol: str, advance: Advance, client_order_id: str) -> None:
    held = await _position(venue, symbol, advance)
    await venue.submit(
        OrderIntent(
            client_order_id=client_order_id,
            symbol=symbol,
            side="sell" if held.side == "long" else "buy",
            type=OrderType.MARKET,
            quantity=held.quantity,
            reduce_only=True,
        )
    )
    await _until(venue.positions, lambda positions: positions == [], advance)
    assert await venue.open_orders(symbol) == []  # the stop and the target went with the position

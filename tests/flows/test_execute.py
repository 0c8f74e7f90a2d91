"""What is sent, refused or let be, at a venue that answers what a test tells it to."""

import contextlib
import shutil
from datetime import datetime, timedelta
from decimal import Decimal as D
from pathlib import Path
from types import SimpleNamespace

import pytest
from store_samples import AT, BTC, a_cycle, a_position, an_intent, an_order

from tasks import clock, execute
from tasks.adapters.store.store import Store
from tasks.connections import store
from tasks.core.errors import OrderRejected, VenueBusy, VenueUnavailable
from tasks.core.types.decision import hold
from tasks.core.types.orders import Order, OrderIntent, OrderStatus, OrderType
from tasks.core.types.record import Lease
from tasks.core.types.verdict import Verdict
from tasks.settings import settings

NAME = f"symbol:{BTC}"
LONG = timedelta(minutes=10)
LATE = timedelta(seconds=391)


class Venue:
    """Takes every order; its clock is `late` after the close, its book `bid` and `ask`."""

    name = "fake"

    def __init__(self) -> None:
        self.attaches_protection = self.keeps_ids = True
        self.late = timedelta(0)
        self.bid, self.ask, self.refuses = D("65000"), D("65000.1"), ""
        self.known: dict[str, Order] = {}
        self.sent: list[OrderIntent] = []

    async def now(self) -> datetime:
        return AT + self.late

    async def find_order(self, symbol: str, client_order_id: str) -> Order | None:
        return self.known.get(client_order_id)

    async def fetch_book(self, symbol: str) -> SimpleNamespace:
        return SimpleNamespace(bids=[(self.bid, D(1))] if self.bid else [], asks=[(self.ask, D(1))] if self.ask else [])

    async def submit(self, intent: OrderIntent) -> Order:
        if self.refuses:
            raise OrderRejected(self.refuses)
        self.sent.append(intent)
        filled = {"status": OrderStatus.FILLED, "filled": intent.quantity, "avg_price": D(65000)}
        return an_order(intent.client_order_id, side=intent.side, type=intent.type.value, **filled)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database to copy: to migrate one takes longer than any test here."""
    path = tmp_path_factory.mktemp("sqlite") / "quarterdeck.db"
    made = Store(f"sqlite:///{path}")
    made.migrate()
    made.close()
    return path


@pytest.fixture
def venue(home, migrated, monkeypatch) -> Venue:
    shutil.copy(migrated, home)
    fake = Venue()
    monkeypatch.setattr(execute, "venue", lambda: fake)
    store().cycles.begin(a_cycle("c1"), AT)
    return fake


def lease(holder: str = "me", lasts: timedelta = LONG) -> Lease:
    return store().leases.acquire(NAME, holder, lasts)


async def executed(*intents: OrderIntent, under: Lease | None = None, price: D | None = None) -> tuple[Order, ...]:
    verdict = Verdict(allowed=True, decision=hold(BTC, ""), price=price)
    return await execute.execute_intents.fn(a_cycle("c1", intents=intents, verdict=verdict), under or lease())


async def test_every_intent_is_written_before_the_first_is_sent_and_all_in_order(venue):
    written = []
    submit, venue.submit = venue.submit, None

    async def look_first(intent: OrderIntent) -> Order:
        written.append([store().intents.get(name).state for name in ("qd-1", "qd-2")])
        return await submit(intent)

    venue.submit = look_first
    done = await executed(an_intent("qd-1"), an_intent("qd-2"))
    assert [order.client_order_id for order in done] == ["qd-1", "qd-2"]
    assert written == [["sending", "persisted"], ["sent", "sending"]]
    assert [store().orders.get(name).status for name in ("qd-1", "qd-2")] == [OrderStatus.FILLED] * 2


@pytest.mark.parametrize("late", [timedelta(0), LATE], ids=["to send", "to refuse"])
async def test_a_run_without_the_lease_neither_sends_nor_ends_what_another_may_be_sending(venue, late):
    """Too late to send, it would note a refusal, over an order that the other run has on its way."""
    mine = lease("me", timedelta(0))
    store().intents.save("c1", [an_intent()], AT)
    theirs = lease("another")
    assert store().intents.begin_sending("qd-1", theirs)
    venue.late = late
    assert await executed(an_intent(), under=mine) == ()
    assert venue.sent == []
    assert store().intents.get("qd-1").state == "sending"
    assert store().orders.get("qd-1") is None


@pytest.mark.parametrize(
    ("keeps_ids", "reduce_only", "later_s", "sent"),
    [(False, False, 1000, 0), (False, True, 80, 0), (False, True, 91, 1), (True, False, 0, 1), (True, True, 0, 1)],
)
async def test_what_was_sent_without_an_answer_is_sent_again_where_its_id_cannot_be_filled_twice(
    venue, monkeypatch, keeps_ids, reduce_only, later_s, sent
):
    """Its process died; a listing that is late hides what it sent. What reduces waits for `patience_s`, no longer."""
    monkeypatch.setattr(execute, "PAUSES", ())
    monkeypatch.setattr(execute, "IN_FLIGHT_S", 0.0)
    monkeypatch.setenv("QUARTERDECK_PATIENCE_S", "90")
    settings.cache_clear()
    venue.keeps_ids = keeps_ids
    intent = an_intent(reduce_only=reduce_only, **{"stop": None, "target": None} if reduce_only else {})
    store().intents.save("c1", [intent], AT)
    assert store().intents.begin_sending("qd-1", lease())
    began = store().intents.get("qd-1").sending_at
    monkeypatch.setattr(clock, "now", lambda: began + timedelta(seconds=later_s))
    with contextlib.nullcontext() if sent else pytest.raises(VenueUnavailable, match="qd-1 was sent without an answer"):
        await executed(intent)
    assert len(venue.sent) == sent


async def test_what_a_busy_venue_did_not_do_is_sent_again_by_another_process(venue, monkeypatch):
    monkeypatch.setattr(execute, "PAUSES", ())
    venue.keeps_ids, submit, venue.submit = False, venue.submit, busy
    with pytest.raises(VenueBusy):
        await executed(an_intent())
    assert store().intents.get("qd-1").state == "persisted"
    venue.submit = submit
    await executed(an_intent())
    assert len(venue.sent) == 1


async def busy(_intent: OrderIntent) -> Order:
    raise VenueBusy("too many requests")


async def test_after_a_lost_lease_the_later_intents_are_left_alone_too(venue):
    mine = lease("me", timedelta(0))
    lease("another")
    assert await executed(an_intent("qd-1"), an_intent("qd-2"), under=mine) == ()
    assert [store().intents.get(name).state for name in ("qd-1", "qd-2")] == ["persisted", "persisted"]


# why an entry must not be sent: what is so, and what is said
OBJECTIONS = {
    "late": ({"late": LATE}, {}, "stale: 391 s after the close, at most 390 s"),
    "halted": ({}, {}, "halted: a test"),
    "buying above": ({"ask": D("65097.7")}, {}, "slippage: 15.0 bps from the decision's 65000, at most 15"),
    "selling below": ({"bid": D("64902.3")}, {"side": "sell"}, "slippage: 15.0 bps from the decision's 65000"),
    "no book": ({"ask": None}, {}, "the book is empty"),
    "unprotected": (
        {"attaches_protection": False}, {"type": OrderType.LIMIT, "price": D(64999)}, "enter at market",
    ),
}  # fmt: skip


def arrange(venue: Venue, case: str) -> tuple[OrderIntent, str]:
    state, intent, said = OBJECTIONS[case]
    for name, value in state.items():
        setattr(venue, name, value)
    if case == "halted":
        store().halts.add("a test", "tester", AT)
    return an_intent(**intent), said


@pytest.mark.parametrize("case", OBJECTIONS)
async def test_an_entry_is_not_sent_against_an_objection_and_says_it(venue, case):
    intent, said = arrange(venue, case)
    [order] = await executed(intent, price=D(65000))
    assert order.status is OrderStatus.REJECTED
    assert said in order.reason
    assert venue.sent == []
    assert (store().intents.get("qd-1").state, store().orders.get("qd-1")) == ("rejected", order)


@pytest.mark.parametrize("case", OBJECTIONS)
async def test_no_objection_keeps_an_exit_from_being_sent(venue, case):
    intent, _ = arrange(venue, case)
    [order] = await executed(intent.model_copy(update={"reduce_only": True}), price=D(65000))
    assert order.status is OrderStatus.FILLED
    assert len(venue.sent) == 1


@pytest.mark.parametrize("kind", [OrderType.STOP, OrderType.TARGET, OrderType.CANCEL_TARGET])
@pytest.mark.parametrize("case", ["late", "halted", "no book"])
async def test_no_objection_keeps_protection_from_being_set(venue, case, kind):
    arrange(venue, case)
    await executed(an_intent(type=kind, side="sell", price=D(66000), stop=None, target=None), price=D(65000))
    assert [intent.type for intent in venue.sent] == [kind]


@pytest.mark.parametrize("case", ["late", "halted", "buying above"])
async def test_what_the_venue_has_already_is_taken_over_against_every_objection(venue, case):
    intent, _ = arrange(venue, case)
    venue.known["qd-1"] = an_order(status=OrderStatus.FILLED, filled=D("0.012"), avg_price=D(65000))
    assert await executed(intent, price=D(65000)) == (venue.known["qd-1"],)
    assert venue.sent == []


@pytest.mark.parametrize(
    ("book", "side"), [({"ask": D("65097.4")}, "buy"), ({"bid": D("64902.6")}, "sell"), ({"ask": D(60000)}, "buy")]
)
async def test_a_book_within_the_limit_or_on_the_better_side_is_no_objection(venue, book, side):
    for name, price in book.items():
        setattr(venue, name, price)
    await executed(an_intent(side=side), price=D(65000))
    assert len(venue.sent) == 1


async def test_a_decision_as_old_as_it_may_be_is_sent(venue):
    venue.late = timedelta(seconds=390)
    assert [order.status for order in await executed(an_intent())] == [OrderStatus.FILLED]


async def test_a_refusal_of_the_venue_is_kept_with_its_reason_and_the_next_intent_is_sent(venue):
    venue.refuses = "110007 not enough"
    [first] = await executed(an_intent("qd-1"))
    assert (first.status, first.reason) == (OrderStatus.REJECTED, "110007 not enough")
    assert store().intents.get("qd-1").state == "rejected"
    venue.refuses = ""
    [second] = await executed(an_intent("qd-2"))
    assert second.status is OrderStatus.FILLED


@pytest.mark.parametrize("state", ["done", "rejected"])
async def test_an_intent_that_another_run_has_ended_is_not_sent_again(venue, state):
    store().intents.save("c1", [an_intent()], AT)
    store().intents.mark("qd-1", state)
    [order] = await executed(an_intent())
    assert venue.sent == []
    assert order.reason == "its intent was ended by another run before it was sent"
    store().orders.save(an_order(status=OrderStatus.FILLED))
    [order] = await executed(an_intent())
    assert order.status is OrderStatus.FILLED


async def test_a_stop_that_was_set_is_done_and_the_ledgers_own_at_once(venue):
    store().positions.save(a_position())
    store().positions.save(a_position("eth", symbol="ETH/USDT:USDT"))
    await executed(an_intent(type=OrderType.STOP, side="sell", price=D("64500"), stop=None, target=None))
    assert store().intents.get("qd-1").state == "done"
    assert {each.symbol: each.stop for each in store().positions.open("default")} == {
        BTC: D(64500), "ETH/USDT:USDT": D(64000)
    }  # fmt: skip

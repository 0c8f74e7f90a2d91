"""Events: added once, claimed by one cycle, free again when that cycle died."""

import threading
from concurrent.futures import ThreadPoolExecutor

from store_samples import AT, BTC, a_cycle, a_reason, minutes

from tasks.core.types.record import CycleStatus

OLDEST = AT - minutes(60)


def claim(store, cycle_id="c1", at=AT, as_of=AT, symbol=BTC):
    return store.events.claim("default", symbol, cycle_id, as_of, OLDEST, at)


def test_reason_is_added_once_per_strategy(store):
    assert store.events.add("default", [a_reason(1), a_reason(2)]) == 2
    assert store.events.add("default", [a_reason(2), a_reason(3), a_reason(3)]) == 1
    assert store.events.add("other", [a_reason(1)]) == 1
    assert store.events.add("default", []) == 0


def test_claim_takes_the_window_of_its_symbol_and_gives_the_reasons_back_whole(store):
    inside = [a_reason(1, as_of=AT - minutes(55), detail="up"), a_reason(2, as_of=AT, context=True)]
    outside = [
        a_reason(3, as_of=OLDEST),
        a_reason(4, as_of=AT + minutes(5)),
        a_reason(5, symbol="ETH/USDT:USDT"),
    ]
    store.events.add("default", inside + outside)
    store.events.add("other", [a_reason(6)])
    assert claim(store) == inside
    assert claim(store, "c2", as_of=AT + minutes(5)) == [outside[1]]


def test_cycle_that_asks_again_gets_its_own_and_no_one_else_does(store):
    store.events.add("default", [a_reason()])
    assert claim(store) == [a_reason()]
    assert claim(store, "c2") == []
    assert claim(store) == [a_reason()]


def test_claim_of_a_cycle_that_died_is_free_after_four_minutes(store):
    store.events.add("default", [a_reason()])
    store.cycles.begin(a_cycle("c1"), AT)
    claim(store, "c1")
    assert claim(store, "c2", at=AT + minutes(4), as_of=AT + minutes(4)) == []
    assert claim(store, "c2", at=AT + minutes(4.1), as_of=AT + minutes(4)) == [a_reason()]
    assert claim(store, "c1", at=AT + minutes(5)) == []


def test_claim_of_a_cycle_that_died_before_it_was_begun_is_free_too(store):
    store.events.add("default", [a_reason()])
    claim(store, "c1")
    assert claim(store, "c2", at=AT + minutes(11), as_of=AT + minutes(10)) == [a_reason()]


def test_claim_of_a_finished_cycle_stays(store):
    store.events.add("default", [a_reason()])
    claim(store, "c1")
    store.cycles.save(a_cycle("c1", status=CycleStatus.QUIET), AT)
    assert claim(store, "c2", at=AT + minutes(50), as_of=AT + minutes(50)) == []


def test_claimable_counts_what_is_free_but_not_context(store):
    store.events.add("default", [a_reason(1), a_reason(2, context=True), a_reason(3, as_of=AT + minutes(5))])
    assert store.events.claimable("default", BTC, AT, OLDEST) == 1
    claim(store)
    assert store.events.claimable("default", BTC, AT, OLDEST) == 0
    assert store.events.claimable("default", BTC, AT + minutes(11), OLDEST) == 2


def test_no_two_claimers_ever_get_one_reason(store):
    reasons = [a_reason(number, as_of=AT - minutes(number % 50)) for number in range(200)]
    store.events.add("default", reasons)
    start = threading.Barrier(6)

    def race(number: int):
        start.wait()
        return [reason.fingerprint for reason in claim(store, f"c{number}")]

    with ThreadPoolExecutor(6) as pool:
        claimed = [fingerprint for got in pool.map(race, range(6)) for fingerprint in got]
    assert sorted(claimed) == sorted(reason.fingerprint for reason in reasons)


def test_adders_of_the_same_reasons_in_opposite_orders_do_not_deadlock(store):
    reasons = [a_reason(number) for number in range(400)]
    start = threading.Barrier(4)

    def add(order: int) -> int:
        start.wait()
        return store.events.add("default", reasons[::order])

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(add, (1, -1, 1, -1))) == 400


def test_claimers_and_adders_in_each_others_way_lose_nothing(store):
    start = threading.Barrier(6)
    reasons = [a_reason(number) for number in range(60)]

    def add(order: int):
        start.wait()
        for first in range(0, 60, 10):
            store.events.add("default", reasons[first : first + 10][::order])
        return []

    def race(number: int):
        start.wait()
        return [r.fingerprint for turn in range(6) for r in claim(store, f"c{number}-{turn}")]

    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(add, order) for order in (1, -1, 1)] + [pool.submit(race, number) for number in range(3)]
        claimed = [fingerprint for run in runs for fingerprint in run.result(timeout=60)]
    rest = [reason.fingerprint for reason in claim(store, "last")]
    assert sorted(claimed + rest) == sorted(reason.fingerprint for reason in reasons)

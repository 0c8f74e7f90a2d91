"""Leases: one holder at a time, a token that only grows, and nothing sent by who has lost it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text
from store_samples import AT, a_cycle, an_intent

from tasks.adapters.store.store import Store
from tasks.core.errors import StoreError

LONG, OVER = timedelta(minutes=10), timedelta(0)
NAME = "symbol:BTC"


@pytest.fixture
def two(store_url: str, open_store: Callable[[str], Store]) -> tuple[Store, Store]:
    """Two processes' stores over one database, one cycle's intent written."""
    first = open_store(store_url)
    first.cycles.begin(a_cycle("c1"), AT)
    first.intents.save("c1", [an_intent()], AT)
    return first, open_store(store_url)


def test_a_lease_that_is_held_is_nobody_elses(two):
    first, second = two
    assert first.leases.acquire(NAME, "a", LONG).token == 1
    assert second.leases.acquire(NAME, "b", LONG) is None
    assert second.leases.acquire("symbol:ETH", "b", LONG).token == 1


def test_renewing_keeps_the_token_and_every_other_way_to_a_lease_makes_it_grow(two):
    first, second = two
    mine = first.leases.acquire(NAME, "a", LONG)
    assert first.leases.acquire(NAME, "a", LONG) == mine
    assert first.leases.renew(mine, LONG)
    first.leases.release(mine)
    assert not first.leases.renew(mine, LONG)
    again = first.leases.acquire(NAME, "a", OVER)
    assert again.token == 2
    assert second.leases.acquire(NAME, "b", LONG).token == 3
    assert first.leases.get(NAME).holder == "b"


def test_an_old_token_releases_nothing(two):
    first, second = two
    mine = first.leases.acquire(NAME, "a", OVER)
    second.leases.acquire(NAME, "b", LONG)
    first.leases.release(mine)
    assert first.leases.acquire(NAME, "a", LONG) is None


def test_who_lost_the_lease_cannot_begin_to_send(two):
    first, second = two
    mine = first.leases.acquire(NAME, "a", OVER)
    assert not first.intents.begin_sending("qd-1", mine)
    theirs = second.leases.acquire(NAME, "b", LONG)
    assert not first.intents.begin_sending("qd-1", mine)
    assert first.intents.get("qd-1").state == "persisted"
    assert second.intents.begin_sending("qd-1", theirs)
    assert second.intents.get("qd-1").state == "sending"


def test_what_a_later_holder_has_sent_an_earlier_one_never_sends_again(two):
    first, second = two
    mine = first.leases.acquire(NAME, "a", OVER)
    theirs = second.leases.acquire(NAME, "b", LONG)
    assert second.intents.begin_sending("qd-1", theirs)
    assert not first.intents.begin_sending("qd-1", mine.model_copy(update={"holder": "b"}))
    second.intents.mark("qd-1", "done")
    assert not second.intents.begin_sending("qd-1", theirs)


def test_intents_are_not_kept_under_a_lease_that_is_lost(two):
    first, second = two
    mine = first.leases.acquire("guard", "a", OVER)
    second.leases.acquire("guard", "b", LONG)
    with pytest.raises(StoreError, match="guard was lost"):
        first.intents.save("c1", [an_intent("qd-2")], AT, mine)
    assert first.intents.get("qd-2") is None


def test_only_what_nobody_began_to_send_is_dropped(two):
    first, _ = two
    first.intents.save("c1", [an_intent("qd-2")], AT)
    first.intents.begin_sending("qd-1", first.leases.acquire(NAME, "a", LONG))
    first.intents.drop("c1")
    assert (first.intents.get("qd-1").state, first.intents.get("qd-2").state) == ("sending", "rejected")


def test_of_many_at_once_one_gets_the_lease(store_url, open_store):
    stores = [open_store(store_url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: stores[n].leases.acquire(NAME, str(n), LONG), range(8)))
    assert len([lease for lease in got if lease is not None]) == 1


def test_nobody_takes_a_lease_over_while_intents_are_kept_under_it(two):
    first, second = two
    if not first.database.is_postgres:
        pytest.skip("SQLite lets one transaction write at a time")
    mine = first.leases.acquire(NAME, "a", LONG)
    with first.database.writing() as connection:
        assert first.leases.keep_held(connection, mine)
        with pytest.raises(StoreError, match="could not obtain lock"), second.database.reading() as other:
            other.execute(text("SELECT name FROM leases FOR UPDATE NOWAIT"))

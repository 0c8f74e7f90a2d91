"""A run's leases: kept by a heartbeat that is stepped here, noticed when lost, and given back."""

import asyncio
import logging
from datetime import timedelta

import pytest

from tasks import leases
from tasks.core.errors import StoreError
from tasks.core.types.record import Lease
from tasks.leases import LASTS, Leases, lost


class Shelf:
    """The part of the store that keeps leases; `takes` says who holds one now, `down` makes a renewal fail."""

    def __init__(self) -> None:
        self.held: dict[str, Lease] = {}
        self.renewed: list[tuple[str, timedelta]] = []
        self.released: list[str] = []
        self.lasted: list[timedelta] = []
        self.down = False
        self.leases = self

    def acquire(self, name: str, holder: str, lasts: timedelta) -> Lease | None:
        now = self.held.get(name)
        if now is not None and now.holder != holder:
            return None
        self.lasted.append(lasts)
        self.held[name] = Lease(name=name, holder=holder, token=now.token if now else 1)
        return self.held[name]

    def renew(self, lease: Lease, lasts: timedelta) -> bool:
        if self.down:
            raise StoreError("the database is away")
        self.renewed.append((lease.name, lasts))
        return self.held.get(lease.name) == lease

    def release(self, lease: Lease) -> None:
        self.released.append(lease.name)
        if self.held.get(lease.name) == lease:
            del self.held[lease.name]

    def get(self, name: str) -> Lease | None:
        return self.held.get(name)

    def takes(self, name: str, holder: str, token: int) -> None:
        self.held[name] = Lease(name=name, holder=holder, token=token)


class Stepped:
    """`asyncio` for the module: its sleep ends when the test says so, and says how long it was to be."""

    create_task = staticmethod(asyncio.create_task)

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._go: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._go.get()

    async def beat(self) -> None:
        """Let the heartbeat's pause end, and wait until it pauses again."""
        before = len(self.asked)
        self._go.put_nowait(None)
        while len(self.asked) == before:
            await asyncio.sleep(0)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    kept = Shelf()
    monkeypatch.setattr(leases, "store", lambda: kept)
    return kept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Stepped:
    stepped = Stepped()
    monkeypatch.setattr(leases, "asyncio", stepped)
    return stepped


async def begun(clock: Stepped) -> None:
    while not clock.asked:
        await asyncio.sleep(0)


async def test_each_beat_renews_what_is_held_for_a_whole_term(shelf, clock):
    async with Leases("run") as mine:
        await mine.take("a")
        await mine.take("b")
        await begun(clock)
        assert shelf.renewed == []
        await clock.beat()
        await clock.beat()
    assert shelf.renewed == [("a", LASTS), ("b", LASTS)] * 2
    assert set(clock.asked) == {leases.BEAT_S}
    assert LASTS.total_seconds() > 3 * leases.BEAT_S, "some beats may fail before the lease does"


async def test_a_lease_that_another_took_over_is_noticed_at_the_next_beat_said_once_and_let_be(shelf, clock, caplog):
    async with Leases("run") as mine:
        await mine.take("a")
        await mine.take("b")
        await begun(clock)
        shelf.takes("a", "another", 2)
        with caplog.at_level(logging.ERROR):
            await clock.beat()
            await clock.beat()
        assert [record.message for record in caplog.records] == [
            "lease a token=1 is lost: nothing more is sent under it"
        ]
        assert [name for name, _ in shelf.renewed] == ["a", "b", "b"]
    assert shelf.released == ["b"]
    assert shelf.held["a"].holder == "another"


async def test_a_database_that_is_away_for_a_beat_loses_nothing(shelf, clock, caplog):
    async with Leases("run") as mine:
        await mine.take("a")
        await begun(clock)
        shelf.down = True
        with caplog.at_level(logging.WARNING):
            await clock.beat()
        assert "lease a not renewed: the database is away" in caplog.text
        shelf.down = False
        await clock.beat()
    assert shelf.renewed == [("a", LASTS)]
    assert shelf.released == ["a"]


async def test_what_was_given_back_is_neither_renewed_nor_given_back_again(shelf, clock):
    async with Leases("run") as mine:
        await mine.take("a")
        mine.give_back("a")
        mine.give_back("a")
        mine.give_back("never had")
        await begun(clock)
        await clock.beat()
        assert shelf.renewed == []
    assert shelf.released == ["a"]


async def test_everything_is_given_back_at_the_end_however_it_ends(shelf, clock):
    async def broken() -> None:
        async with Leases("run") as mine:
            await mine.take("a")
            await mine.take("b")
            assert set(shelf.held) == {"a", "b"}
            raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        await broken()
    assert shelf.held == {}


async def test_a_lease_that_others_keep_is_waited_for_as_long_as_the_run_may_in_all(shelf, clock, monkeypatch):
    """10 s of patience, 4 gone at the first lease: 6 are left for the second, none for a third."""
    at = [0.0]
    monkeypatch.setattr("tasks.clock.source.monotonic", lambda: at[0])
    shelf.takes("a", "another", 1)
    shelf.takes("b", "another", 1)
    async with Leases("run", patience_s=10) as mine:
        first = asyncio.create_task(mine.take("a"))
        await _turns(clock)
        at[0] = 4.0
        del shelf.held["a"]
        await _until(first, clock)
        assert first.result() is not None
        second = asyncio.create_task(mine.take("b"))
        await _turns(clock)
        at[0] = 9.0
        await _turns(clock)
        assert not second.done()
        at[0] = 10.0
        await _until(second, clock)
        assert second.result() is None
        assert await mine.take("b") is None
    assert shelf.held["b"].holder == "another"


async def _turns(clock: Stepped, count: int = 10) -> None:
    for _ in range(count):
        clock._go.put_nowait(None)
        await asyncio.sleep(0)


async def _until(task: asyncio.Task[object], clock: Stepped) -> None:
    for _ in range(200):
        if task.done():
            return
        await _turns(clock, 1)
    raise AssertionError("it waits for ever")


async def test_two_runs_of_one_process_are_two_holders(shelf, clock):
    async with Leases("one") as first, Leases("two", patience_s=0) as second:
        assert await first.take("a") is not None
        assert await second.take("a") is None
        first.give_back("a")
        assert await second.take("a") is not None


def test_why_a_lease_was_lost_names_who_has_it_now(shelf):
    mine = Lease(name="a", holder="me", token=3)
    assert "with token 3 was not renewed in time; nothing more was sent" in lost(mine)
    shelf.takes("a", "me", 3)
    assert "was not renewed in time" in lost(mine)
    shelf.takes("a", "another", 4)
    assert "was taken over by another with token 4" in lost(mine)

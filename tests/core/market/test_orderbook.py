"""Order book features: by hand, and on a recorded book rebuilt from its snapshot and diffs."""

import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared

from tasks.core.market import orderbook
from tasks.core.types.snapshot import OrderBookView

Level = tuple[Decimal, Decimal]


def levels(*pairs: tuple[str, str]) -> list[Level]:
    return [(Decimal(price), Decimal(quantity)) for price, quantity in pairs]


BIDS = levels(("99.9", "3"), ("99.8", "1"), ("99.7", "1"), ("99.6", "1"), ("99.5", "1"), ("99.4", "1000"))
ASKS = levels(("100.1", "1"), ("100.2", "1"), ("100.3", "1"), ("100.4", "0.5"), ("100.5", "0.5"), ("100.6", "9"))


def test_imbalance_is_of_the_top_five_levels_and_spread_is_of_the_mid() -> None:
    view = orderbook.view(BIDS, ASKS, Decimal(100))
    assert view.imbalance == pytest.approx((7 - 4) / (7 + 4))
    assert view.spread_bps == pytest.approx(0.2 / 100 * 10_000)


def test_slippage_is_the_worse_side_walked_for_our_size() -> None:
    view = orderbook.view(BIDS, ASKS, Decimal(200))  # asks: 1 at 100.1, the rest at 100.2
    bought = 1 + (200 - 100.1) / 100.2
    assert view.slippage_bps_for_size == pytest.approx((200 / bought - 100) / 100 * 10_000)


def test_a_book_too_thin_for_our_size_has_unknown_slippage() -> None:
    assert orderbook.view(BIDS, ASKS, Decimal(5_000)).slippage_bps_for_size is None
    assert orderbook.view(BIDS, ASKS, Decimal(5_000)).imbalance is not None


@pytest.mark.parametrize(("bids", "asks"), [([], ASKS), (BIDS, []), ([], []), (ASKS, BIDS), (BIDS, BIDS)])
def test_an_empty_or_crossed_book_is_unknown(bids: list[Level], asks: list[Level]) -> None:
    assert orderbook.view(bids, asks, Decimal(100)) == OrderBookView()


def test_levels_without_size_give_no_imbalance() -> None:
    view = orderbook.view(levels(("99", "0")), levels(("101", "0")), Decimal(10))
    assert view.imbalance is None
    assert view.slippage_bps_for_size is None


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_slippage_grows_with_size(a: int, b: int) -> None:
    deep = [(Decimal(100 + i), Decimal(i + 1)) for i in range(200)]
    small, large = (orderbook.slippage_bps(deep, Decimal(100), Decimal(x) / 1000) for x in sorted((a, b)))
    if small is None:
        assert large is None
    elif large is not None:
        assert 0 <= small <= large


def test_a_modelled_book_widens_with_volatility_and_never_invents_an_imbalance() -> None:
    calm, wild = orderbook.modelled(0.1, 1_000), orderbook.modelled(2.0, 1_000)
    assert calm.imbalance is wild.imbalance is None
    assert 0 < calm.spread_bps < wild.spread_bps
    assert calm.slippage_bps_for_size < orderbook.modelled(0.1, 1_000_000).slippage_bps_for_size
    assert orderbook.modelled(None, 1_000) == OrderBookView()


class Book:
    """A book kept the way Binance documents it: a REST snapshot, then diffs whose ids follow each other."""

    def __init__(self, snapshot: dict) -> None:
        self.sides = {side: {Decimal(p): Decimal(q) for p, q in snapshot[side]} for side in ("bids", "asks")}
        self.last_id, self.diffs = snapshot["lastUpdateId"], 0

    def apply(self, diff: dict) -> None:
        if diff["u"] < self.last_id:
            return
        assert diff["U"] <= self.last_id if self.diffs == 0 else diff["pu"] == self.last_id, "a diff is missing"
        for side, key in (("bids", "b"), ("asks", "a")):
            for price, quantity in diff[key]:
                self.sides[side][Decimal(price)] = Decimal(quantity)
                if Decimal(quantity) == 0:
                    del self.sides[side][Decimal(price)]
        self.last_id, self.diffs = diff["u"], self.diffs + 1

    def top(self, n: int = 200) -> tuple[list[Level], list[Level]]:
        return sorted(self.sides["bids"].items(), reverse=True)[:n], sorted(self.sides["asks"].items())[:n]


def messages(path: Path) -> Iterator[dict]:
    """Yield snapshot and stream messages in order of arrival."""
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line.split(" ", 1)[1])


def rebuilt(path: Path) -> Iterator[tuple[Book, dict]]:
    """Yield the book after each diff, with the best bid and ask the venue itself last announced."""
    waiting, book, best = [], None, {}
    for message in messages(path):
        if "lastUpdateId" in message:
            book = Book(message)
            for diff in waiting:
                book.apply(diff)
        elif message["data"]["e"] == "bookTicker":
            best = message["data"]
        elif message["data"]["e"] == "depthUpdate":
            if book is None:
                waiting.append(message["data"])
                continue
            book.apply(message["data"])
            yield book, best


def streamed(path: Path, diffs: int = 600) -> Path:
    """Write a stream of our own: a snapshot after some diffs, seeded changes near the middle, each best announced."""
    rng = np.random.default_rng(4)
    middle, ids = 600_000, 1_000  # prices in ticks of 0.1
    sides = {"b": {middle - 1 - i: 1.0 + i for i in range(300)}, "a": {middle + 1 + i: 1.0 + i for i in range(300)}}

    def levels(side: dict[int, float]) -> list[list[str]]:
        return [[f"{price / 10:.1f}", f"{quantity:.3f}"] for price, quantity in side.items()]

    with gzip.open(path, "wt") as file:

        def say(message: dict) -> None:
            file.write(f"0 {json.dumps(message)}\n")

        for n in range(diffs):
            if n == 3:
                say({"lastUpdateId": ids, "bids": levels(sides["b"]), "asks": levels(sides["a"])})
            first, changed = ids, {"b": {}, "a": {}}
            for side, sign in (("b", -1), ("a", 1)):
                for away in rng.integers(1, 40, 4):
                    quantity = float(rng.choice((0.0, rng.lognormal(1, 1))))
                    changed[side][middle + sign * int(away)] = round(quantity, 3)
                changed[side][middle + sign] = round(float(rng.lognormal(0, 1)) + 0.01, 3)
                sides[side] |= changed[side]
                sides[side] = {price: quantity for price, quantity in sides[side].items() if quantity}
            ids += 5
            diff = {"e": "depthUpdate", "U": first, "u": ids, "pu": first}
            say({"data": diff | {side: levels(changed[side]) for side in ("b", "a")}})
            best = {"b": f"{max(sides['b']) / 10:.1f}", "a": f"{min(sides['a']) / 10:.1f}"}
            say({"data": {"e": "bookTicker", **best}})
    return path


def test_features_of_a_book_of_our_own_equal_plain_arithmetic_and_its_best_prices(tmp_path: Path) -> None:
    assert_like_arithmetic(streamed(tmp_path / "stream.gz"), every=5)


@pytest.mark.slow
def test_features_of_the_recorded_book_equal_plain_arithmetic_and_the_venues_own_best_prices() -> None:
    assert_like_arithmetic(shared("l2/usdm_btcusdt_20240808.gz"), every=50)


def assert_like_arithmetic(path: Path, every: int) -> None:
    looked = same_best = 0
    for book, best in rebuilt(path):
        if book.diffs % every:
            continue
        looked += 1
        bids, asks = book.top()
        same_best += (str(bids[0][0]), str(asks[0][0])) == (best["b"], best["a"])
        view = orderbook.view(bids, asks, Decimal(250_000))
        bid, ask = sum(float(q) for _, q in bids[:5]), sum(float(q) for _, q in asks[:5])
        mid = (float(bids[0][0]) + float(asks[0][0])) / 2
        assert view.imbalance == pytest.approx((bid - ask) / (bid + ask), rel=1e-9)
        assert view.spread_bps == pytest.approx((float(asks[0][0]) - float(bids[0][0])) / mid * 1e4, rel=1e-6)
        assert view.slippage_bps_for_size == pytest.approx(
            max(walked(asks, mid), walked(bids, mid)), rel=1e-6, abs=1e-9
        )
        assert 0 < view.spread_bps < 2
        assert view.spread_bps / 2 - 1e-9 <= view.slippage_bps_for_size < 20
    assert looked > 100
    assert same_best / looked > 0.8  # the ticker arrives on its own stream, a little earlier or later than the diffs


def walked(side: list[Level], mid: float) -> float:
    """Return the cost of 250,000 quote against mid in bps, in floats."""
    left, base = 250_000.0, 0.0
    for price, quantity in side:
        taken = min(left, float(price) * float(quantity))
        base, left = base + taken / float(price), left - taken
    assert left <= 1e-6
    return abs(250_000.0 / base - mid) / mid * 1e4

"""The picture shows what was known at as_of, is one file, and can neither fail a cycle nor be broken by a text."""

import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from shared_data import SHARED

from tasks.adapters.charts import moment
from tasks.core.errors import DataError, InputError
from tasks.core.market.bars import bar_frame
from tasks.core.market.market import Market
from tasks.core.types.portfolio import HeldPosition
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleRecord

pytestmark = pytest.mark.slow  # importing matplotlib takes seconds

SYMBOL = "BTC/USDT:USDT"
START = datetime(2025, 1, 1, tzinfo=UTC)
AS_OF = datetime(2025, 1, 10, 12, 0, tzinfo=UTC)
FEW = 40  # bars, where pictures are compared: a mark of each event takes most of the time
LONG = HeldPosition(
    symbol=SYMBOL, side="long", quantity=Decimal("0.1"), avg_price=Decimal(60_000), stop=Decimal(55_000)
)


def candles(count: int = 3600) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 1.5e-3, count)))
    opens = np.r_[60_000.0, close[:-1]]
    values = {
        "open": opens, "high": np.maximum(opens, close) + 20, "low": np.minimum(opens, close) - 20, "close": close,
        "volume": rng.lognormal(3, 0.7, count),
    }  # fmt: skip
    return bar_frame(int(START.timestamp() * 1000) + np.arange(count) * 300_000, values)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.from_base(SYMBOL, candles())


def until(as_of: datetime) -> Market:
    bars = candles()
    return Market.from_base(SYMBOL, bars[bars.index + timedelta(minutes=5) <= as_of])


def size_of(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", picture[16:24])


def test_the_picture_is_a_png_of_the_size_asked_for(market):
    assert size_of(moment.draw(market, AS_OF)) == (1200, 700)
    small = moment.draw(market, AS_OF, bars=96, position=LONG, size=(900, 480))
    assert size_of(small) == (900, 480)
    assert len(small) <= 60_000  # it is kept inside a page


@pytest.mark.parametrize("timeframe", ["5m", "15m", "1h"])
def test_nothing_after_as_of_changes_a_pixel(market, timeframe):
    at = AS_OF + timedelta(minutes=5)  # in the middle of a 15m and a 1h bar
    drawn = moment.draw(market, at, timeframe=timeframe, bars=FEW)
    assert drawn == moment.draw(until(at), at, timeframe=timeframe, bars=FEW)
    assert drawn != moment.draw(market, at + timedelta(hours=1), timeframe=timeframe, bars=FEW)


def test_the_last_closed_bar_is_the_last_one_seen_with_the_levels_known_at_its_close(market):
    at = AS_OF + timedelta(minutes=5)
    seen = moment.visible(market, at, "15m", 120)
    assert seen.index[-1] + timedelta(minutes=15) == AS_OF
    assert len(seen) == 120
    assert seen["sma20"].iloc[-1] == market.value("15m", "sma20", AS_OF)
    five = market.anchors["prev_day_high"]
    assert seen["prev_day_high"].iloc[-1] == five[five.index[five.index + timedelta(minutes=5) <= AS_OF][-1]]


def test_position_and_reasons_are_drawn(market):
    bare, long = moment.draw(market, AS_OF, bars=FEW), moment.draw(market, AS_OF, bars=FEW, position=LONG)
    assert long != bare
    assert long != moment.draw(market, AS_OF, bars=FEW, position=LONG.model_copy(update={"target": Decimal(70_000)}))
    reason = Reason(rule="AdHoc", symbol=SYMBOL, detail=r"$\frac{ <b> \x & $ _^ 価", as_of=AS_OF, fingerprint="f")
    assert moment.draw(market, AS_OF, bars=FEW, reasons=[reason]) != bare
    assert moment.draw(market, AS_OF, bars=FEW, reasons=[reason.model_copy(update={"context": True})]) == bare


@pytest.mark.parametrize("hours", [0, 1, 30, 60])
def test_a_young_market_can_be_drawn(market, hours):
    assert moment.draw(market, START + timedelta(hours=hours, minutes=15), bars=10)


def test_a_market_that_never_moved_can_be_drawn():
    still = candles(600)
    still[["open", "high", "low", "close"]] = 0.05
    assert moment.draw(Market.from_base(SYMBOL, still), START + timedelta(hours=40))


def test_what_cannot_be_drawn_says_so(market):
    with pytest.raises(DataError, match="no 15m bar had closed by 2025-01-01 00:10 UTC"):
        moment.draw(market, START + timedelta(minutes=10))
    with pytest.raises(InputError, match=r"'7m'.*5m, 15m"):
        moment.draw(market, AS_OF, timeframe="7m")


def test_drawing_leaves_no_figure_behind(market):
    from matplotlib import pyplot

    moment.draw(market, AS_OF)
    assert pyplot.get_fignums() == []


def test_the_page_is_one_file_with_the_text_as_text(market, tmp_path):
    moment.write(tmp_path / "moment.html", market, AS_OF, text="tf <script>alert(1)</script> & more")
    page = (tmp_path / "moment.html").read_text(encoding="utf-8")
    assert '<img src="data:image/png;base64,iVBOR' in page
    assert "<pre>tf &lt;script&gt;alert(1)&lt;/script&gt; &amp; more</pre>" in page
    assert "http" not in page


def test_a_wrong_ending_or_place_is_named_and_nothing_is_written(market, tmp_path):
    with pytest.raises(InputError, match=r"moment\.svg: a plot ends in \.png or \.html"):
        moment.write(tmp_path / "moment.svg", market, AS_OF)
    with pytest.raises(InputError, match=r"nowhere/moment\.png: cannot be written \(No such file or directory\)"):
        moment.write(tmp_path / "nowhere" / "moment.png", market, AS_OF)
    assert list(tmp_path.iterdir()) == []


def test_an_hourly_market_is_drawn_in_hours(tmp_path):
    hours = (
        candles(600)
        .resample("1h")
        .agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
    )
    moment.write(tmp_path / "moment.png", Market.from_base(SYMBOL, hours), START + timedelta(hours=40))
    assert size_of((tmp_path / "moment.png").read_bytes()) == (1200, 700)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0.1, 8))
def test_level_names_keep_their_order_and_distance_and_stay_below_the_top(wanted, gap):
    placed = moment._spread(sorted(wanted), gap, 0, 100)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(placed))
    assert max(placed) <= 100 + 1e-9
    if len(wanted) == 1:
        assert placed == wanted


# --- where the picture goes


def test_snapshot_writes_the_plot_beside_what_it_prints(tmp_path):
    from deployments.cli import cli

    bars = candles()
    stamped = bars.reset_index(drop=True).assign(ts=bars.index.as_unit("ms").asi8)
    stamped.to_parquet(tmp_path / "btc.parquet")
    asked = ["snapshot", "--candles", str(tmp_path / "btc.parquet"), "--symbol", SYMBOL, "--as-of", AS_OF.isoformat()]
    plain = CliRunner().invoke(cli, [*asked, "--lean"], catch_exceptions=False)
    path = tmp_path / "moment.html"
    plotted = CliRunner().invoke(cli, [*asked, "--lean", "--plot", str(path)], catch_exceptions=False)
    assert plotted.stdout == plain.stdout
    assert plotted.stderr == f"plot {path}\n"
    assert plain.stdout.splitlines()[0] in path.read_text(encoding="utf-8")


def record() -> CycleRecord:
    return CycleRecord(cycle_id="c", strategy="default", symbol=SYMBOL, as_of=AS_OF)


def test_the_decisions_chart_is_a_picture_inside_its_url(market, monkeypatch):
    from tasks import record as task

    monkeypatch.setattr(task.load_candles, "fn", lambda symbols, as_of, limit: {symbols[0]: market.bars})
    url = task.chart_of(record())
    assert url.startswith("data:image/png;base64,")
    assert len(url) <= 80_000


@pytest.mark.parametrize("error", [DataError("no candles"), ValueError("a drawing library's own")])
def test_a_chart_that_cannot_be_drawn_is_a_warning(error, monkeypatch, caplog):
    from tasks import record as task

    def fail(symbols: tuple[str, ...], as_of: datetime, limit: int) -> None:
        raise error

    monkeypatch.setattr(task.load_candles, "fn", fail)
    assert task.chart_of(record()) == ""
    assert f"not drawn error={error}" in caplog.text


@pytest.mark.parametrize("source", ["own", "recorded"])
def test_a_long_market_fits_the_page(source):
    from tasks.adapters.files.candles import read_candles

    found = sorted((SHARED / "ohlcv").glob("BTC-USDT-PERP_5m_*.parquet"))
    if source == "recorded" and not found:
        pytest.skip(f"needs {SHARED}/ohlcv/BTC-USDT-PERP_5m_*.parquet")
    bars = candles(25_000) if source == "own" else read_candles(found[0]).iloc[:25_000]
    market = Market.from_base(SYMBOL, bars)
    sizes = [
        len(moment.draw(market, datetime(2025, 3, day, 12, tzinfo=UTC), bars=96, position=LONG, size=(900, 480)))
        for day in (3, 10, 20)
    ]
    assert max(sizes) <= 60_000

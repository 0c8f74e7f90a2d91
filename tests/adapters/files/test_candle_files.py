"""Candle and funding files as people bring them: each form is read back equal, each fault named in one line."""

import gzip
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from market_data import walk
from shared_data import SHARED

from tasks.adapters.files.candles import read_candles
from tasks.adapters.files.funding import read_funding
from tasks.core.errors import InputError
from tasks.core.market.bars import epoch_s, gaps_in
from tasks.core.types.bars import COLUMNS

BARS = walk(60)
MS = epoch_s(BARS.index) * 1000
CASES = SHARED.parent / "cases"
PLAIN = pd.DataFrame({"ts": MS, **{name: BARS[name].to_numpy() for name in COLUMNS}})
TWELVE = PLAIN.assign(close_time=MS + 299_999, quote=1.5, trades=3, taker=0.1, taker_quote=0.2, ignore=0)
ISO = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in BARS.index]
CDD = pd.DataFrame(
    {"Unix": MS // 1000, "Date": ISO, "Symbol": "BTCUSDT", **{name.title(): PLAIN[name] for name in COLUMNS[:4]},
     "Volume USDT": 7.0, "Volume BTC": PLAIN["volume"], "tradecount": 3}
)  # fmt: skip


def timed(times, name="date"):
    return PLAIN.drop(columns="ts").assign(**{name: times})


def as_csv(frame, top="", **how):
    return lambda path: path.write_text(top + frame.to_csv(index=False, **how))


def yfinance(path):
    head = "Price,Close,High,Low,Open,Volume\nTicker,BTC-USD,BTC-USD,BTC-USD,BTC-USD,BTC-USD\nDatetime,,,,,\n"
    columns = PLAIN[["close", "high", "low", "open", "volume"]]
    path.write_text(head + columns.set_index(BARS.index.astype(str)).to_csv(header=False))


def yfinance_parquet(path):
    frame = BARS.rename(columns=str.title).rename_axis("Datetime")
    frame.columns = pd.MultiIndex.from_product([frame.columns, ["BTC-USD"]], names=["Price", "Ticker"])
    frame.to_parquet(path)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BTCUSDT-5m-2024-01.csv", TWELVE.to_csv(index=False, header=False))


MIXED = TWELVE.assign(ts=np.where(np.arange(60) < 30, MS, MS * 1000))
FORMS = {
    "ours.parquet": PLAIN.to_parquet,
    "ours.csv": as_csv(PLAIN),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(PLAIN.to_csv(index=False).encode())),
    "BTCUSDT-5m-2024-01.zip": zipped,
    "binance-ms.csv": as_csv(TWELVE, header=False),
    "binance-us.csv": as_csv(TWELVE.assign(ts=MS * 1000), header=False),
    "binance-joined.csv": as_csv(MIXED, header=False),
    "binance-named.csv": as_csv(TWELVE.rename(columns={"ts": "open_time"})),
    "seconds.csv": as_csv(PLAIN.assign(ts=MS // 1000)),
    "float-seconds.csv": as_csv(PLAIN.assign(ts=MS / 1000)),
    "nanoseconds.csv": as_csv(PLAIN.assign(ts=MS * 1_000_000)),
    "iso.csv": as_csv(timed(ISO, "time")),
    "offset.csv": as_csv(timed(BARS.index.tz_convert("Asia/Tokyo"), "timestamp")),
    "naive.csv": as_csv(timed(BARS.index.tz_localize(None), "Datetime")),
    "naive-us.parquet": timed(BARS.index.tz_localize(None).as_unit("us"), "time").to_parquet,
    "aware-ns.parquet": timed(BARS.index.tz_convert("Asia/Tokyo").as_unit("ns"), "time").to_parquet,
    "indexed.parquet": BARS.to_parquet,
    "index-without-name.csv": BARS.rename_axis(None).to_csv,
    "index-without-name.feather": BARS.rename_axis(None).reset_index().to_feather,
    "numbered.csv": PLAIN.to_csv,
    "polygon.csv": as_csv(PLAIN.rename(columns={name: name[0] for name in PLAIN}).assign(vw=1.0, n=2)),
    "okx.csv": as_csv(
        PLAIN.rename(columns={"ts": "open_time", "volume": "vol"}).assign(instrument_name="BTC-USDT", vol_ccy=1.0)
    ),
    "kaggle.csv": as_csv(
        PLAIN.rename(
            columns={name: name.title() for name in PLAIN} | {"volume": "Volume_(BTC)", "ts": "Timestamp"}
        ).assign(**{"Timestamp": MS / 1000, "Volume_(Currency)": 9.0, "Weighted_Price": 9.0})
    ),
    "coinapi.csv": as_csv(
        timed(ISO, "time_period_start")
        .rename(columns={n: f"price_{n}" for n in COLUMNS} | {"volume": "volume_traded"})
        .assign(time_open=[iso.replace("00Z", "07Z") for iso in ISO], trades_count=3)
    ),
    "freqtrade.feather": timed(BARS.index).to_feather,
    "yfinance.csv": yfinance,
    "yfinance-old.csv": as_csv(
        timed(BARS.index.astype(str), "Date").rename(columns=str.title).assign(**{"Adj Close": 1.0})
    ),
    "yfinance.parquet": yfinance_parquet,
    "cryptodatadownload.csv": as_csv(CDD.iloc[::-1], top="https://www.CryptoDataDownload.com\n"),
    "tradingview.csv": as_csv(PLAIN.rename(columns={"ts": "time", "volume": "Volume"}).assign(time=MS // 1000)),
    "kraken.csv": as_csv(PLAIN.assign(ts=MS // 1000, trades=4), header=False),
    "bybit.csv": as_csv(PLAIN.rename(columns={"ts": "start_at"}).assign(start_at=MS // 1000, turnover=1.0)),
    "coinmarketcap.csv": as_csv(
        timed(ISO, "timeOpen").assign(timestamp=[iso.replace("00Z", "59Z") for iso in ISO], marketCap=1.0), sep=";"
    ),
    "archive.txt": as_csv(PLAIN.rename(columns={"ts": "timestamp"}), sep="|"),
    "tabs.tsv": as_csv(PLAIN, sep="\t"),
    "comma-decimals.csv": as_csv(PLAIN, sep=";", decimal=","),
    "commented.csv": as_csv(PLAIN, top="# BTC/USDT, 5m, Binance\n\n"),
    "bom.csv": lambda path: path.write_text("\ufeff" + PLAIN.to_csv(index=False)),
    "blank-lines.csv": lambda path: path.write_text(PLAIN.to_csv(index=False) + "\n\n"),
    "twice.csv": as_csv(pd.concat([PLAIN, PLAIN.iloc[20:40]])),
    "any-order.csv": as_csv(PLAIN.sample(frac=1, random_state=1)),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_of_file_is_read_back_equal(tmp_path, name):
    FORMS[name](tmp_path / name)
    read = read_candles(tmp_path / name)
    pd.testing.assert_frame_equal(read, BARS)
    assert read.to_numpy().tolist() == BARS.to_numpy().tolist()


def test_a_float32_is_read_as_the_decimal_that_was_written(tmp_path):
    PLAIN.astype(dict.fromkeys(COLUMNS, "float32")).to_parquet(tmp_path / "f.parquet")
    assert read_candles(tmp_path / "f.parquet").to_numpy().tolist() == BARS.to_numpy().tolist()


def test_every_digit_of_a_price_in_text_is_read(tmp_path):
    rows = [
        f"{ms},{x},{x},{x},{x},1" for ms, x in zip(MS, ("2.1e-8", "0.000000023", "73.84216959142435"), strict=False)
    ]
    (tmp_path / "f.csv").write_text("\n".join(rows))
    assert read_candles(tmp_path / "f.csv")["close"].tolist() == [2.1e-8, 2.3e-8, 73.84216959142435]


def changed(at, **values):
    frame = PLAIN.astype({"ts": object} if "ts" in values else {}).copy()
    for name, value in values.items():
        frame[name] = frame[name].astype(object)
        frame.loc[at, name] = value
    return as_csv(frame)


FAULTS = {
    "null": (changed(9, open=None), "line 11: open is missing"),
    "text": (changed(9, volume="1.2K"), "line 11: volume is '1.2K'"),
    "infinite": (changed(9, high=np.inf), "line 11: high is 'inf'"),
    "zeros": (changed(9, open=0, high=0, low=0, close=0), "line 11: no candle has open 0 high 0 low 0"),
    "negative": (changed(9, low=-5), r"line 11: no candle has .* low -5"),
    "high below low": (changed(9, high=1), r"line 11: no candle has .* high 1 "),
    "volume": (changed(9, volume=-1), r"line 11: no candle has .* volume -1"),
    "time": (changed(9, ts="soon"), r"line 11: time is 'soon'"),
    "null time": (changed(9, ts=None), r"line 11: time is missing"),
    "row number": (changed(9, ts=9), r"line 11: time is '9'"),
    "moved": (changed(9, ts=MS[9] + 1000), r"line 11: 2024-01-01 00:45:01 is not where 5m candles open"),
    "close time": (as_csv(PLAIN.assign(ts=MS + 299_999)), r"line 2: .* is it the close time"),
    "twice": (changed(9, ts=MS[8]), r"line 11: 2024-01-01 00:40:00 has .*, but line 10 has .*: keep"),
    "first row null": (
        as_csv(timed(ISO).assign(**{key: [None, *[1] * 59] for key in COLUMNS})), "line 2: open is missing"
    ),
    "no volume": (as_csv(PLAIN.drop(columns="volume")), "lacks volume; it has ts, open, high, low, close"),
    "bitfinex": (
        as_csv(PLAIN[["ts", "open", "close", "high", "low", "volume"]], header=False), "without a header the"
    ),
    "coinbase": (
        as_csv(PLAIN[["ts", "low", "high", "open", "close", "volume"]][::-1], header=False),
        "without a header the columns are time,open,high,low,close,volume: name them",
    ),
    "gate": (as_csv(PLAIN[["ts", "volume", "close", "high", "low", "open"]], header=False), "without a header the"),
    "thousands": (changed(9, close="42,265.2"), "line 11: close is '42,265.2'"),
    "metatrader": (as_csv(timed(["2024.01.01"] * 60, "<DATE>").assign(TIME="00:05")), "line 2: time is '00:05'"),
    "spreadsheet": (as_csv(PLAIN.assign(ts=45292.5)), "line 2: time is '45292.5'"),
    "narrow": (as_csv(PLAIN[["ts", "close"]], header=False), "lacks high,low,close,volume; it has 2 without names"),
    "ragged": (lambda path: path.write_text(PLAIN.to_csv(index=False) + "1,2,3,4,5,6,7,8,9\n"), "line 62"),
    "empty": (lambda path: path.write_text(""), "cannot be read as a table"),
    "words": (lambda path: path.write_text("nothing here\nat all\n"), "no row of numbers in its first 2 lines"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe\x00\x01" * 50), "cannot be read as a table"),
    "3m": (as_csv(PLAIN.assign(ts=MS[0] + np.arange(60) * 180_000)), "180 s apart are of no known timeframe"),
    "one": (as_csv(PLAIN[:1]), "1 bars are too few"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_line_with_its_place_in_the_file(tmp_path, name):
    write, said = FAULTS[name]
    file = tmp_path / "wrong.csv"
    write(file)
    with pytest.raises(InputError, match=said) as caught:
        read_candles(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.csv", "candles.json", "candles.xlsx"])
def test_a_file_of_another_kind_is_told_which_kinds_there_are(tmp_path, name):
    if name != "gone.csv":
        (tmp_path / name).write_text("[]")
    with pytest.raises(InputError, match=r"no such candle file that ends in \.parquet, \.feather, \.csv, \.tsv"):
        read_candles(tmp_path / name)


def test_a_row_of_a_parquet_file_is_counted_from_one(tmp_path):
    PLAIN.assign(low=PLAIN["low"].where(PLAIN.index != 9)).to_parquet(tmp_path / "f.parquet")
    with pytest.raises(InputError, match="row 10: low is missing"):
        read_candles(tmp_path / "f.parquet")


def test_gaps_are_counted_and_the_longest_is_named():
    holed = BARS.drop(BARS.index[[5, 20, 21, 22, 40]])
    assert gaps_in(holed.index, "5m") == {
        "gaps": 3, "missing_bars": 5, "timeframe": "5m", "longest_bars": 3, "longest_from": BARS.index[20],
    }  # fmt: skip
    assert gaps_in(BARS.index, "5m") == {}


AT = [datetime(2024, 1, 1, 8 * k % 24, tzinfo=UTC) + timedelta(days=k // 3) for k in range(9)]
SINCE = [int(at.timestamp()) for at in AT]
RATES = [0.0001 * k for k in range(9)]


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("ours.parquet", {"ts": [1000 * s for s in SINCE], "rate": RATES}),
        ("seconds.csv", {"ts": SINCE, "rate": RATES}),
        ("api.csv", {"symbol": "BTCUSDT", "fundingTime": [1000 * s for s in SINCE], "fundingRate": RATES}),
        ("dump.csv", {"calc_time": [1000 * s for s in SINCE], "interval_hours": 8, "last_funding_rate": RATES}),
        ("iso.csv", {"timestamp": [at.isoformat() for at in AT], "fundingRate": RATES}),
        ("newest-first.csv", {"time": SINCE[::-1], "funding_rate": RATES[::-1]}),
        ("dates.feather", {"date": AT, "rate": RATES}),
    ],
)
def test_funding_files_are_read_as_candle_files_are(tmp_path, name, frame):
    frame = pd.DataFrame(frame)
    frame.to_csv(tmp_path / name, index=False) if name.endswith("csv") else getattr(frame, f"to_{name[-7:]}")(
        tmp_path / name
    )
    read = read_funding(tmp_path / name)
    assert [each.at for each in read] == AT
    assert [float(each.rate) for each in read] == pytest.approx(RATES)
    assert isinstance(read[0].rate, Decimal)


def test_a_funding_file_without_a_header_has_time_and_rate(tmp_path):
    (tmp_path / "f.csv").write_text("".join(f"{s},{rate}\n" for s, rate in zip(SINCE, RATES, strict=True)))
    assert [each.at for each in read_funding(tmp_path / "f.csv")] == AT
    (tmp_path / "f.csv").write_text("".join(f"{s},8,{rate}\n" for s, rate in zip(SINCE, RATES, strict=True)))
    with pytest.raises(InputError, match="line 1: rate 8 is no share of notional"):
        read_funding(tmp_path / "f.csv")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one-null-row", "line 3002: open is missing"),
        ("forming-bar-twice", "line 3003: 2024-01-11 10:00:00 has .* but line 3002 has"),
        ("mixed-ms-us", 2000),
        ("BTCUSDT-5m-2024-01", 600),
        ("BTCUSDT-5m-2025-01-us", 600),
        ("cheap-coin", 6000),
    ],
)
def test_the_files_that_were_brought(name, said):
    path = CASES / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"needs the cases in {CASES}")
    if isinstance(said, str):
        with pytest.raises(InputError, match=said):
            read_candles(path)
    else:
        assert len(read_candles(path)) == said

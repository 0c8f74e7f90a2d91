"""The definitions of DESIGN.md once more: slow, obvious, pure Python, one bar at a time. For tests only.

A bar is a tuple (open time in s, open, high, low, close, volume). Every function is given the bars up to and
including the one it is about; None = unknown.
"""

import math
from itertools import pairwise
from statistics import median

Bar = tuple[int, float, float, float, float, float]
DAY = 86_400


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    centre = mean(values)
    return math.sqrt(sum((x - centre) ** 2 for x in values) / (len(values) - 1))


def sma(values: list[float], n: int) -> float | None:
    return mean(values[-n:]) if len(values) >= n else None


def ema(values: list[float], n: int) -> list[float | None]:
    """Seed with the simple average of the first n values."""
    if len(values) < n:
        return [None] * len(values)
    out: list[float | None] = [None] * (n - 1)
    current = mean(values[:n])
    out.append(current)
    for x in values[n:]:
        current += (x - current) * 2 / (n + 1)
        out.append(current)
    return out


def macd_hist(closes: list[float]) -> list[float | None]:
    fast, slow = ema(closes, 12), ema(closes, 26)
    line = [f - s for f, s in zip(fast, slow, strict=True) if f is not None and s is not None]
    signal = ema(line, 9)
    hist = [None if s is None else x - s for x, s in zip(line, signal, strict=True)]
    return [None] * (len(closes) - len(hist)) + hist


def wilder(values: list[float], n: int) -> list[float]:
    """Smooth: the average of the first n, then (n - 1) parts old to one part new."""
    out = [mean(values[:n])]
    for x in values[n:]:
        out.append((out[-1] * (n - 1) + x) / n)
    return out


def rsi(closes: list[float]) -> float | None:
    steps = [b - a for a, b in pairwise(closes)]
    if len(steps) < 14:
        return None
    gain = wilder([max(x, 0.0) for x in steps], 14)[-1]
    loss = wilder([max(-x, 0.0) for x in steps], 14)[-1]
    return None if gain + loss == 0 else 100 * gain / (gain + loss)


def true_ranges(bars: list[Bar]) -> list[float]:
    """Leave out the first bar: it has no previous close."""
    return [max(b[2] - b[3], abs(b[2] - a[4]), abs(b[3] - a[4])) for a, b in pairwise(bars)]


def atrs(bars: list[Bar]) -> list[float]:
    ranges = true_ranges(bars)
    return wilder(ranges, 14) if len(ranges) >= 14 else []


def percentile(values: list[float]) -> float | None:
    last = values[-90:]
    return 100 * sum(x <= last[-1] for x in last) / 90 if len(last) == 90 else None


def vwap(bars: list[Bar]) -> float | None:
    volume = sum(b[5] for b in bars)
    return sum((b[2] + b[3] + b[4]) / 3 * b[5] for b in bars) / volume if volume else None


def swings(bars: list[Bar], column: int, sign: int) -> list[float]:
    """Return the known swing levels, oldest first: extremes of two bars on either side, those two bars closed."""
    found = []
    for i in range(2, len(bars) - 2):
        others = (bars[i - 2], bars[i - 1], bars[i + 1], bars[i + 2])
        if all(sign * bars[i][column] > sign * other[column] for other in others):
            found.append(bars[i][column])
    return found


def z(value: float, values: list[float], centre: float | None, dust: float) -> float | None:
    spread = deviation(values)
    return None if centre is None or spread <= dust * abs(values[-1]) else (value - centre) / spread


def features(bars: list[Bar]) -> dict[str, object]:
    """Return every feature of the snapshot contract for the last bar; an absent key is unknown."""
    out: dict[str, object] = {}
    closes = [b[4] for b in bars]
    out["close"], out["rsi"] = closes[-1], rsi(closes)
    before = rsi(closes[:-1])
    out["rsi_slope"] = None if before is None or out["rsi"] is None else out["rsi"] - before
    hist = macd_hist(closes)
    if hist[-1] is not None:
        out["macd_hist"] = hist[-1]
    if len(hist) > 1 and hist[-2] is not None:
        out["macd_slope"] = hist[-1] - hist[-2]
        out["macd_cross"] = (hist[-1] > 0 >= hist[-2]) - (hist[-1] < 0 <= hist[-2])
    atr = atrs(bars)[-1] if len(bars) > 14 and atrs(bars)[-1] > 0 else None
    out |= windows(bars) | ranges(bars, atr) | structure(bars, atr)
    return {name: value for name, value in out.items() if value is not None}


def windows(bars: list[Bar]) -> dict[str, object]:
    """Return what looks at the last 20 bars."""
    out: dict[str, object] = {}
    closes, volumes = [b[4] for b in bars], [b[5] for b in bars]
    close, volume = closes[-1], volumes[-1]
    if len(bars) >= 20:
        out["price_z20"] = z(close, closes[-20:], mean(closes[-20:]), 1e-12)
        out["vwap_z"] = z(close, closes[-20:], vwap(bars[-20:]), 1e-12)
        out["vol_z20"] = z(volume, volumes[-20:], mean(volumes[-20:]), 1e-12)
        out["vol_spike"] = volume > 2 * median(volumes[-20:])
    if len(bars) >= 21:
        steps = [(b > a) - (b < a) for a, b in zip(closes[-21:], closes[-20:], strict=False)]
        out["delta20"] = sum(steps) / 20
        flow = sum(s * v for s, v in zip(steps, volumes[-20:], strict=True))
        out["obv_dir"] = (flow > 0) - (flow < 0)
        usual = median(true_ranges(bars)[-20:])
        out["range_ratio"] = true_ranges(bars)[-1] / usual if usual else None
    return out


def ranges(bars: list[Bar], atr: float | None) -> dict[str, object]:
    out: dict[str, object] = {}
    closes = [b[4] for b in bars]
    if atr is not None:
        out["atr"], out["atr_pct"], out["atr_pctile"] = atr, atr / closes[-1] * 100, percentile(atrs(bars))
    averages = {n: sma(closes, n) for n in (20, 50, 200)}
    if averages[200] is not None:
        out["ma_stack"] = ">".join(str(n) for n in sorted(averages, key=lambda n: -averages[n]))
        out["cloud_atr"] = None if atr is None else (averages[50] - averages[200]) / atr
    return out


def structure(bars: list[Bar], atr: float | None) -> dict[str, object]:
    out: dict[str, object] = {}
    _, opened, high, low, close, _ = bars[-1]
    for name, column, sign in (("high", 2, 1), ("low", 3, -1)):
        levels = swings(bars, column, sign)
        for which, back in (("last", 1), ("prev", 2)):
            if len(levels) >= back and atr is not None:
                out[f"to_{which}_{name}_atr"] = (levels[-back] - close) / atr
        if levels:
            out[f"broke_{name}"] = sign * close > sign * levels[-1]
    if high > low:
        out["upper_wick_pct"] = (high - max(opened, close)) / (high - low) * 100
        out["lower_wick_pct"] = (min(opened, close) - low) / (high - low) * 100
    return out


def resampled(bars: list[Bar], base: int, seconds: int) -> list[Bar]:
    """Return the closed higher bars that base bars (gapless, of `base` s) give; a partial first one is left out."""
    until = bars[-1][0] + base
    out = []
    for start in sorted({b[0] // seconds * seconds for b in bars}):
        inside = [b for b in bars if start <= b[0] < start + seconds]
        if start >= bars[0][0] and start + seconds <= until:
            high, low = max(b[2] for b in inside), min(b[3] for b in inside)
            out.append((start, inside[0][1], high, low, inside[-1][4], sum(b[5] for b in inside)))
    return out


def anchors(bars: list[Bar]) -> dict[str, float]:
    """Return the levels known at the close of the last of gapless 5m bars; an absent key is unknown."""
    at = bars[-1][0]
    today = at // DAY * DAY
    monday = today - (today // DAY + 3) % 7 * DAY
    out: dict[str, float] = {}

    def between(start: int, end: int) -> list[Bar]:
        return [b for b in bars if start <= b[0] < end] if bars[0][0] <= start else []

    for name, span in (
        ("day", between(today - DAY, today)),
        ("week", between(monday - 7 * DAY, monday)),
    ):
        if span:
            out[f"prev_{name}_high"], out[f"prev_{name}_low"] = max(b[2] for b in span), min(b[3] for b in span)
    for name, span in (("daily_open", between(today, at + 1)), ("weekly_open", between(monday, at + 1))):
        if span:
            out[name] = span[0][1]
    for name, span in (("session_vwap", between(today, at + 1)), ("rolling_vwap_1d", between(at - DAY + 300, at + 1))):
        value = vwap(span) if span else None
        if value is not None:
            out[name] = value
    return out

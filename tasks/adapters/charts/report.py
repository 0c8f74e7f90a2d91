"""The report of a comparison: one HTML page that opens without a network and can be sent on."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.adapters.charts import comparison
from tasks.adapters.charts.moment import data_uri
from tasks.core.lab import compare
from tasks.core.lab.chance import Path as Bars
from tasks.core.lab.comparison import Comparison, Pair, Trial, Variant
from tasks.core.lab.statistics import Interval

NONE = "–"


def page(found: Comparison, variants: Sequence[Variant], trials: Sequence[Trial], notes: Mapping[str, Any]) -> str:
    """Render the report; notes: title, command, git commit, instruments and what was spent."""
    lines = {v.label: compare.series(compare.of(trials, v.label)) for v in variants}
    traded = {label: [t for trial in compare.of(trials, label) for t in trial.trades] for label in lines}
    return _environment().get_template("report.html.j2").render(
        found=found, variants={v.label: v for v in variants}, notes=notes, reference=found.rows[0].label,
        against=[pair for pair in found.pairs if found.rows[0].label in (pair.a, pair.b)],
        figures=[_chart("equity", comparison.equity(lines), comparison.equity_png(lines))],
        histograms={label: data_uri(comparison.r_histogram_png(trades)) for label, trades in traded.items() if trades},
        plotly=comparison.plotly_js(),
    )  # fmt: skip


def variant_files(variant: Variant, trials: Sequence[Trial], paths: Mapping[str, Bars]) -> dict[str, bytes]:
    """Return what is kept of one variant, by file name: charts as one page and as pictures, decisions and trades."""
    mine = compare.of(trials, variant.label)
    line, trades = {variant.label: compare.series(mine)}, [trade for trial in mine for trade in trial.trades]
    first, last = float(mine[0].days[0]), float(mine[-1].days[-1])
    pictures = {
        "equity": comparison.equity_png(line), "r_histogram": comparison.r_histogram_png(trades),
        "decisions": comparison.decisions_png(trades, paths, first, last),
    }  # fmt: skip
    figures = {
        "equity": comparison.equity(line), "r_histogram": comparison.r_histogram(trades),
        "decisions": comparison.decisions(trades, paths, first, last),
    }  # fmt: skip
    shown = [_chart(name, figures[name], pictures[name]) for name in figures]
    html = (
        _environment()
        .get_template("charts.html.j2")
        .render(title=variant.label, figures=shown, plotly=comparison.plotly_js())
    )
    return {
        "charts.html": html.encode(), **{f"{name}.png": picture for name, picture in pictures.items()},
        "decisions.csv": _table([point for trial in mine for point in trial.points]), "trades.csv": _table(trades),
    }  # fmt: skip


def page_of(template: str, **given: Any) -> str:
    """Render another page in the same manner."""
    return _environment().get_template(template).render(**given)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, made if need be."""
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def file_name(label: str) -> str:
    """Return a variant's label as a folder's name."""
    return "".join(c if c.isalnum() or c in "-_.@=" else "_" for c in label)


def _table(rows: Sequence[Any]) -> bytes:
    """Write NamedTuples as CSV, with times a person can read."""
    out = StringIO()
    if rows:
        writer = csv.writer(out, lineterminator="\n")
        names = rows[0]._fields
        writer.writerow([name.removesuffix("_s") for name in names])
        for row in rows:
            told = zip(names, row, strict=True)
            writer.writerow([_utc(value) if name.endswith("_s") else value for name, value in told])
    return out.getvalue().encode()


def _utc(seconds: float) -> str:
    return compare.at(seconds).isoformat().replace("+00:00", "Z")


def _chart(name: str, figure: Mapping[str, Any], picture: bytes) -> dict[str, str]:
    told = json.dumps(figure, allow_nan=False).replace("<", "\\u003c")  # so that no label can end the script
    return {"name": name, "figure": told, "picture": data_uri(picture)}


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("tasks.adapters.charts", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"number": _number, "percent": _percent, "interval": _interval, "turned": _turned, "day": _day}
    return made


def _number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    return NONE if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _percent(share: float | None, digits: int = 0) -> str:
    return NONE if share is None else f"{share * 100:.{digits}f} %"


def _interval(found: Interval | None, digits: int = 2) -> str:
    if found is None:
        return NONE
    if found.low is None or found.high is None:
        return f"{found.estimate:+.{digits}f}"
    return f"{found.estimate:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"


def _turned(pair: Pair, label: str) -> Pair:
    """Return the pair as `other` less `label`: every row against the same reference."""
    if pair.b == label:
        return pair
    flipped = {name: _negated(getattr(pair, name)) for name in ("daily_bps", "sharpe")}
    return pair.model_copy(update={"a": pair.b, "b": pair.a, **flipped})


def _negated(found: Interval) -> Interval:
    low, high = (None if bound is None else -bound for bound in (found.high, found.low))
    return found.model_copy(update={"estimate": -found.estimate, "low": low, "high": high})


def _day(value: Any) -> str:
    return f"{value:%Y-%m-%d}"

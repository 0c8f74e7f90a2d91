"""The report of a comparison: one HTML page that opens without a network and can be sent on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.adapters.charts import comparison
from tasks.adapters.charts.canvas import data_uri
from tasks.core.lab import compare
from tasks.core.lab.compare import Comparison, Row, Trial, Variant
from tasks.core.lab.random_traders import TradedBars
from tasks.core.pages import inert, numbers


def page(found: Comparison, variants: Sequence[Variant], trials: Sequence[Trial], notes: Mapping[str, Any]) -> str:
    """Render the report; notes: title, command, git commit, instruments and what was spent."""
    by_label = {v.label: compare.of(trials, v.label) for v in variants}
    traded = {label: [trade for trial in mine for trade in trial.trades] for label, mine in by_label.items()}
    reference = found.rows[0].label
    return page_of(
        "report.html.j2",
        found=found.model_dump(),
        variants=variants,
        notes=notes,
        reference=reference,
        against=[pair.less(reference).model_dump() for pair in found.pairs if reference in (pair.a, pair.b)],
        equity=data_uri(comparison.equity({label: compare.series(mine) for label, mine in by_label.items()})),
        calibrations={
            row.label: data_uri(comparison.calibration(row.calibration)) for row in found.rows if row.calibration
        },
        histograms={label: data_uri(comparison.r_histogram(trades)) for label, trades in traded.items() if trades},
    )


def variant_files(row: Row, trials: Sequence[Trial], paths: Mapping[str, TradedBars]) -> dict[str, bytes]:
    """Return what is kept of one variant, by file name: figures, decisions and trades."""
    mine = compare.of(trials, row.label)
    trades = [trade for trial in mine for trade in trial.trades]
    calibrated = {"calibration.png": comparison.calibration(row.calibration)} if row.calibration else {}
    return calibrated | {
        "equity.png": comparison.equity({row.label: compare.series(mine)}),
        "r_histogram.png": comparison.r_histogram(trades),
        "decisions.png": comparison.decisions(trades, paths, float(mine[0].days[0]), float(mine[-1].days[-1])),
        "decisions.csv": _table([point for trial in mine for point in trial.points]),
        "trades.csv": _table(trades),
    }


def page_of(template: str, **values: Any) -> str:
    """Render a page from its template."""
    environment = Environment(
        loader=PackageLoader("tasks.adapters.charts", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: inert.visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": numbers.fixed,
        "percent": numbers.percent,
        "interval": numbers.interval,
        "day": "{:%Y-%m-%d}".format,
    }
    return environment.get_template(template).render(**values)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def file_name(label: str) -> str:
    """Return a variant's label as a folder's name."""
    return "".join(c if c.isalnum() or c in "-_.@=" else "_" for c in label)


def _table(rows: Sequence[Any]) -> bytes:
    """Write NamedTuples as CSV, with times a person can read."""
    if not rows:
        return b""
    frame = pd.DataFrame(rows)
    for name in frame.columns[frame.columns.str.endswith("_s")]:
        frame[name] = pd.to_datetime(frame[name], unit="s").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return frame.rename(columns=lambda name: name.removesuffix("_s")).to_csv(index=False).encode()

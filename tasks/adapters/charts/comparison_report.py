"""The report of a comparison: one HTML page that opens without a network and can be sent on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.adapters.charts import comparison
from tasks.adapters.charts.canvas import data_uri
from tasks.adapters.files.prompts import diff_prompts
from tasks.core.lab import compare, differences
from tasks.core.lab.compare import Comparison, Row, Trial, Variant
from tasks.core.lab.differences import Explanation
from tasks.core.lab.random_traders import TradedBars
from tasks.core.pages import inert, numbers
from tasks.core.types import POLICY


def page(
    found: Comparison,
    explained: Explanation,
    variants: Sequence[Variant],
    trials: Sequence[Trial],
    paths: Mapping[str, TradedBars],
    notes: Mapping[str, Any],
) -> str:
    """Render the report; notes: title, command, git commit, instruments and what was spent."""
    whole = {row.label: compare.series(compare.of(trials, row.label)) for row in found.rows if row.complete}
    by_label = {variant.label: variant for variant in variants}
    return page_of(
        "report.html.j2",
        found=found.model_dump(),
        explained=explained.model_dump(),
        variants=variants,
        notes=notes,
        diffs=prompt_diffs(by_label[explained.verdict.a], by_label[explained.verdict.b]),
        pictures=[data_uri(comparison.answers(each, paths[each.symbol])) for each in explained.differences],
        colours=comparison.COLOURS,
        least=differences.LEAST,
        equity=data_uri(comparison.equity(whole)),
        calibrations={
            row.label: data_uri(comparison.calibration(row.calibration))
            for row in found.rows
            if row.calibration and row.complete
        },
    )


def prompt_diffs(mine: Variant, theirs: Variant) -> dict[str, list[str]]:
    """Return what is only in the other's prompt (-) and only in this one's (+), for each role that both have."""
    other = {ref.name: ref for ref in theirs.prompts if ref.name != POLICY}
    return {
        f"{ref.name}: {other[ref.name].version} to {ref.version}": diff.splitlines()[2:]
        for ref in mine.prompts
        if ref.name in other and (diff := diff_prompts(ref.name, other[ref.name].version, ref.version))
    }


def variant_files(row: Row, trials: Sequence[Trial]) -> dict[str, bytes]:
    """Return what is kept of one variant, by file name: its growth, what its confidence is worth, its trades."""
    mine = compare.of(trials, row.label)
    calibrated = {"calibration.png": comparison.calibration(row.calibration)} if row.calibration else {}
    return calibrated | {
        "equity.png": comparison.equity({row.label: compare.series(mine)}),
        "trades.csv": _table([trade for trial in mine for trade in trial.trades]),
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
        "usd": numbers.usd,
        "money": numbers.money,
        "price": numbers.price,
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

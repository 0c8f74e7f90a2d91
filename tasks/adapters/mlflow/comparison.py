"""A comparison in MLflow: one parent run, one child per variant, with what a person compares and opens."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.adapters.charts import comparison_report
from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.lab.compare import Comparison, Row, Variant
from tasks.core.lab.statistics import Interval
from tasks.core.pages import inert
from tasks.core.pages.numbers import PRICED
from tasks.settings import ROOT


def git(*words: str) -> str:
    """Return what git says about this checkout; nothing where it fails."""
    command = ["git", "-C", str(ROOT), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()  # noqa: S603  (no shell)
    except (OSError, subprocess.SubprocessError):
        return ""


def git_commit() -> str:
    """Return the commit of this checkout, `-dirty` where it was changed; empty outside of one."""
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def server_of(url: str) -> MlflowServer:
    """Return the experiment that comparisons are kept in."""
    return MlflowServer(url, "quarterdeck-compare")


def log_comparison(
    server: MlflowServer,
    found: Comparison,
    verdict: str,
    variants: Sequence[Variant],
    title: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    folder: Path,
) -> str:
    """Write the parent run and a child per variant from the report's folder, and return the parent's id."""
    with server.translated():
        told = {"kind": "comparison", "mlflow.note.content": inert.markdown(verdict)}
        parent = str(server.create_run(title, {**tags, **told}).info.run_id)
        overall: dict[str, float] = {"variants": len(found.rows), "tried": found.tried}
        if found.overfit is not None:
            overall |= {"pbo": found.overfit.pbo, "pbo_loss": found.overfit.loss}
        server.log(parent, overall, params)
        server.client.log_artifact(parent, str(folder / "report.html"))
        for variant, row in zip(variants, found.rows, strict=True):
            own = variant.model_dump(include={"decider", "model", "prompt"})
            labels = {**tags, **variant_tags(variant), "kind": "variant", "mlflow.parentRunId": parent}
            version = variant.prompts[0].version if len(variant.prompts) == 1 else ""
            # the prompt's version first: MLflow's list cuts names off at the end
            child = server.create_run(f"{version} {variant.label}".strip(), labels).info.run_id
            server.log(child, _metrics(row, found), {**params, **own})
            server.client.log_artifacts(child, str(folder / comparison_report.file_name(variant.label)))
            for one in row.windows:  # as steps, so that MLflow draws them in order
                names = ("return_pct", "sharpe", "max_drawdown_pct", "trades")
                figures = {f"window.{name}": getattr(one, name) for name in names}
                server.log(child, figures, at_ms=int(one.start.timestamp() * 1000), step=one.window)
            for step, group in enumerate(row.calibration.deciles if row.calibration else ()):
                names = ("confidence", "won", "expectancy_r", "entries")
                server.log(child, {f"decile.{name}": getattr(group, name) for name in names}, step=step)
            server.client.set_terminated(child)
        server.client.set_terminated(parent)
        return parent


def variant_tags(variant: Variant) -> dict[str, str]:
    """Return what a variant's runs are found by."""
    one = variant.prompts[0] if len(variant.prompts) == 1 else None
    return {
        "decider": variant.decider,
        "model": variant.model,
        "pricing": PRICED[variant.pricing],
        "baseline": str(variant.baseline).lower(),
        "prompt_name": one.name if one else variant.prompt,
        "prompt_version": one.version if one else variant.prompt,
        "prompt_sha256": variant.prompt_sha256,
        "cutoff": f"{variant.cutoff:%Y-%m-%d}" if variant.cutoff else "",
    }


def _metrics(row: Row, found: Comparison) -> dict[str, float | None]:
    """Return the figures of one variant."""
    values: dict[str, Any] = {name: value for name, value in row if isinstance(value, int | float)}
    values["invalid_share"] = row.invalid / row.decisions if row.decisions else None
    values |= _spread("daily_bps", row.daily_bps) | _spread("expectancy_r", row.expectancy_r)
    if row.calibration is not None:
        values |= {"brier": row.calibration.brier, "brier_of_share": row.calibration.brier_of_share}
    if row.chance is not None:
        values |= {"random_median_return_pct": row.chance.median_return_pct, "random_beaten": row.chance.beaten}
    reference = found.rows[0].label
    for pair in found.pairs:
        if {pair.a, pair.b} == {reference, row.label}:
            ahead = pair.less(reference).daily_bps
            values |= {"ahead_bps": ahead.estimate, "ahead_p": ahead.p_value}
    for leak in found.leakage:
        if leak.label == row.label:
            values |= {"masked_sharpe": leak.masked_sharpe, "input_dependency": leak.input_dependency}
            values |= _spread("masked_gap_bps", leak.masked_gap_bps) | _spread("strong_gap_bps", leak.strong_gap_bps)
    return values


def _spread(name: str, found: Interval | None) -> dict[str, float | None]:
    bounds = ("low", "high", "effective_n")
    return {name: found.estimate, **{f"{name}_{each}": getattr(found, each) for each in bounds}} if found else {}

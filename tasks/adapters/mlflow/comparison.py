"""A comparison in MLflow: one parent run, one child per variant, with what a person compares and opens."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.adapters.charts import report
from tasks.adapters.mlflow.tracking import Tracker
from tasks.core.lab.compare import Comparison, Row, Variant
from tasks.core.lab.statistics import Interval
from tasks.settings import ROOT

EXPERIMENT = "quarterdeck-compare"


def git_commit() -> str:
    """Return the commit of this checkout, `-dirty` where it was changed; empty outside of one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()  # noqa: S603  (fixed words)
    except (OSError, subprocess.SubprocessError):
        return ""


class ComparisonTracker(Tracker):
    """The experiment that comparisons are kept in."""

    def __init__(self, url: str) -> None:
        super().__init__(url, EXPERIMENT)

    def log_comparison(
        self,
        found: Comparison,
        variants: Sequence[Variant],
        title: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        page: bytes,
        files: Mapping[str, Mapping[str, bytes]],
    ) -> str:
        """Write the parent run and its children and return the parent's id; files: by variant, then by name."""
        with self._translated():
            parent = self._start(title, {**tags, "kind": "comparison"})
            overall: dict[str, float] = {"variants": len(found.rows), "tried": found.tried}
            if found.overfit is not None:
                overall |= {"pbo": found.overfit.pbo, "pbo_loss": found.overfit.loss}
            self._fill(parent, overall, params, {"report.html": page})
            for variant, row in zip(variants, found.rows, strict=True):
                named = {**tags, **_tags(variant), "kind": "variant", "mlflow.parentRunId": parent}
                child = self._start(_run_name(variant), named)
                self._fill(child, _metrics(row, found), {**params, **_params(variant)}, files[variant.label])
                self._by_window(child, row)
                self._client.set_terminated(child)
            self._client.set_terminated(parent)
            return parent

    def _start(self, name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment_id, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _fill(
        self, run_id: str, metrics: Mapping[str, float], params: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        entities = self._mlflow.entities
        self._client.log_batch(
            run_id,
            metrics=[entities.Metric(key, float(value), 0, 0) for key, value in metrics.items()],
            params=[entities.Param(key, value) for key, value in params.items() if value],
        )
        with TemporaryDirectory() as folder:
            report.write(Path(folder), files)
            self._client.log_artifacts(run_id, folder)

    def _by_window(self, run_id: str, row: Row) -> None:
        """Log each window's figures as steps, so that MLflow draws them in order."""
        metrics = [
            self._mlflow.entities.Metric(f"window.{name}", float(value), int(one.start.timestamp() * 1000), one.window)
            for one in row.windows
            for name in ("return_pct", "sharpe", "max_drawdown_pct", "trades")
            if (value := getattr(one, name)) is not None
        ]
        self._client.log_batch(run_id, metrics=metrics)


def _run_name(variant: Variant) -> str:
    """Say the prompt's version first: MLflow's list cuts names off at the end."""
    version = variant.prompts[0].version if len(variant.prompts) == 1 else ""
    return f"{version} {variant.label}".strip()


def _tags(variant: Variant) -> dict[str, str]:
    one = variant.prompts[0] if len(variant.prompts) == 1 else None
    tags = {
        "decider": variant.decider, "model": variant.model, "baseline": str(variant.baseline).lower(),
        "prompt_name": one.name if one else variant.prompt, "prompt_version": one.version if one else variant.prompt,
        "prompt_sha256": variant.prompt_sha256, "cutoff": f"{variant.cutoff:%Y-%m-%d}" if variant.cutoff else "",
    }  # fmt: skip
    return {key: value for key, value in tags.items() if value}


def _params(variant: Variant) -> dict[str, str]:
    return {"decider": variant.decider, "model": variant.model, "prompt": variant.prompt}


def _metrics(row: Row, found: Comparison) -> dict[str, float]:
    """Return the figures of one variant; what is unknown is left out."""
    names = (
        "return_pct", "sharpe", "max_drawdown_pct", "trades", "win_rate", "psr", "dsr", "decisions", "model_calls",
        "fees_quote", "llm_cost_usd", "cost_per_decision_usd",
    )  # fmt: skip
    values: dict[str, Any] = {name: getattr(row, name) for name in names}
    values["invalid_share"] = row.invalid / row.decisions if row.decisions else None
    values |= _spread("daily_bps", row.daily_bps) | _spread("expectancy_r", row.expectancy_r)
    if row.chance is not None:
        values |= {"random_median_return_pct": row.chance.median_return_pct, "random_beaten": row.chance.beaten}
    reference = found.rows[0].label
    for pair in found.pairs:
        if {pair.a, pair.b} == {reference, row.label}:
            sign = 1 if pair.a == row.label else -1
            values |= {"ahead_bps": sign * pair.daily_bps.estimate, "ahead_p": pair.daily_bps.p_value}
    for leak in found.leakage:
        if leak.label == row.label:
            values |= {"masked_sharpe": leak.masked_sharpe, "input_dependency": leak.input_dependency}
            values |= _spread("masked_gap_bps", leak.masked_gap_bps)
    return {name: value for name, value in values.items() if value is not None}


def _spread(name: str, found: Interval | None) -> dict[str, float | None]:
    if found is None:
        return {}
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}

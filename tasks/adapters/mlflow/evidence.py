"""Evidence for a promotion: a comparison's runs in MLflow, or the document of `compare --json`; and the commit."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tasks.adapters.mlflow.comparison import ComparisonTracker
from tasks.core.errors import InputError
from tasks.core.lab.promotion import Evidence, Measured
from tasks.settings import ROOT

RUNS = 200  # variants of one comparison


def read_evidence(name: str, mlflow_url: str) -> Evidence:
    """Read a comparison by its MLflow run or its file; raises InputError where it is neither."""
    path = Path(name)
    if path.is_file():
        return _of_file(path)
    if not mlflow_url:
        raise InputError(f"--evidence {name}: no such file, and QUARTERDECK_MLFLOW_URL is empty")
    runs = EvidenceTracker(mlflow_url).variants(name)
    if not runs:
        raise InputError(f"--evidence {name}: no such file, and no comparison of that id in MLflow")
    return _evidence(name, runs[0].data.tags, [_of_run(run) for run in runs])


class EvidenceTracker(ComparisonTracker):
    """Reads comparisons, and writes on them what they were used for."""

    def variants(self, run_id: str) -> list[Any]:
        """Return the runs of a comparison's variants."""
        with self._translated():
            wanted = f"tags.`mlflow.parentRunId` = '{re.sub(r'[^0-9a-zA-Z]', '', run_id)}' AND tags.kind = 'variant'"
            return list(self._client.search_runs([self._experiment_id], wanted, max_results=RUNS))

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Write a tag onto a run."""
        with self._translated():
            self._client.set_tag(run_id, key, value)


def _of_run(run: Any) -> Measured:
    tags, metrics = run.data.tags, run.data.metrics
    return Measured(
        label=run.info.run_name, model=tags.get("model", ""), prompt_sha256=tags.get("prompt_sha256", ""),
        masked_sharpe=metrics.get("masked_sharpe"),
    )  # fmt: skip


def _of_file(path: Path) -> Evidence:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        masked = {each["label"]: each["masked_sharpe"] for each in document["leakage"]}
        found = [
            Measured(
                label=each["label"], model=each["model"], prompt_sha256=each["prompt_sha256"],
                masked_sharpe=masked.get(each["label"]),
            )
            for each in document["variants"]
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"--evidence {path}: not a document of `quarterdeck compare --json`: {e!r}") from e
    return _evidence(str(path), document, found)


def _evidence(name: str, told: dict[str, Any], variants: list[Measured]) -> Evidence:
    commit = str(told.get("git_commit") or "")
    return Evidence(
        name=name, data_sha256=str(told.get("data_sha256") or ""), git_commit=commit,
        commit_known=_is_known(commit.removesuffix("-dirty")), variants=tuple(variants),
    )  # fmt: skip


def _is_known(commit: str) -> bool:
    """Say whether this checkout has the commit."""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return False
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0  # noqa: S603  (a hash of hex digits)
    except (OSError, subprocess.SubprocessError):
        return False

"""Evidence for a promotion: a comparison's runs in MLflow, or the document of `compare --json`; and the commit."""

import json
import re
from pathlib import Path
from typing import Any

from tasks.adapters.mlflow.comparison import git, server_of
from tasks.core.errors import InputError
from tasks.core.lab.promotion_criteria import Evidence, Measured

RUNS = 200  # variants of one comparison


def read_evidence(name: str, mlflow_url: str) -> Evidence:
    """Read a comparison by its MLflow run or its file; raises InputError where it is neither."""
    path = Path(name)
    if path.is_file():
        return _of_file(path)
    if not mlflow_url:
        raise InputError(f"--evidence {name}: no such file, and QUARTERDECK_MLFLOW_URL is empty")
    server, parent = server_of(mlflow_url), re.sub(r"[^0-9a-zA-Z]", "", name)
    with server.translated():
        runs = server.runs({"mlflow.parentRunId": parent, "kind": "variant"}, max_results=RUNS)
    if not runs:
        raise InputError(f"--evidence {name}: no such file, and no comparison of that id in MLflow")
    variants = [
        {**run.data.tags, "label": run.info.run_name, "masked_sharpe": run.data.metrics.get("masked_sharpe")}
        for run in runs
    ]
    return _evidence(name, runs[0].data.tags, variants)


def tag(mlflow_url: str, run_id: str, key: str, value: str) -> None:
    """Write onto a comparison what it was used for."""
    server = server_of(mlflow_url)
    with server.translated():
        server.client.set_tag(run_id, key, value)


def _of_file(path: Path) -> Evidence:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        masked = {each["label"]: each["masked_sharpe"] for each in document["leakage"]}
        variants = [{**each, "masked_sharpe": masked.get(each["label"])} for each in document["variants"]]
        return _evidence(str(path), document, variants)
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"--evidence {path}: not a document of `quarterdeck compare --json`: {e!r}") from e


def _evidence(name: str, tags: dict[str, Any], variants: list[dict[str, Any]]) -> Evidence:
    commit = str(tags.get("git_commit") or "")
    own = commit.removesuffix("-dirty")
    known = re.fullmatch("[0-9a-f]{40}", own) and git("rev-parse", "--verify", "--quiet", f"{own}^{{commit}}")
    return Evidence(
        name=name,
        data_sha256=str(tags.get("data_sha256") or ""),
        git_commit=commit,
        commit_known=bool(known),
        variants=tuple(Measured(**{k: each[k] for k in Measured.model_fields if k in each}) for each in variants),
    )

"""Evidence for a promotion: a comparison's runs in MLflow, or the document of `compare --json`; and the commit.

Neither place is kept from others, so whoever computes a comparison signs what it found with HOME/evidence.key.
"""

import hmac
import json
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.adapters.files.private import kept_once
from tasks.adapters.mlflow.comparison import git, server_of
from tasks.core.errors import InputError
from tasks.core.lab.promotion_criteria import Evidence, Measured
from tasks.settings import settings

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


def signature(data_sha256: str, git_commit: str, variants: Iterable[Measured]) -> str:
    """Sign what a promotion is judged by, with the key of this HOME."""
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    key = kept_once(home / "evidence.key", lambda: secrets.token_hex(32))
    found = sorted(json.dumps([each.model, each.prompt_sha256, each.masked_sharpe]) for each in variants)
    return hmac.digest(key.encode(), json.dumps([data_sha256, git_commit, found]).encode(), "sha256").hex()


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
    commit, data = (str(tags.get(name) or "") for name in ("git_commit", "data_sha256"))
    measured = [Measured(**{k: each[k] for k in Measured.model_fields if k in each}) for each in variants]
    own = commit.removesuffix("-dirty")
    known = re.fullmatch("[0-9a-f]{40}", own) and git("rev-parse", "--verify", "--quiet", f"{own}^{{commit}}")
    return Evidence(
        name=name,
        data_sha256=data,
        git_commit=commit,
        commit_known=bool(known),
        signed=hmac.compare_digest(signature(data, commit, measured), str(tags.get("signature") or "")),
        variants=tuple(measured),
    )

"""A trained policy on a real MLflow server: its run, its registered version, and the alias that a promotion moves."""

from pathlib import Path

import numpy as np
import pytest
from records_sample import lines

from tasks import learn
from tasks.adapters.files import dataset
from tasks.adapters.files.dataset import sha256_of
from tasks.adapters.mlflow.policies import MODEL, name_policy
from tasks.adapters.mlflow.server import MlflowServer
from tasks.adapters.model.onnx_policy import OnnxDecider
from tasks.adapters.rl import logged
from tasks.settings import settings


@pytest.mark.slow
def test_a_policy_is_a_run_and_a_registered_model_that_computes_the_same(url: str, home: Path, monkeypatch):
    (home / "records.jsonl").write_text(lines())
    dataset.export(dataset.file_source(home), home / "data")
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", url)
    settings.cache_clear()
    found = [learn.train_policy(home / "data", home / f"{n}.onnx", seeds=2) for n in (1, 2)]
    assert [each["registered"] for each in found] == [f"{MODEL}/1", f"{MODEL}/2"]
    client = MlflowServer(url, "quarterdeck-train").client
    run = client.get_run(found[0]["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert (run.data.params["algo"], run.data.tags["sha256"]) == ("bc", sha256_of(home / "1.onnx"))
    scores = client.get_metric_history(run.info.run_id, "score")
    assert [each.step for each in scores] == [0, 1]
    assert [each.value for each in scores] == [each["score"] for each in found[0]["seeds"]]
    assert run.data.metrics["validation.accuracy"] == found[0]["validation"]["accuracy"]

    import mlflow.onnx
    import onnxruntime

    model = mlflow.onnx.load_model(f"models:/{MODEL}/1")
    rows = logged.read(home / "data", ("train",)).observations[:20]
    _, odds = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"X": rows})
    assert np.allclose(odds, OnnxDecider(home / "1.onnx").probabilities(rows))

    name_policy(url, sha256_of(home / "1.onnx"), "champion")
    assert client.get_model_version_by_alias(MODEL, "champion").tags["sha256"] == sha256_of(home / "1.onnx")
    name_policy(url, "f" * 64, "champion")  # one that nobody registered


def test_a_server_that_is_away_costs_a_line_and_no_policy(home: Path, monkeypatch, caplog):
    (home / "records.jsonl").write_text(lines())
    dataset.export(dataset.file_source(home), home / "data")
    monkeypatch.setenv("QUARTERDECK_MLFLOW_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    found = learn.train_policy(home / "data", home / "p.onnx")
    assert (home / "p.onnx").is_file()
    assert "mlflow_run" not in found
    assert "the policy is not in MLflow" in caplog.text

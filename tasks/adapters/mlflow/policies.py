"""A trained policy in MLflow: a run with what every seed came to, and a version of the registered model."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.adapters.mlflow.server import MlflowServer
from tasks.core.types import Json

MODEL = "quarterdeck-policy"
EXPERIMENT = "quarterdeck-train"


def log_policy(url: str, path: Path, trained: Json, tags: Mapping[str, str]) -> Json:
    """Write a run and register the file; returns the run's id and the version of the model.

    trained: what `train` returned. tags: what the file is known by, its sha256 among them. Raises TrackingUnavailable.
    """
    server = MlflowServer(url, EXPERIMENT)
    with server.translated():
        name = f"{trained['algo']} {path.name}"
        run_id = server.create_run(name, {**tags, "kind": "policy"}).info.run_id
        figures = {
            f"{split}.{name}": value
            for split in ("train", "validation")
            for name, value in trained.get(split, {}).items()
        }
        given = {name: str(trained[name]) for name in ("algo", "seed", "reward")}
        server.log(run_id, figures, given | {"actions": ", ".join(trained["actions"])})
        for each in trained["seeds"]:
            server.log(run_id, {"score": each["score"], "epochs": each["epochs"]}, step=each["seed"])
        version = _registered(server, run_id, path, tags)
        server.client.set_terminated(run_id)
        return {"mlflow_run": run_id, "registered": f"{MODEL}/{version}"}


def _registered(server: MlflowServer, run_id: str, path: Path, tags: Mapping[str, str]) -> str:
    import mlflow.onnx
    import onnx
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory(prefix="quarterdeck-policy-") as folder:
        packed = Path(folder) / "policy"
        mlflow.onnx.save_model(onnx.load(path), packed, pip_requirements=["onnxruntime"])
        server.client.log_artifacts(run_id, str(packed), "policy")
    try:
        server.client.create_registered_model(MODEL)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{server.client.get_run(run_id).info.artifact_uri}/policy"
    made = server.client.create_model_version(MODEL, source, run_id, tags=dict(tags))
    return str(made.version)


def name_policy(url: str, sha256: str, alias: str) -> None:
    """Let an alias name the registered version of this file, where it is registered; raises TrackingUnavailable."""
    server = MlflowServer(url, EXPERIMENT)
    with server.translated():
        for version in server.client.search_model_versions(f"name = '{MODEL}'"):
            if version.tags.get("sha256") == sha256:
                server.client.set_registered_model_alias(MODEL, alias, version.version)
                return

"""Prefect's and MLflow's servers behind our door, as uvicorn starts them."""

import os

from starlette.types import ASGIApp

from deployments.spared import importing, spare_mlflow, spare_prefect
from infra.door import Door

PREFECT_ORIGINS, MLFLOW_ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"


def prefect_app() -> ASGIApp:
    """Return Prefect's server, which asks for the secret itself."""
    spare_prefect()
    with importing():
        from prefect.server.api.server import create_app

        app = create_app(final=True)
    return Door(app, _listed(PREFECT_ORIGINS))


def mlflow_app() -> ASGIApp:
    """Return MLflow's server; it has no password of its own without a package more."""
    with importing():
        from mlflow.server.fastapi_app import app
    return Door(app, _listed(MLFLOW_ORIGINS), os.environ["PREFECT_SERVER_API_AUTH_STRING"])


def mlflow_alone() -> ASGIApp:
    """Return MLflow's server with its tables made; `mlflow server` does that in a process of its own, which stays."""
    spare_mlflow()
    from uuid import uuid4

    with importing():
        from mlflow.server import constants as known
        from mlflow.server.handlers import initialize_backend_stores
        from mlflow.store.tracking import DEFAULT_ARTIFACTS_URI

    store = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ |= {
        known.BACKEND_STORE_URI_ENV_VAR: store,
        known.REGISTRY_STORE_URI_ENV_VAR: store,
        known.ARTIFACT_ROOT_ENV_VAR: DEFAULT_ARTIFACTS_URI,
        known.ARTIFACTS_DESTINATION_ENV_VAR: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
        known.SERVE_ARTIFACTS_ENV_VAR: "true",
        "_MLFLOW_SERVER_BOOT_ID": uuid4().hex,  # by it MLflow knows that it must not run what a scorer says
    }
    initialize_backend_stores(store, store, DEFAULT_ARTIFACTS_URI)
    return mlflow_app()


def _listed(variable: str) -> list[str]:
    return [each for each in os.environ[variable].split(",") if each]

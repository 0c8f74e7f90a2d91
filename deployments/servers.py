"""Prefect's and MLflow's servers behind our door, as uvicorn starts them."""

import os

from starlette.types import ASGIApp

from infra.door import Door

PREFECT_ORIGINS, MLFLOW_ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"


def prefect_app() -> ASGIApp:
    """Return Prefect's server, which asks for the secret itself."""
    from prefect.server.api.server import create_app

    return Door(create_app(final=True), _listed(PREFECT_ORIGINS))


def mlflow_app() -> ASGIApp:
    """Return MLflow's server; it has no password of its own without a package more."""
    from mlflow.server.fastapi_app import app

    return Door(app, _listed(MLFLOW_ORIGINS), os.environ["PREFECT_SERVER_API_AUTH_STRING"])


def _listed(variable: str) -> list[str]:
    return [each for each in os.environ[variable].split(",") if each]

"""One experiment on one MLflow server; any failure of it is TrackingUnavailable.

mlflow keeps the server's address as process-wide state: one process talks to one MLflow.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from tasks.adapters import secret
from tasks.core.errors import TrackingUnavailable
from tasks.redaction import redacted
from tasks.settings import settings

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # a queue would lose traces when a short-lived process ends
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # not a line for each version that is registered
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to `--json`
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # mlflow imports litellm, which would wait for the network
}
LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass
class MlflowServer:
    """Opening is lazy: the constructor neither imports nor connects."""

    url: str
    experiment: str

    @cached_property
    def mlflow(self) -> Any:
        os.environ.update(_ENVIRONMENT)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each of its retries is a warning
        _log_in(self.url)
        import mlflow

        mlflow.set_tracking_uri(self.url)
        mlflow.set_experiment(self.experiment)
        return mlflow

    @cached_property
    def client(self) -> Any:
        return self.mlflow.MlflowClient()

    @cached_property
    def tracing(self) -> Any:
        """Return the client that traces are sent by, without the exporter that only logs what fails."""
        client = self.client
        from mlflow.tracing.client import TracingClient

        return TracingClient(client.tracking_uri)

    @cached_property
    def experiment_id(self) -> str:
        return str(self.client.get_experiment_by_name(self.experiment).experiment_id)

    @property
    def address(self) -> str:
        """Return the server's address without the user and password it may contain."""
        return without_login(self.url)

    @contextmanager
    def translated(self) -> Iterator[None]:
        os.environ.update(_ENVIRONMENT)
        from mlflow.exceptions import MlflowException
        from requests import ConnectionError as ConnectionFailed
        from requests import RequestException
        from requests.exceptions import ProxyError, SSLError

        try:
            yield
        except (MlflowException, RequestException) as e:
            text = " ".join(str(e).replace(self.url, self.address).split())[:300]
            cause = e if isinstance(e, ConnectionFailed) else e.__context__
            if isinstance(cause, ConnectionFailed) and not isinstance(cause, ProxyError | SSLError):
                text = "it does not answer"
            raise TrackingUnavailable(f"MLflow at {self.address}: {redacted(text)}") from e

    def create_run(self, name: str, tags: Mapping[str, str]) -> Any:
        return self.client.create_run(
            self.experiment_id, tags={key: value for key, value in tags.items() if value}, run_name=name
        )

    def runs(self, tags: Mapping[str, str], **options: Any) -> Any:
        """Return the experiment's runs that have these tags."""
        wanted = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return self.client.search_runs([self.experiment_id], wanted, **options)

    def log(
        self,
        run_id: str,
        metrics: Mapping[str, float | None],
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
        at_ms: int = 0,
        step: int = 0,
    ) -> None:
        """Log figures, parameters and tags to a run, at once; what is unknown or empty is left out."""
        entities = self.mlflow.entities
        self.client.log_batch(
            run_id,
            [entities.Metric(key, float(value), at_ms, step) for key, value in metrics.items() if value is not None],
            [entities.Param(key, value) for key, value in params.items() if value],
            [entities.RunTag(key, value) for key, value in tags.items() if value],
        )


def without_login(url: str) -> str:
    """Return an address without the user and password it may contain."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _log_in(url: str) -> None:
    """Give mlflow's client HOME's secret, where it has no login of its own, for a server beside our Prefect alone."""
    beside = urlsplit(url).hostname in (urlsplit(settings().prefect_api_url).hostname, "127.0.0.1", "localhost")
    known = secret.login(settings().home) if beside else None
    if known and not any(map(os.environ.get, LOGINS)):
        os.environ.update(zip(LOGINS, known, strict=False))

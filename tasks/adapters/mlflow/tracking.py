"""MLflow as the mirror of what was decided: prompt versions, one trace per decision, one run per session.

The database is the truth; everything here can be sent again from a CycleRecord, so every method is idempotent and
any failure is TrackingUnavailable. MLflow's trace exporter only logs its own failures, so a trace is read back after
it was written. mlflow keeps the server's address as process-wide state: one process talks to one MLflow.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, date
from functools import cached_property
from typing import Any, Protocol
from urllib.parse import urlsplit

from tasks.adapters.mlflow.trace import prompts_sent, span_count, trace_tags, write_trace
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.types.record import CycleRecord, Outcome

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # a queue would lose traces when a short-lived process ends
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to `--json`
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # mlflow imports litellm, which would wait for the network
}
PAGE = 100  # prompt versions per request
_OURS = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_THEIRS = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}")


class PromptFile(Protocol):
    """One prompt file: `text` is all of it, as on disk; `sha256` is that text's."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def text(self) -> str: ...


def to_template(text: str) -> str:
    """Write ${variables} as MLflow's {{variables}}; unchanged where `to_file` could not undo it."""
    template = _OURS.sub(r"{{\1}}", text)
    return template if to_file(template) == text else text


def to_file(template: str) -> str:
    """Return the prompt file that a registered template was made from."""
    return _THEIRS.sub(r"${\1}", template)


class Tracker:
    """One experiment on one MLflow server. Opening is lazy: the constructor neither imports nor connects."""

    def __init__(
        self, url: str, experiment: str = "quarterdeck",
        alone: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:  # fmt: skip
        """alone: holds off every other machine while a version is registered; MLflow would number it twice."""
        self.url, self.experiment, self.alone = url, experiment, alone

    def register_prompt(self, prompt: PromptFile) -> int:
        """Return the MLflow version that holds `prompt`, registering it if none does.

        Raises InputError if MLflow has this file version with another text: a published version never changes.
        """
        with self._translated():
            if known := self._registered(prompt):
                return known
            with self.alone(f"mlflow:{_registry_name(prompt.name)}"):
                return self._registered(prompt) or self._register(prompt)

    def _registered(self, prompt: PromptFile) -> int | None:
        for known in self._prompt_versions(prompt.name):
            if known.tags.get("sha256") == prompt.sha256:
                return int(known.version)
            if known.tags.get("file_version") == prompt.version:
                raise InputError(
                    f"prompt {prompt.name}/{prompt.version} has sha256 {prompt.sha256}, but was published with "
                    f"{known.tags.get('sha256')}: restore the file and save the change as a new version"
                )
        return None

    def _register(self, prompt: PromptFile) -> int:
        registered = self._client.register_prompt(
            name=_registry_name(prompt.name),
            template=to_template(prompt.text),
            commit_message=f"{prompt.name}/{prompt.version}",
            tags={"file_version": prompt.version, "sha256": prompt.sha256},
        )
        return int(registered.version)

    def set_prompt_alias(self, prompt: PromptFile, alias: str) -> int:
        """Let `alias` of the prompt's role name this version, registering it if need be; return MLflow's version."""
        version = self.register_prompt(prompt)
        with self._translated():
            self._client.set_prompt_alias(_registry_name(prompt.name), alias, version)
        return version

    def track_decision(self, record: CycleRecord, profile: str) -> str:
        """Write one cycle as a trace and return its id; a cycle that is there already, whole, is left alone."""
        with self._translated():
            trace_id = self._find_trace(record, profile) or self._write(record, profile)
            if linked := self._linked_prompts(record):
                self._client.link_prompt_versions_to_trace(linked, trace_id)
            if self._find_trace(record, profile) != trace_id:
                raise TrackingUnavailable(f"MLflow at {self._where} did not keep trace {trace_id} of {record.cycle_id}")
            return trace_id

    def log_session(
        self,
        strategy: str,
        profile: str,
        day: date,
        metrics: Mapping[str, float],
        step: int,
        params: Mapping[str, str] | None = None,
    ) -> str:
        """Log metrics to the run of (profile, strategy, UTC day), created on first use; return its id.

        params: decider, models, prompt versions... as they are now. MLflow never changes a parameter, so the first
        value of the day stays there and the tag of the same name has the latest.
        """
        with self._translated():
            return self._log_metrics(strategy, profile, day, metrics, step, int(time.time() * 1000), params or {})

    def attach_outcome(self, trace_id: str, outcome: Outcome) -> None:
        """Write what became of a decision onto its trace as assessments, and onto the session of the day it closed."""
        with self._translated():
            info = self._client.get_trace(trace_id, display=False).info
            done = {a.name for a in info.assessments if (a.metadata or {}).get("position_id") == outcome.position_id}
            numbers = _outcome_numbers(outcome)
            for name, value in numbers.items():
                if name not in done:
                    self._assess(trace_id, name, value, outcome)
            closed = outcome.closed_at.astimezone(UTC)
            self._log_metrics(
                info.tags["strategy"],
                info.tags["profile"],
                closed.date(),
                {f"outcome.{name}": value for name, value in numbers.items()},
                closed.hour * 60 + closed.minute,
                int(closed.timestamp() * 1000),
                {},
            )

    @cached_property
    def _mlflow(self) -> Any:
        os.environ.update(_ENVIRONMENT)
        import mlflow

        mlflow.set_tracking_uri(self.url)
        mlflow.set_experiment(self.experiment)
        return mlflow

    @cached_property
    def _client(self) -> Any:
        return self._mlflow.MlflowClient()

    @cached_property
    def _experiment_id(self) -> str:
        return str(self._client.get_experiment_by_name(self.experiment).experiment_id)

    @property
    def _where(self) -> str:
        """Return the server's address without the user and password it may contain."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        os.environ.update(_ENVIRONMENT)
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except (MlflowException, RequestException) as e:
            said = " ".join(str(e).replace(self.url, self._where).split())[:300]
            raise TrackingUnavailable(f"MLflow at {self._where}: {said}") from e

    def _prompt_versions(self, role: str) -> list[Any]:
        """Return every registered version of a role's prompt; a role that was never registered has none."""
        name = _registry_name(role)
        if self._client.get_prompt(name) is None:
            return []
        versions, token = [], None
        while True:
            page = self._client.search_prompt_versions(name, max_results=PAGE, page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    def _linked_prompts(self, record: CycleRecord) -> list[Any]:
        """Return the registered versions of the prompts this cycle sent; one never registered is only in the tags."""
        refs = {ref.sha256: ref for ref in prompts_sent(record)}
        return [
            version
            for role in {ref.name for ref in refs.values()}
            for version in self._prompt_versions(role)
            if version.tags.get("sha256") in refs
        ]

    def _find_trace(self, record: CycleRecord, profile: str) -> str | None:
        """Return the id of this cycle's trace; half a trace, left by a broken connection, is deleted."""
        wanted = f"tags.cycle_id = '{record.cycle_id}' AND tags.profile = '{profile}'"
        found = self._client.search_traces(locations=[self._experiment_id], filter_string=wanted)
        whole = [trace for trace in found if len(trace.data.spans) == span_count(record)]
        broken = [trace.info.trace_id for trace in found if trace not in whole]
        if broken:
            self._client.delete_traces(self._experiment_id, trace_ids=broken)
        return str(whole[-1].info.trace_id) if whole else None

    def _write(self, record: CycleRecord, profile: str) -> str:
        session = self._session_run(record.strategy, profile, record.as_of.date())
        home = {"experiment_id": self._experiment_id, "run_id": session.info.run_id}
        return write_trace(self._client, self._mlflow, record, trace_tags(record, profile), home)

    def _session_run(self, strategy: str, profile: str, day: date) -> Any:
        tags = {"profile": profile, "strategy": strategy, "day": day.isoformat()}
        wanted = " AND ".join(f"tags.{key} = '{value}'" for key, value in tags.items())
        oldest = self._client.search_runs([self._experiment_id], wanted, order_by=["start_time ASC"], max_results=1)
        name = f"{day} {profile}/{strategy}"  # the list cuts names off at the end
        return oldest[0] if oldest else self._client.create_run(self._experiment_id, tags=tags, run_name=name)

    def _log_metrics(
        self,
        strategy: str,
        profile: str,
        day: date,
        metrics: Mapping[str, float],
        step: int,
        at_ms: int,
        params: Mapping[str, str],
    ) -> str:
        run = self._session_run(strategy, profile, day)
        entities = self._mlflow.entities
        self._client.log_batch(
            run.info.run_id,
            metrics=[entities.Metric(key, value, at_ms, step) for key, value in metrics.items()],
            params=[entities.Param(key, value) for key, value in params.items() if key not in run.data.params],
            tags=[entities.RunTag(key, value) for key, value in params.items()],
        )
        # No process owns a session, so none would ever end it: it ends, so far, with every report.
        self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _assess(self, trace_id: str, name: str, value: float, outcome: Outcome) -> None:
        from mlflow.entities import AssessmentSource

        self._mlflow.log_feedback(
            trace_id=trace_id,
            name=name,
            value=value,
            source=AssessmentSource(source_type="CODE", source_id="quarterdeck"),
            rationale=f"entry {outcome.entry_price}, exit {outcome.exit_price}, fees {outcome.fees}",
            metadata={"position_id": outcome.position_id, "closed_at": outcome.closed_at.isoformat()},
        )


def _registry_name(role: str) -> str:
    return f"quarterdeck-{role}"


def _outcome_numbers(outcome: Outcome) -> dict[str, float]:
    """Return the outcome as floats, for charts; an unknown R is left out."""
    numbers = {
        "r_multiple": outcome.r_multiple,
        "pnl": outcome.pnl,
        "pnl_pct": outcome.pnl_pct,
        "hold_seconds": outcome.hold_seconds,
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}

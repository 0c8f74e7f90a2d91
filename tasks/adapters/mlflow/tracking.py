"""MLflow as the mirror of what was decided: prompt versions, one trace per decision, one run per session.

The database is the truth; everything here can be sent again from a CycleRecord, so every method is idempotent.
MLflow's trace exporter only logs its own failures, so a trace is read back after it was written.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, date
from typing import Any

from tasks import clock
from tasks.adapters.mlflow.server import MlflowServer
from tasks.adapters.mlflow.trace import prompts_sent, span_count, write_trace
from tasks.core.decision.llm.prompt import Prompt
from tasks.core.errors import InputError, TrackingUnavailable
from tasks.core.types import CycleRecord, Outcome

PAGE = 100  # prompt versions per request
_OURS = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_THEIRS = re.compile(r"\{\{([A-Za-z_][A-Za-z0-9_]*)\}\}")


def to_template(text: str) -> str:
    """Write ${variables} as MLflow's {{variables}}; unchanged where `to_file` could not undo it."""
    template = _OURS.sub(r"{{\1}}", text)
    return template if to_file(template) == text else text


def to_file(template: str) -> str:
    """Return the prompt file that a registered template was made from."""
    return _THEIRS.sub(r"${\1}", template)


class Tracker:
    """Prompt versions, decisions and sessions on one server.

    alone: holds off every other machine while a version is registered; MLflow would number it twice.
    """

    def __init__(
        self,
        url: str,
        experiment: str = "quarterdeck",
        alone: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.server, self.alone = MlflowServer(url, experiment), alone

    def register_prompt(self, prompt: Prompt) -> int:
        """Return the MLflow version that holds `prompt`, registering it if none does.

        Raises InputError if MLflow has this file version with another text: a published version never changes.
        """
        with self.server.translated():
            if known := self._registered(prompt):
                return known
            with self.alone(f"mlflow:{_registry_name(prompt.name)}"):
                if known := self._registered(prompt):
                    return known
                registered = self.server.client.register_prompt(
                    name=_registry_name(prompt.name),
                    template=to_template(prompt.text),
                    commit_message=f"{prompt.name}/{prompt.version}",
                    tags={"file_version": prompt.version, "sha256": prompt.sha256},
                )
                return int(registered.version)

    def _registered(self, prompt: Prompt) -> int | None:
        for known in self._prompt_versions(prompt.name):
            if known.tags.get("sha256") == prompt.sha256:
                return int(known.version)
            if known.tags.get("file_version") == prompt.version:
                raise InputError(
                    f"prompt {prompt.name}/{prompt.version} has sha256 {prompt.sha256}, but was published with "
                    f"{known.tags.get('sha256')}: restore the file and save the change as a new version"
                )
        return None

    def set_prompt_alias(self, prompt: Prompt, alias: str) -> int:
        """Let `alias` of the prompt's role name this version, registering it if need be; return MLflow's version."""
        version = self.register_prompt(prompt)
        with self.server.translated():
            self.server.client.set_prompt_alias(_registry_name(prompt.name), alias, version)
        return version

    def track_decision(self, record: CycleRecord, profile: str) -> str:
        """Write one cycle as a trace and return its id; a cycle that is there already, whole, is left alone."""
        with self.server.translated():
            trace_id = self._find_trace(record, profile)
            if trace_id is None:
                session = self._session_run(record.strategy, profile, record.as_of.date())
                trace_id = write_trace(self.server, record, profile, session.info.run_id)
            sent = {ref.sha256: ref.name for ref in prompts_sent(record)}
            registered = (version for role in {*sent.values()} for version in self._prompt_versions(role))
            # one that was never registered is only in the tags
            if linked := [version for version in registered if version.tags.get("sha256") in sent]:
                self.server.client.link_prompt_versions_to_trace(linked, trace_id)
            if self._find_trace(record, profile) != trace_id:
                raise TrackingUnavailable(
                    f"MLflow at {self.server.address} did not keep trace {trace_id} of {record.cycle_id}"
                )
            return trace_id

    def log_session(
        self,
        strategy: str,
        profile: str,
        day: date,
        metrics: Mapping[str, float],
        step: int,
        params: Mapping[str, str] = {},
    ) -> str:
        """Log metrics to the run of (profile, strategy, UTC day), created on first use; return its id.

        params: decider, models, prompt versions... as they are now. MLflow never changes a parameter, so the first
        value of the day stays there and the tag of the same name has the latest.
        """
        with self.server.translated():
            run = self._session_run(strategy, profile, day)
            new = {key: value for key, value in params.items() if key not in run.data.params}
            self.server.log(run.info.run_id, metrics, new, params, int(clock.now().timestamp() * 1000), step)
            return self._end(run)

    def attach_outcome(self, trace_id: str, outcome: Outcome) -> None:
        """Write what became of a decision onto its trace as assessments, and onto the session of the day it closed."""
        from mlflow.entities import AssessmentSource

        server, closed = self.server, outcome.closed_at.astimezone(UTC)
        names = ("outcome_r", "pnl", "pnl_pct", "hold_seconds")
        numbers = {name: float(value) for name in names if (value := getattr(outcome, name)) is not None}
        with server.translated():
            info = server.client.get_trace(trace_id, display=False).info
            done = {a.name for a in info.assessments if (a.metadata or {}).get("position_id") == outcome.position_id}
            for name in numbers.keys() - done:
                server.mlflow.log_feedback(
                    trace_id=trace_id,
                    name=name,
                    value=numbers[name],
                    source=AssessmentSource(source_type="CODE", source_id="quarterdeck"),
                    rationale=f"entry {outcome.entry_price}, exit {outcome.exit_price}, fees {outcome.fees}",
                    metadata={"position_id": outcome.position_id, "closed_at": outcome.closed_at.isoformat()},
                )
            session = self._session_run(info.tags["strategy"], info.tags["profile"], closed.date())
            metrics = {f"outcome.{name}": value for name, value in numbers.items()}
            at_ms, step = int(closed.timestamp() * 1000), closed.hour * 60 + closed.minute
            server.log(session.info.run_id, metrics, at_ms=at_ms, step=step)
            self._end(session)

    def _prompt_versions(self, role: str) -> list[Any]:
        """Return every registered version of a role's prompt; a role that was never registered has none."""
        name = _registry_name(role)
        if self.server.client.get_prompt(name) is None:
            return []
        versions, token = [], None
        while True:
            page = self.server.client.search_prompt_versions(name, max_results=PAGE, page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    def _find_trace(self, record: CycleRecord, profile: str) -> str | None:
        """Return the id of this cycle's trace; half a trace, left by a broken connection, is deleted."""
        wanted = f"tags.cycle_id = '{record.cycle_id}' AND tags.profile = '{profile}'"
        found = self.server.client.search_traces(locations=[self.server.experiment_id], filter_string=wanted)
        whole = [trace for trace in found if len(trace.data.spans) == span_count(record)]
        broken = [trace.info.trace_id for trace in found if trace not in whole]
        if broken:
            self.server.client.delete_traces(self.server.experiment_id, trace_ids=broken)
        return str(whole[-1].info.trace_id) if whole else None

    def _session_run(self, strategy: str, profile: str, day: date) -> Any:
        tags = {"profile": profile, "strategy": strategy, "day": day.isoformat()}
        oldest = self.server.runs(tags, order_by=["start_time ASC"], max_results=1)
        # the list cuts names off at the end
        return oldest[0] if oldest else self.server.create_run(f"{day} {profile}/{strategy}", tags)

    def _end(self, run: Any) -> str:
        """End a session: no process owns it, so it ends, so far, with every report."""
        self.server.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def _registry_name(role: str) -> str:
    return f"quarterdeck-{role}"

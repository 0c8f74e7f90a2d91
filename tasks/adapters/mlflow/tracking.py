"""MLflow as the mirror of what was decided: prompt versions, one trace per decision, one run per session.

The database is the truth; everything here can be sent again from a CycleRecord, so every method is idempotent.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date
from typing import Any

from tasks import clock
from tasks.adapters.mlflow.prompt_registry import PromptRegistry
from tasks.adapters.mlflow.server import MlflowServer, without_login
from tasks.adapters.mlflow.trace import LINKED, Trace, cycle_trace, linked, of_record, send
from tasks.core.types import CycleRecord, Outcome, PromptRef


class Tracker:
    """Decisions and sessions on one server, and its registry of prompts, which takes `registry`.

    pages: where browsers find the server; empty: at its address.
    """

    def __init__(self, url: str, experiment: str = "quarterdeck", pages: str = "", **registry: Any) -> None:
        self.server, self.pages = MlflowServer(url, experiment), without_login(pages or url)
        self.prompts = PromptRegistry(self.server, **registry)

    def trace_links(self, records: Sequence[CycleRecord], profile: str) -> dict[str, str]:
        """Return where each cycle's trace is or will be seen, by cycle; without a server there are no pages."""
        if not self.pages.startswith("http"):
            return {}
        with self.server.translated():
            traces = f"{self.pages}/#/experiments/{self.server.experiment_id}/traces"
        return {record.cycle_id: f"{traces}/{cycle_trace(record, profile)}" for record in records}

    def track(self, records: Sequence[CycleRecord], profile: str, pages: Mapping[str, str] = {}) -> list[str]:
        """Write each cycle as a trace, linked to its day's session and prompt versions; returns their ids.

        Those of one session are written together or not at all; what is there already is replaced by the same.
        pages: where a decision is explained, by cycle.
        """
        sessions: dict[tuple[str, date], list[Trace]] = {}
        with self.server.translated():
            sent = [record.decided.prompts if record.decided else () for record in records]
            versions = self.prompts.by_sha256({ref.name for refs in sent for ref in refs})
            traces = []
            for record, refs in zip(records, sent, strict=True):  # a version never registered is only in the tags
                known = [versions[ref.sha256] for ref in refs if ref.sha256 in versions]
                traces.append(of_record(record, profile, known, pages.get(record.cycle_id, "")))
                sessions.setdefault((record.strategy, record.as_of.date()), []).append(traces[-1])
            for (strategy, day), some in sessions.items():
                send(self.server, some, self._session_run(strategy, profile, day).info.run_id)
        return [trace.trace_id for trace in traces]

    def log_session(
        self,
        strategy: str,
        profile: str,
        day: date,
        metrics: Mapping[str, float],
        step: int,
        params: Mapping[str, str] = {},
        prompts: Iterable[PromptRef] = (),
    ) -> str:
        """Log metrics to the run of (profile, strategy, UTC day), created on first use; return its id.

        params: decider, models... as they are now. MLflow never changes a parameter, so the first value of the day
        stays there and the tag of the same name has the latest. prompts: the versions sent that day; `prompt.ROLE`
        names them, and the run's page leads to them.
        """
        with self.server.translated():
            refs, run = [*dict.fromkeys(prompts)], self._session_run(strategy, profile, day)
            by_role = {ref.name: [str(each.version) for each in refs if each.name == ref.name] for ref in refs}
            params = {**params, **{f"prompt.{role}": ", ".join(versions) for role, versions in by_role.items()}}
            new = {key: value for key, value in params.items() if key not in run.data.params}
            known = self.prompts.by_sha256(set(by_role))
            tags = {**params, LINKED: linked(known[ref.sha256] for ref in refs if ref.sha256 in known)}
            self.server.log(run.info.run_id, metrics, new, tags, int(clock.now().timestamp() * 1000), step)
            return self._end(run)

    def attach_outcome(self, trace_id: str, outcome: Outcome) -> None:
        """Write what became of a decision onto its trace as assessments, and onto the session of the day it closed."""
        closed = outcome.closed_at.astimezone(UTC)
        names = ("outcome_r", "pnl", "pnl_pct", "hold_seconds")
        numbers = {name: float(value) for name in names if (value := getattr(outcome, name)) is not None}
        about = {"position_id": outcome.position_id}
        why = f"entry {outcome.entry_price}, exit {outcome.exit_price}, fees {outcome.fees}"
        with self.server.translated():
            info = self._assess(trace_id, numbers, about, why, closed_at=outcome.closed_at.isoformat())
            session = self._session_run(info.tags["strategy"], info.tags["profile"], closed.date())
            metrics = {f"outcome.{name}": value for name, value in numbers.items()}
            at_ms, step = int(closed.timestamp() * 1000), closed.hour * 60 + closed.minute
            self.server.log(session.info.run_id, metrics, at_ms=at_ms, step=step)
            self._end(session)

    def attach_score(self, trace_id: str, scores: Mapping[str, float]) -> str:
        """Write what an answer would have earned within a day onto its trace; returns an assessment's id."""
        why = "what its orders would have earned within a day, after costs, whether they were sent or not"
        with self.server.translated():
            info = self._assess(trace_id, scores, {"horizon": "1d"}, why)
            return str(next(each.assessment_id for each in info.assessments if each.name in scores))

    def _assess(
        self, trace_id: str, numbers: Mapping[str, float], about: Mapping[str, str], why: str, **more: str
    ) -> Any:
        """Write numbers onto a trace, unless there are some `about` the same; returns its info with all of them."""
        from mlflow.entities import AssessmentSource, Feedback

        source = AssessmentSource(source_type="CODE", source_id="quarterdeck")
        info = self.server.tracing.get_trace_info(trace_id)
        done = {a.name for a in info.assessments if about.items() <= (a.metadata or {}).items()}
        for name in numbers.keys() - done:
            told = Feedback(name=name, value=numbers[name], source=source, rationale=why, metadata={**about, **more})
            info.assessments.append(self.server.tracing.log_assessment(trace_id, told))
        return info

    def _session_run(self, strategy: str, profile: str, day: date) -> Any:
        tags = {"profile": profile, "strategy": strategy, "day": day.isoformat()}
        oldest = self.server.runs(tags, order_by=["start_time ASC"], max_results=1)
        name = f"{strategy.partition('/')[2] or strategy} {day} {profile}/{strategy}"  # lists cut it off at the end
        return oldest[0] if oldest else self.server.create_run(name, tags)

    def _end(self, run: Any) -> str:
        """End a session: no process owns it, so it ends, so far, with every report."""
        self.server.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

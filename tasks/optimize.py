"""Write prompts by evidence: GEPA proposes and chooses, our models are asked, and the bar is ours.

GEPA (Agrawal and others, Reflective Prompt Evolution Can Outperform Reinforcement Learning, 2025) runs by its own
package. MLflow's `optimize_prompts` calls it too, but has it ask the reflection model by itself, so that no agreed cost
holds for both models and no reply is kept, and chooses on the moments that it learns from. What MLflow's users look for
is logged all the same: a run with its candidates, and evaluation runs of what was accepted.

An interrupted search goes on by the same command: seeds are fixed and every reply is kept, so it comes where it was
without a call. What cannot go on (the agreed cost is reached, a model gives no answer) is said as InputError.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from tasks.adapters.files.prompts import files_of, load_prompt, save_prompt
from tasks.adapters.mlflow import datasets
from tasks.adapters.parallel_backtests import day_hashes
from tasks.adapters.variants import estimate_moments, kept_model, paid_decider, prices_of, variants
from tasks.connections import log, store
from tasks.core.decision.actions import Unusable, object_schema, parse_as
from tasks.core.decision.kinds import KINDS
from tasks.core.decision.llm.prompt import Lineage, Prompt
from tasks.core.errors import InputError
from tasks.core.lab import moments, optimize
from tasks.core.lab.compare import Variant
from tasks.core.lab.moments import Evaluated, Moment
from tasks.core.lab.optimize import NewInstructions, Parts
from tasks.core.ports import ModelRequest
from tasks.core.simulation.paid_replies import Spending
from tasks.core.simulation.sharpe import daily_sharpe
from tasks.core.types import Criterion, Dto, Exact, PromptRef, hash_of
from tasks.evaluate import strategy_over
from tasks.moments import lab_server
from tasks.settings import settings
from tasks.stage import stage

PROPOSED = 3  # earlier proposals that are shown to the reflection model
TRIES = 3  # to have moments answered, when a provider is away
WRITING_S = 600.0  # a prompt takes longer to write than a decision may
OPENED = {"locked_window": "opened"}  # the tag of such a run


class OptimizationRequest(Dto):
    """Which prompts to write anew, on which moments, by which models.

    role: single, portfolio or one of the panel's; panel: all of them together.
    """

    role: str
    moments: str  # NAME or NAME@VERSION
    model: str = ""  # none: the first of QUARTERDECK_MODEL
    reflection_model: str = ""  # none: the same
    candidates: int = Field(20, ge=1, le=500)  # proposed at most
    unmasked: bool = False
    max_cost: Exact | None = None


@dataclass(frozen=True)
class Assignment:
    """A request made out: the moments and their parts, the version in use, and the prompts that are optimised."""

    request: OptimizationRequest
    dataset: Any
    moments: Sequence[Moment]
    parts: Parts
    variant: Variant
    parents: Mapping[str, Prompt]

    @property
    def writer(self) -> str:
        return self.request.reflection_model or self.variant.model

    @property
    def longest(self) -> dict[str, Prompt]:
        """Return prompts as long as they may become."""
        return {role: each.replace(system=each.system * optimize.LONGEST) for role, each in self.parents.items()}


def assign(request: OptimizationRequest) -> Assignment:
    """Make a request out; raises InputError for what cannot be optimised."""
    role, roles = request.role, [*KINDS["llm:panel"].roles, "panel", "single", "portfolio"]
    if role not in roles:
        raise InputError(f"role {role!r} has no prompt that moments can be put to; there are {', '.join(roles)}")
    dataset, chosen = datasets.read(lab_server(), request.moments)
    if not request.unmasked and not all(each.question.masked for each in chosen):
        raise InputError(
            f"--moments {request.moments}: not masked, and a model may remember what came next: `quarterdeck moments "
            "create ... --mask`, or --unmasked"
        )
    name = next(name for name, kind in KINDS.items() if f"llm:{role}" == name or role in kind.roles)
    [variant, *_] = variants((name,), (request.model,) if request.model else (), {}, settings())
    parents = {each: load_prompt(each) for each in KINDS[name].roles if role in (each, "panel")}
    return Assignment(request, dataset, chosen, optimize.split(chosen), variant, parents)


def estimated(work: Assignment) -> tuple[int, Decimal]:
    """Return how often both models will be asked at most, and what that costs in USD.

    Every candidate may be put to the first two parts, the one that becomes a challenger to all moments again under its
    own name, and prompts may grow as long as they are let.
    """
    times, longest = work.request.candidates, work.longest
    often = [*work.moments] * (times + 3)
    calls, usd = asyncio.run(estimate_moments([work.variant], often, settings(), longest))
    told = (optimize.SHOWN + PROPOSED) * (optimize.ASKED_CHARACTERS + optimize.REPLY_CHARACTERS + 400)
    told += len(optimize.REFLECTION) + max(len(each.system) for each in longest.values())
    worst = prices_of(settings()).worst((work.writer,), _writing(work, "-1.2 " * (told // 5)))
    return calls + times, (usd + times * worst).quantize(Decimal("0.0001"))


def _writing(work: Assignment, text: str) -> ModelRequest:
    longest = max((each.system for each in work.longest.values()), key=len)
    sampling = {"temperature": 1.0, "seed": optimize.SEED, "max_tokens": len(longest) // 2 + 1000}
    ref = PromptRef(name="reflection", version="v001", sha256=hash_of(optimize.REFLECTION), **sampling)
    return ModelRequest(ref.name, ref, [{"role": "user", "content": text}], object_schema(NewInstructions))


@dataclass
class Candidate:
    """The instructions of each role, and what came of them by a moment's place; `refused`: why they are no prompts."""

    texts: dict[str, str]
    refused: str = ""
    found: dict[int, Evaluated] = field(default_factory=dict)

    def scores(self, places: Sequence[int]) -> np.ndarray:
        """Return the scores of those of these moments that were put to it."""
        return optimize.scores([self.found[each] for each in places if each in self.found])

    @property
    def result(self) -> str:
        return self.refused or f"Mean score {self.scores([*self.found]).mean():+.3f} R of {len(self.found)} moments."


class Search:
    """Implements `gepa.GEPAAdapter` over the places of moments: each is put to each candidate once."""

    propose_new_texts = None  # GEPA does that, by `write`

    def __init__(self, work: Assignment, spending: Spending, done: Callable[[], None] = lambda: None) -> None:
        self.work, self.spending, self.done = work, spending, done
        slow = settings().replace(provider_timeout_s=WRITING_S, decision_deadline_s=WRITING_S)
        self.writer = kept_model(work.writer, slow, store(), spending)
        self.strategy = strategy_over(work.moments, work.variant)
        self.stopped: InputError | None = None
        self.candidates: dict[str, Candidate] = {}
        self.in_use = self.candidate({role: prompt.system for role, prompt in work.parents.items()})
        self.written, self.batch, self.deviation_r = 0, 0, 0.0

    def candidate(self, texts: dict[str, str]) -> Candidate:
        """Return what is known of these instructions."""
        return self.candidates.setdefault(hash_of(texts), Candidate(texts))

    def put(self, candidate: Candidate, places: Sequence[int]) -> np.ndarray:
        """Put moments to a candidate and return its scores; raises InputError where it is none, or the search stops."""
        prompts = {role: optimize.assembled(self.work.parents[role], text) for role, text in candidate.texts.items()}
        for _ in range(TRIES):
            if left := [place for place in places if place not in candidate.found]:
                decider = paid_decider(self.work.variant, settings(), store(), self.spending, prompts)
                chosen = [self.work.moments[place] for place in left]
                found = asyncio.run(moments.evaluate(chosen, decider, self.strategy, done=self.done))
                if self.spending.reached:
                    raise self._stop("")
                candidate.found.update({place: one for place, one in zip(left, found, strict=True) if one.is_answered})
        if silent := [place for place in places if place not in candidate.found]:
            raise self._stop(f"{self.work.variant.model} gives no answer at {len(silent)} moments")
        return candidate.scores(places)

    def evaluate(self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False) -> Any:  # noqa: ARG002
        """Score a candidate; one that is no prompt gets the lowest score, and nobody is asked."""
        from gepa import EvaluationBatch

        mine = self.candidate(candidate)
        try:
            scores = self.put(mine, batch)
        except InputError as e:
            if self.stopped:
                raise
            mine.refused, scores = str(e), np.full(len(batch), optimize.BROKEN_R)
        return EvaluationBatch(batch, scores.tolist(), [mine.found.get(place) for place in batch])

    def make_reflective_dataset(self, _: dict[str, str], batch: Any, roles: list[str]) -> dict[str, Any]:
        """Return what the reflection model reads: the most telling moments, and what came of the last proposals."""
        told, read = optimize.telling(batch.trajectories), {}
        for role in roles:
            first, before = self.in_use.texts[role], [*self.candidates.values()]
            proposed = [each for each in before if each.texts[role] != first][-PROPOSED:]
            read[role] = [optimize.record(each, role) for each in told]
            read[role] += [optimize.proposal(first, each.texts[role], each.result) for each in proposed]
        return read

    def write(self, text: str) -> str:
        """Ask for new instructions, by number, as the same question has the same answer; GEPA unpacks a fence."""
        self.written += 1
        call = asyncio.run(self.writer.ask(_writing(self.work, f"{text}\nThis is proposal {self.written}.")))
        if call.error:
            raise self._stop(f"{self.work.writer} gives no answer: {call.error}")
        said = parse_as(call.raw_reply, NewInstructions)
        if isinstance(said, Unusable):
            raise InputError(f"{self.work.writer}: {said}")
        return f"```\n{said.prompt.strip()}\n```"

    def _stop(self, why: str) -> InputError:
        why = f"--max-cost: {self.spending.cap_usd} USD are reached" if self.spending.reached else why
        self.stopped = InputError(f"{why}; the same command goes on from here, and what was answered costs nothing")
        return self.stopped

    def run(self) -> None:
        """Let GEPA propose and choose, by minibatches as large as the noise of the version in use asks for."""
        import gepa

        train, validation, _ = self.work.parts
        self.batch, self.deviation_r = optimize.minibatch(self.put(self.in_use, train))
        gepa.optimize(
            self.in_use.texts, train, validation, adapter=self, reflection_lm=self.write,
            reflection_prompt_template=optimize.REFLECTION, reflection_minibatch_size=self.batch,
            skip_perfect_score=False, track_best_outputs=False, seed=optimize.SEED,
            stop_callbacks=lambda state: bool(self.stopped) or state.i >= self.work.request.candidates - 1,
            logger=SimpleNamespace(log=log().debug),
        )  # fmt: skip
        if self.stopped:
            raise self.stopped

    @property
    def best(self) -> Candidate | None:
        """Return the candidate with the best mean on the validation part, if any got there."""
        places = self.work.parts.validation
        there = [each for each in self.candidates.values() if len(each.scores(places)) == len(places)]
        return max(
            (each for each in there if each is not self.in_use), key=lambda c: c.scores(places).mean(), default=None
        )


@stage(retries=0)
def search(work: Assignment, spending: Spending, done: Callable[[], None]) -> tuple[Search, int]:
    """Search for better prompts; returns what was tried, and how many candidates ever were on these days."""
    searching, trials, days = Search(work, spending, done), store().trials, _days(work.moments)
    try:
        searching.run()
    finally:
        tried = {name: each.found for name, each in searching.candidates.items() if each.found}
        trials.add(
            days, {hash_of([name, work.variant.label]): _sharpe(found.values()) for name, found in tried.items()}
        )
    return searching, max(1, len(trials.sharpes(days)) - 1)  # without the version in use


def _days(chosen: Sequence[Moment]) -> set[str]:
    """Return what the days after moments are recognised by, whatever is tried on them."""
    bars = pd.concat({(each.symbol, i): each.bars for i, each in enumerate(chosen)}).droplevel(1)
    bars = bars[~bars.index.duplicated()].sort_index()
    return day_hashes(bars.loc[symbol] for symbol in {each.symbol for each in chosen})


def _sharpe(found: Iterable[Evaluated]) -> float | None:
    earned = pd.Series({each.moment.as_of: float(each.net_pct) for each in found})
    return daily_sharpe(earned.resample("1D").sum().to_numpy())


@stage(retries=0)
def judge(searching: Search, best: Candidate, tried: int) -> tuple[Criterion, ...]:
    """Judge the best candidate by the validation part."""
    places, work = searching.work.parts.validation, searching.work
    floor = optimize.floors([work.moments[place] for place in places], searching.strategy)
    ours, theirs = best.scores(places), searching.in_use.scores(places)
    return optimize.shown_better(ours, theirs, floor, tried, settings().promotion.confidence)


@stage(retries=0)
def note(searching: Search, tried: int, opening: bool) -> tuple[str, list[int]]:
    """Write the search into MLflow; returns its run, and for how many candidates the locked window was opened before.

    opening: it will be now.
    """
    work, server = searching.work, lab_server()
    same = {"kind": "optimization", "dataset": work.dataset.name}
    params = {name: str(value) for name, value in dict(work.request, moments=work.dataset.name).items()}
    params |= {name: str(len(part)) for name, part in work.parts._asdict().items()}
    params |= {"in_use": ", ".join(str(each.ref) for each in work.parents.values()), "minibatch": str(searching.batch)}
    with server.translated():
        before = [int(run.data.tags["tried"]) for run in server.runs(same | OPENED)]
        tags = same | {"tried": str(tried)} | (OPENED if opening else {})
        run_id = str(server.create_run(f"optimize {work.request.role}", tags).info.run_id)
        server.log(run_id, {"tried": tried, "deviation_r": searching.deviation_r}, params)
        rows = [_row(work, each) for each in searching.candidates.values()]
        server.client.log_table(run_id, pd.DataFrame(rows), "candidates.json")
        server.client.set_terminated(run_id)
    return run_id, before


def _row(work: Assignment, candidate: Candidate) -> dict[str, object]:
    parts = {f"{name}_r": candidate.scores(part) for name, part in work.parts._asdict().items()}
    means = {name: float(scores.mean()) if len(scores) else None for name, scores in parts.items()}
    return {**means, "moments": len(candidate.found), "refused": candidate.refused, **candidate.texts}


@stage(retries=0)
def open_locked(searching: Search, best: Candidate) -> Criterion:
    """Open the locked window for the best candidate."""
    ours, theirs = (searching.put(each, searching.work.parts.locked) for each in (best, searching.in_use))
    return optimize.not_contradicted(ours, theirs)


@stage(retries=0)
def publish(searching: Search, best: Candidate, tried: int) -> list[Prompt]:
    """Write the best candidate's prompts that differ from those in use into the next files of their roles."""
    work, prompts = searching.work, list[Prompt]()
    ours, theirs = (float(each.scores(work.parts.validation).mean()) for each in (best, searching.in_use))
    lineage = Lineage(
        parents=tuple(str(each.ref) for each in work.parents.values()), moments=work.dataset.name,
        model=work.variant.model, reflection_model=work.writer, tried=tried, score_r=ours, parent_score_r=theirs,
    )  # fmt: skip
    why = f"{ours:+.3f} R a moment on {work.dataset.name}, {'+'.join(lineage.parents)} {theirs:+.3f}; best of {tried}"
    for role, text in best.texts.items():
        parent, files = work.parents[role], files_of(role)
        if text != parent.system and not any((each.system, each.user) == (text, parent.user) for each in files):
            made = optimize.assembled(parent, text, {"why": why, "lineage": lineage.model_dump()}, files[-1].number + 1)
            save_prompt(made.text, role, made.version)
        prompts += [each for each in files_of(role) if each.system == text and each.ref != parent.ref][-1:]
    return prompts

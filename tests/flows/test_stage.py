"""Under Prefect a stage tries again what infrastructure broke, and finds then what it did before; nothing else."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from instrument_cases import linear
from prefect import Task, task
from prefect.runtime import task_run
from replayed import strategy
from store_samples import AT, BTC, a_cycle, a_decision, a_full_cycle, a_hold, a_reason, a_snapshot

import tasks
from tasks import connections, decide, detect, guard, mirror, shadow
from tasks.adapters.store.cycles import DecisionRepository
from tasks.adapters.store.events import EventRepository
from tasks.adapters.store.shadow import ShadowRepository
from tasks.connections import store
from tasks.core.errors import InputError, OrderRejected, StoreError, TrackingUnavailable, VenueUnavailable
from tasks.core.types.decision import Answer
from tasks.core.types.portfolio import AccountState
from tasks.core.types.question import Question
from tasks.core.types.record import Inputs
from tasks.settings import settings
from tasks.stage import BROKEN, STAGE, broken_infrastructure, result

ETH = "ETH/USDT:USDT"
# replays, and what reconciles
ELSEWHERE = {"tasks.evaluate", "tasks.optimize", "tasks.ledger", "tasks.protect", "tasks.unfinished"}


class Scripted:
    """A decider that answers about each symbol in a way of its own, and notes whom it was asked about."""

    name = "scripted"

    def __init__(self, together: bool = False, breaks: Sequence[str] = ()) -> None:
        self.kind, self.breaks = SimpleNamespace(together=together), list(breaks)
        self.asked: list[list[str]] = []

    async def decide(self, questions: Sequence[Question]) -> list[Answer]:
        symbols = [question.snapshot.pair for question in questions]
        self.asked.append(symbols)
        if self.breaks and self.breaks[0] in symbols:
            raise StoreError(f"the budget of {self.breaks.pop(0)} cannot be read")
        return [a_decision(f"{symbol} as asked the {len(self.asked)}. time") for symbol in symbols]


class Failing:
    """Fails the first `times` calls with `error`, then does what `real` does; notes in which runs it was called."""

    def __init__(self, real: Callable[..., Any], times: int, error: Exception) -> None:
        self.real, self.times, self.error, self.runs = real, times, error, []

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.runs.append(task_run.run_count)
        if len(self.runs) <= self.times:
            raise self.error
        return self.real(*given, **named)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Failing]:
    def fail(part: type, method: str, times: int, error: Exception | None = None) -> Failing:
        found = Failing(getattr(part, method), times, error or StoreError("no answer"))
        monkeypatch.setattr(part, method, lambda *given, **named: found(*given, **named))
        return found

    return fail


def scripted(monkeypatch: pytest.MonkeyPatch, **how: Any) -> Scripted:
    found = Scripted(**how)
    monkeypatch.setattr(connections, "decider", lambda *_, **__: found)
    return found


def questions() -> list[Question]:
    """Return a question about each symbol, whose cycles `btc` and `eth` have begun."""
    for cycle_id, symbol in (("btc", BTC), ("eth", ETH)):
        store().cycles.begin(a_cycle(cycle_id, symbol=symbol), AT)
    return [Question(snapshot=a_snapshot().model_copy(update={"pair": symbol})) for symbol in (BTC, ETH)]


def at_once(stage: Task[..., Any]) -> Task[..., Any]:
    return stage.with_options(retry_delay_seconds=0)


IDS = ["btc", "eth"]


async def test_a_decision_that_could_not_be_kept_twice_is_kept_the_third_time_and_paid_for_once(
    home, prefect_server, monkeypatch, failing
):
    decider, keep = scripted(monkeypatch), failing(DecisionRepository, "keep", 2)
    [answer] = await at_once(decide.decide)(questions()[:1], IDS[:1], "scripted")
    assert keep.runs == [1, 2, 3]
    assert decider.asked == [[BTC]]
    assert answer.decision.comment == f"{BTC} as asked the 1. time"
    assert store().decisions.of(IDS) == {"btc": answer}


async def test_what_broke_one_symbols_answer_makes_no_other_be_asked_again(home, prefect_server, monkeypatch):
    decider = scripted(monkeypatch, breaks=[ETH, ETH])
    answers = await at_once(decide.decide)(questions(), IDS, "scripted")
    assert decider.asked == [[BTC], [ETH], [ETH], [ETH]]
    assert [answer.decision.comment for answer in answers] == [
        f"{BTC} as asked the 1. time", f"{ETH} as asked the 4. time",
    ]  # fmt: skip


async def test_after_three_tries_the_run_fails_and_the_next_one_still_has_the_answer(
    home, prefect_server, monkeypatch, failing
):
    decider, keep = scripted(monkeypatch), failing(DecisionRepository, "keep", 3)
    asked = questions()
    with pytest.raises(StoreError):
        await at_once(decide.decide)(asked, IDS, "scripted")
    assert keep.runs == [1, 2, 3]
    await at_once(decide.decide)(asked, IDS, "scripted")
    assert decider.asked == [[BTC], [ETH]]


@pytest.mark.parametrize(
    ("together", "kept", "asked"),
    [
        (False, ["btc"], [[ETH]]),
        (True, ["btc"], [[BTC, ETH]]),
        (False, IDS, []),
        (True, IDS, []),
    ],
)
async def test_only_cycles_without_an_answer_are_asked_about_or_all_where_they_go_together(
    home, monkeypatch, together, kept, asked
):
    decider, given = scripted(monkeypatch, together=together), questions()
    for cycle_id in kept:
        store().decisions.keep(cycle_id, a_decision("first"), AT)
    answers = await decide.decide.fn(given, IDS, "scripted")
    assert decider.asked == asked
    assert [answer.decision.comment == "first" for answer in answers] == [cycle_id in kept for cycle_id in IDS]
    assert list(store().decisions.of(IDS).values()) == answers


async def test_a_challenger_whose_answer_could_not_be_kept_is_asked_once(home, prefect_server, monkeypatch, failing):
    monkeypatch.setenv("QUARTERDECK_SHADOW", "scripted")
    settings.cache_clear()
    decider, keep = scripted(monkeypatch), failing(ShadowRepository, "keep", 1)
    judged = a_full_cycle("btc", state=AccountState(), decided=a_hold(), inputs=Inputs(strategy=""))
    assert await at_once(shadow.decide_shadows)(strategy(BTC, ETH), questions()[:1], [judged]) == 1
    assert keep.runs == [1, 2, 2]  # once more, and the champion's own
    assert decider.asked == [[BTC]]
    await shadow.decide_shadows.fn(strategy(BTC, ETH), questions()[:1], [judged])
    assert decider.asked == [[BTC]]


def test_a_database_that_is_away_is_no_symbols_own_trouble_until_the_last_try(home, prefect_server, failing):
    store().events.add("default", [a_reason()])
    claim = failing(EventRepository, "claim", 2)
    claimed = at_once(detect.claim_reasons)({BTC: "btc", ETH: "eth"}, AT)
    assert claim.runs == [1, 2, 3, 3]
    assert [reason.rule for reason in result(claimed[BTC])] == ["TrendFlip"]
    claim.times = 100
    claimed = at_once(detect.claim_reasons)({BTC: "btc", ETH: "eth"}, AT)
    assert claim.runs[4:] == [1, 2, 3, 3]
    assert all(isinstance(each, StoreError) for each in claimed.values())
    assert all(isinstance(each, StoreError) for each in detect.claim_reasons.fn({BTC: "btc"}, AT).values())


class Mirror:
    def __init__(self, times: int) -> None:
        self.track = Failing(lambda records, *_: ["trace"] * len(records), times, TrackingUnavailable("MLflow is away"))

    prompts = SimpleNamespace(sync=lambda _: [])

    def log_session(self, *_: object, **__: object) -> None: ...


@pytest.mark.parametrize(("times", "sent"), [(2, 1), (3, 0)])
def test_mlflow_is_tried_again_and_waited_for_no_longer_after_that(home, prefect_server, monkeypatch, times, sent):
    cycle = a_full_cycle("btc", decided=a_hold())
    store().cycles.begin(cycle, AT)
    store().cycles.save(cycle, AT)
    mlflow = Mirror(times)
    monkeypatch.setattr(mirror, "tracker", lambda: mlflow)
    assert at_once(mirror.show_mlflow)(AT)["tracked"] == sent
    assert mlflow.track.runs == [1, 2, 3]
    assert [each.cycle_id for each in store().decisions.untracked(1)] == ([] if sent else ["btc"])


@pytest.mark.parametrize("error", [InputError("no such decider"), OrderRejected("too small"), KeyError("a defect")])
def test_a_refusal_and_a_defect_are_not_tried_again(prefect_server, error):
    once = Failing(lambda: None, 1, error)
    with pytest.raises(type(error)):
        at_once(task(lambda: once(), name="refused", **STAGE))()
    assert once.runs == [1]


@pytest.mark.parametrize("error", [each("away") for each in (StoreError, VenueUnavailable, TrackingUnavailable)])
def test_whatever_infrastructure_broke_is_tried_again(prefect_server, error):
    twice = Failing(lambda: "done", 2, error)
    assert at_once(task(lambda: twice(), name="mended", **STAGE))() == "done"
    assert twice.runs == [1, 2, 3]
    assert type(error) in BROKEN


def test_what_the_guard_denies_is_denied_at_once(home, prefect_server, monkeypatch):
    judging = Failing(guard.judge.judged, 0, KeyError())
    monkeypatch.setattr(guard.judge, "judged", judging)
    halted = AccountState(halt="a test", instrument=linear(BTC))
    question, now = Question(snapshot=a_snapshot()), AT + timedelta(minutes=1)
    judgement = at_once(guard.guard_decision)(question, a_decision(), halted, strategy(BTC), now)
    assert (judgement.verdict.allowed, judgement.intents) == (False, ())
    assert judging.runs == [1]


def test_every_stage_tries_again():
    names = [module.name for module in pkgutil.iter_modules(tasks.__path__, "tasks.")]
    found = {
        f"{name}.{stage.fn.__name__}": stage
        for name in names
        for stage in vars(importlib.import_module(name)).values()
        if isinstance(stage, Task) and stage.fn.__module__ == name and name not in ELSEWHERE
    }
    assert len(found) > 30
    once = [name for name, stage in found.items() if stage.retry_condition_fn is not broken_infrastructure]
    assert once == []
    assert all(stage.retries >= 2 for stage in found.values())

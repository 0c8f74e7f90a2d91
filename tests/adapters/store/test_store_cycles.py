"""Cycles: begun once, decided once, written whole or not at all."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from sqlalchemy import select, update
from store_samples import AT, BTC, a_cycle, a_decision, a_full_cycle, a_hold, a_verdict, minutes

from tasks.adapters.store import cycles
from tasks.adapters.store.cycles import BeginResult
from tasks.adapters.store.database import row_of
from tasks.adapters.store.tables import CycleRow, DecisionRow, ModelCallRow, VerdictRow
from tasks.core.errors import StoreError
from tasks.core.types.decision import ModelCall
from tasks.core.types.record import CycleStatus
from tasks.core.types.verdict import Code


def test_cycle_is_started_then_resumed_then_done(store):
    assert store.cycles.begin(a_cycle(), AT) is BeginResult.STARTED
    assert store.cycles.begin(a_cycle(trigger="event"), AT) is BeginResult.RESUMED
    store.cycles.save(a_cycle(status=CycleStatus.QUIET), AT)
    assert store.cycles.begin(a_cycle(), AT) is BeginResult.DONE
    assert store.cycles.get("c1").status is CycleStatus.QUIET


def test_of_many_that_begin_one_cycle_one_starts_it(store):
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: store.cycles.begin(a_cycle(), AT), range(12)))
    assert sorted(found) == ["resumed"] * 11 + ["started"]


def test_same_bar_under_another_id_is_refused(store):
    store.cycles.begin(a_cycle("c1"), AT)
    with pytest.raises(StoreError, match="already has another cycle_id"):
        store.cycles.begin(a_cycle("c2"), AT)


def test_record_comes_back_byte_for_byte(store):
    record = a_full_cycle()
    store.cycles.save(record, AT)
    assert store.cycles.get("c1").model_dump_json() == record.model_dump_json()
    assert list(store.cycles.get("c1").snapshot.timeframes) == ["5m", "15m", "1h", "4h", "1d"]


def test_a_record_that_a_newer_release_wrote_is_an_error_in_one_line(store):
    store.cycles.begin(a_full_cycle(), AT)
    store.cycles.save(a_full_cycle(), AT)
    newer = {"record": {**a_full_cycle().model_dump(mode="json"), "mood": "calm"}}
    decided = {"decided": {**a_full_cycle().decided.model_dump(mode="json"), "mood": "calm"}}
    with store.database.writing() as connection:
        connection.execute(update(CycleRow).values(newer))
        connection.execute(update(DecisionRow).values(decided))
    with pytest.raises(StoreError, match=r"CycleRecord .*mood: Extra inputs.*a newer release wrote it"):
        store.cycles.get("c1")
    with pytest.raises(StoreError, match=r"Answer .*mood: Extra inputs"):
        store.decisions.of(["c1"])


def test_saving_again_writes_the_same_rows(store):
    store.cycles.begin(a_cycle(), AT)
    store.cycles.save(a_full_cycle(), AT + minutes(1))
    once = store.counts()
    store.cycles.save(a_full_cycle(), AT + minutes(2))
    assert store.counts() == once
    assert (once["cycles"], once["decisions"], once["model_calls"], once["verdicts"]) == (1, 1, 2, 1)


def test_parts_are_written_for_queries(store):
    store.cycles.save(a_full_cycle(), AT)
    with store.database.reading() as connection:
        call = connection.execute(select(ModelCallRow).order_by(ModelCallRow.seq)).first()
        verdict = connection.execute(select(VerdictRow)).one()
    assert (call.prompt_version, call.cost_usd, call.tokens_in) == ("v001", Decimal("0.001230"), 900)
    assert (verdict.allowed, verdict.codes) == (True, ["SIZE_CLAMPED"])


@pytest.mark.parametrize("broken", [DecisionRow, VerdictRow])
def test_save_that_breaks_half_way_shows_nothing(store, monkeypatch, broken):
    store.cycles.begin(a_cycle(), AT)
    before = store.counts()

    def break_at(table, *args, **more):
        if table is broken:
            raise KeyboardInterrupt
        return row_of(table, *args, **more)

    monkeypatch.setattr(cycles, "row_of", break_at)
    with pytest.raises(KeyboardInterrupt):
        store.cycles.save(a_full_cycle(), AT)
    monkeypatch.undo()
    assert store.counts() == before
    assert store.cycles.get("c1") == a_cycle()
    store.cycles.save(a_full_cycle(), AT)
    assert store.cycles.get("c1") == a_full_cycle()


def test_finished_cycle_never_becomes_unfinished(store):
    store.cycles.save(a_full_cycle(), AT)
    store.cycles.save(a_cycle(decided=a_hold()), AT + minutes(1))
    assert store.cycles.get("c1") == a_full_cycle()
    store.cycles.save(a_full_cycle(error="late fill"), AT + minutes(2))
    assert store.cycles.get("c1").error == "late fill"


def test_first_decision_counts(store):
    store.cycles.begin(a_cycle(), AT)
    assert store.decisions.keep("c1", a_decision(), AT) == a_decision()
    assert store.decisions.keep("c1", a_hold(), AT) == a_decision()
    store.cycles.save(a_cycle(status=CycleStatus.HELD, decided=a_hold()), AT)
    assert store.decisions.keep("c1", a_hold(), AT) == a_decision()
    assert store.counts()["model_calls"] == 2


def test_of_many_that_decide_all_get_the_same_decision(store):
    store.cycles.begin(a_cycle(), AT)
    start = threading.Barrier(6)

    def decide(number: int):
        start.wait()
        return store.decisions.keep("c1", a_decision(comment=f"number {number}"), AT)

    with ThreadPoolExecutor(6) as pool:
        got = {decided.decision.comment for decided in pool.map(decide, range(6))}
    assert len(got) == 1


def test_decision_of_a_cycle_that_was_not_begun_is_refused(store):
    with pytest.raises(StoreError, match="the cycle before its parts"):
        store.decisions.keep("c1", a_decision(), AT)


def test_reply_with_nul_and_half_characters_is_kept(store):
    call = ModelCall(role="trader", model="m", raw_reply="a\0b\ud83d", error="bad\0")
    decided = a_decision().model_copy(update={"calls": (call,), "errors": ("\ud800",)})
    record = a_full_cycle(decided=decided, error="stage\0")
    store.cycles.save(record, AT)
    back = store.cycles.get("c1")
    assert back.decided.calls[0].raw_reply == "a\ufffdb\ufffd"
    json.loads(back.model_dump_json())


def test_cycles_are_found_newest_first_by_each_filter(store):
    for number in range(4):
        store.cycles.save(a_cycle(f"c{number}", as_of=AT + minutes(5 * number), status=CycleStatus.QUIET), AT)
    store.cycles.save(a_cycle("eth", symbol="ETH/USDT:USDT", as_of=AT + minutes(60)), AT)
    store.cycles.save(a_cycle("other", strategy="other", as_of=AT + minutes(90)), AT)

    def ids(strategy="default", **filters):
        return [record.cycle_id for record in store.cycles.newest(strategy, **filters)]

    assert ids("other") == ["other"]
    assert ids() == ["eth", "c3", "c2", "c1", "c0"]
    assert ids(symbol=BTC, limit=2) == ["c3", "c2"]
    assert [record.cycle_id for record in store.cycles.at("default", AT + minutes(10))] == ["c2"]
    assert [record.cycle_id for record in store.cycles.unfinished("default")] == ["eth"]
    assert store.cycles.last("default").cycle_id == "eth"
    assert store.cycles.last("nobody") is None
    assert store.cycles.get("nobody") is None
    assert store.cycles.by_status("default") == {"quiet": 4, "started": 1}


def test_decisions_are_mirrored_to_tracking_once(store):
    for number in range(3):
        store.cycles.save(a_cycle(f"c{number}", as_of=AT + minutes(5 * number), decided=a_hold()), AT + minutes(number))
    store.cycles.save(a_cycle("quiet", as_of=AT + minutes(90), status=CycleStatus.QUIET), AT)
    assert [record.cycle_id for record in store.decisions.untracked(2)] == ["c0", "c1"]
    store.decisions.mark_tracked("c0", "trace-0")
    store.cycles.save(a_cycle("c0", decided=a_hold(), status=CycleStatus.HELD), AT)
    assert [record.cycle_id for record in store.decisions.untracked(9)] == ["c1", "c2"]
    store.decisions.note_page("c0", "page-0")
    assert [record.cycle_id for record in store.decisions.untracked(1)] == ["c0"], "its trace is to name the page"
    assert store.decisions.pages(("c0", "c1")) == {"c0": "page-0"}
    store.decisions.mark_tracked("c0", "trace-0")
    assert [record.cycle_id for record in store.decisions.untracked(1)] == ["c0"], "that was before its page was there"
    store.decisions.mark_tracked("c0", "trace-0", "page-0")
    assert [record.cycle_id for record in store.decisions.untracked(1)] == ["c1"]


def test_what_the_guard_refused_lately_comes_back_newest_first(store):
    for n, (ago, denied) in enumerate([(1500, True), (60, True), (30, False), (5, True), (0, True)]):
        verdict = a_verdict().replace(allowed=not denied, codes=(Code.LOW_CONFIDENCE, Code.SIZE_CLAMPED))
        status = CycleStatus.DENIED if denied else CycleStatus.EXECUTED
        store.cycles.save(a_full_cycle(f"c{n}", as_of=AT - minutes(ago), status=status, verdict=verdict), AT)
    seen = store.cycles.refusals("default", AT)
    assert [(each.as_of, each.codes) for each in seen] == [(AT - minutes(n), ("LOW_CONFIDENCE",)) for n in (5, 60)]
    assert {(each.symbol, each.action) for each in seen} == {(BTC, "OPEN_LONG")}

"""Answers as the release before trails kept them: what they said in sentences comes out as rungs."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.core.lab.old_records import stood, with_trail, without_trail
from tasks.core.types.decision import Answer, Rung, Why

AS_OF = datetime(2026, 1, 2, 23, 50, tzinfo=UTC)
HOLDS = {"action": "HOLD", "symbol": "BTC/USDT:USDT"}
CALL = {"role": "single", "model": "openai/big"}


def old(**fields: object) -> Answer:
    """An answer read from JSON that knows no trail."""
    return Answer.model_validate({"decision": HOLDS, "source": "hold", "rung": "hold"} | fields)


@pytest.mark.parametrize(("said", "until"), [("23:58:07", "2026-01-02T23:58:07"), ("00:03:00", "2026-01-03T00:03:00")])
def test_an_open_breaker_is_read_from_its_sentence_also_over_midnight(said, until):
    [rung] = with_trail(old(errors=(f"breaker open until {said} UTC after 5 errors",)), AS_OF).trail
    assert (rung.why, rung.errors) == (Why.BREAKER_OPEN, 5)
    assert rung.retry_at == datetime.fromisoformat(until).replace(tzinfo=UTC)


def test_a_near_decision_and_planning_that_took_too_long_are_read_from_their_flags():
    found = with_trail(old(rung="cache", source="cache", flags=("late:planner", "cached:0.123:600s")), AS_OF)
    late, near = found.trail
    assert (late.role, late.why) == ("planner", Why.OUT_OF_TIME)
    assert (near.rung, near.distance, near.age_s, near.as_of) == ("cache", 0.123, 600, AS_OF - timedelta(minutes=10))
    assert with_trail(old(flags=("cached:0.123:600s",)), AS_OF).trail == (), "found, but not taken"


def test_kept_replies_are_those_of_their_roles_in_order_and_no_failed_call():
    calls = [
        CALL | {"role": "planner"},
        CALL | {"role": "planner", "error": "timeout"},
        CALL | {"role": "planner"},
        CALL,
    ]
    flags = ("cached:planner:60s", "cached:planner:70s")
    first, failed, second, single = with_trail(old(calls=calls, flags=flags), AS_OF).calls
    assert [call.tried()[-1].age_s for call in (first, second)] == [60, 70]
    assert [call.tried()[-1].rung for call in (first, failed, second, single)] == [
        "cache",
        "primary",
        "cache",
        "primary",
    ]


def test_a_cheap_answer_is_cheap_in_every_reply():
    found = with_trail(old(rung="cheap", source="llm:openai/cheap", calls=[CALL, CALL | {"error": "timeout"}]), AS_OF)
    assert [call.tried()[-1].rung for call in found.calls] == ["cheap", "primary"]


def test_dropped_and_late_tool_calls_are_read_from_flag_and_error():
    calls = [
        {"trace_id": "a", "tool": "candles", "flags": ["dropped:candles"], "error": "dropped: at most 1 a minute"},
        {"trace_id": "b", "tool": "candles", "error": "timeout"}, {"trace_id": "c", "tool": "candles"},
    ]  # fmt: skip
    found = with_trail(old(tool_calls=calls), AS_OF).tool_calls
    assert [(call.dropped, call.late) for call in found] == [(True, False), (False, True), (False, False)]


def test_what_has_a_trail_is_left_alone_and_taking_it_away_is_the_old_form():
    before = old(calls=[CALL], tool_calls=[{"trace_id": "a", "tool": "candles"}])
    now = before.model_copy(update={"trail": (Rung(rung="hold", source="hold"),)})
    assert with_trail(now, AS_OF) is now
    assert without_trail(with_trail(before, AS_OF), before) == without_trail(now, before) == before


def test_a_hold_that_ended_in_a_flags_words_stays_what_it_was_taken_for():
    taken = old(rung="primary", errors=("risk: no_json: it is rejected",), flags=("rejected",))
    assert stood(taken)
    assert not stood(old())
    assert without_trail(old(), taken).rung == "primary"

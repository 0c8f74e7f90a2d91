"""Calendar reasons and sampled quiet bars."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.adapters.files.calendar import read_calendar
from tasks.core.errors import InputError
from tasks.core.market.calendar import CalendarEvent, calendar_reasons, sampled

AT = datetime(2025, 3, 19, 18, 0, tzinfo=UTC)
SYMBOL = "BTC/USDT:USDT"


def found(at: datetime) -> list[tuple[str, str]]:
    reasons = calendar_reasons([CalendarEvent(at=at, title="FOMC")], SYMBOL, AT - timedelta(1), AT + timedelta(1))
    return [(f"{reason.as_of:%H:%M}", reason.detail) for reason in reasons]


def test_an_event_rings_ten_minutes_before_and_when_it_comes():
    assert found(AT) == [("17:50", "FOMC in 10 min"), ("18:00", "FOMC now")]


def test_an_event_between_closes_rings_at_the_next_close():
    assert found(AT + timedelta(minutes=2)) == [("17:55", "FOMC in 10 min"), ("18:05", "FOMC now")]


def test_the_window_is_half_open_so_that_no_close_is_counted_twice():
    event = [CalendarEvent(at=AT, title="FOMC")]
    first = calendar_reasons(event, SYMBOL, AT - timedelta(minutes=15), AT - timedelta(minutes=10))
    second = calendar_reasons(event, SYMBOL, AT - timedelta(minutes=10), AT)
    assert [r.detail for r in first] == ["FOMC in 10 min"]
    assert [r.detail for r in second] == ["FOMC now"]


@given(st.integers(0, 10**8))
def test_every_reason_is_a_close_within_ten_minutes(seconds):
    at = AT + timedelta(seconds=seconds)
    reasons = calendar_reasons([CalendarEvent(at=at, title="x")], SYMBOL, at - timedelta(1), at + timedelta(1))
    assert len({reason.fingerprint for reason in reasons}) == 2
    for reason in reasons:
        assert reason.as_of.timestamp() % 300 == 0
        assert abs(reason.as_of - at) <= timedelta(minutes=10)


def test_a_sample_is_the_stated_share_and_the_same_every_time():
    ids = [str(uuid.UUID(int=n)) for n in range(20_000)]
    chosen = [each for each in ids if sampled(each, 0.05)]
    assert 900 < len(chosen) < 1100
    assert chosen == [each for each in ids if sampled(each, 0.05)]
    assert set(chosen) <= {each for each in ids if sampled(each, 0.1)}
    assert not any(sampled(each, 0.0) for each in ids)


def test_csv_and_ics_give_the_same_events(tmp_path):
    (tmp_path / "a.csv").write_text("at,title\n2025-03-19T18:00:00Z,FOMC\n")
    (tmp_path / "a.ics").write_text(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTART:20250319T180000Z\r\n"
        "SUMMARY:FOMC\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    wanted = (CalendarEvent(at=AT, title="FOMC"),)
    assert read_calendar(tmp_path / "a.csv") == wanted
    assert read_calendar(tmp_path / "a.ics") == wanted


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("a.txt", "", ".ics or a .csv"),
        ("a.csv", "when,what\n", "at,title"),
        ("a.csv", "at,title\nsoon,FOMC\n", "'soon'"),
        ("a.ics", "hello", "not an ICS"),
    ],
)
def test_a_wrong_calendar_is_named(tmp_path, name, text, named):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=named):
        read_calendar(tmp_path / name)

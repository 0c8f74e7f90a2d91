"""What the drills lean on; the drills themselves take minutes and are run by `make drills`."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from deployments.orchestrator import PrefectError
from tasks.core.decision.baselines import RecordedDecider
from tests.drills import server
from tests.drills.seen import Seen, Stuck, until
from tests.drills.system import BAR, told, write_play

NOON = datetime(2025, 3, 10, 12, 1, tzinfo=UTC)


def test_a_breach_is_kept_and_what_held_is_not(capsys):
    seen = Seen("postgres")
    seen.must([1], "one order")
    seen.must([], "a stop")
    assert seen.breaches == ["a stop"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[3:] for line in lines] == [["ok", "one", "order"], ["FAIL", "a", "stop"]]


async def test_waiting_outlives_a_prefect_that_refuses_and_ends_where_nothing_comes():
    answers = iter([PrefectError("500"), False, True])

    async def ask() -> bool:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    assert await until(ask, "an answer", 60) > 0
    with pytest.raises(Stuck, match="nothing: not within 0 s"):
        await until(lambda: False, "nothing", 0)


def test_the_play_has_one_readable_reply_for_every_close_and_symbol_around_its_beginning(tmp_path):
    path = tmp_path / "replies.jsonl"
    assert write_play(path, ("A", "B"), NOON, hours=2) == f"recorded:{path}"
    replies = RecordedDecider(path.read_text().splitlines()).replies
    assert len(replies) == 2 * 24
    for close in (NOON - timedelta(minutes=1), NOON + timedelta(minutes=54)):
        assert replies[close, "A"] != replies[close, "B"]


def test_something_fires_for_each_symbol_at_every_close_of_a_drill_s_calendar(tmp_path):
    events = server._write_calendar(tmp_path / "calendar.csv", NOON)
    close = NOON - timedelta(minutes=1) + 2 * BAR
    assert len(server._fired(events, close, close + BAR)) == 2 * 2  # what is now, and what is in ten minutes
    assert not server._fired(events, close, close)


def test_states_are_told_with_their_numbers():
    assert told(Counter(["Skipped", "Completed", "Skipped"])) == "1 Completed, 2 Skipped"
    assert told(Counter()) == "none"

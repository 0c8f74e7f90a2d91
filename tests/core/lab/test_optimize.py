"""What a prompt is scored by, and what the best of many must show, by numbers made by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from tasks.adapters.files.prompts import load_prompt
from tasks.core.errors import InputError
from tasks.core.lab import optimize
from tasks.core.lab.moments import Evaluated

SINGLE = load_prompt("single", "v003")
CALLS = (SimpleNamespace(prompt=None, error=""),)


def found(net_r: float = 0.0, hold_r: float = 0.0, errors=(), allowed=True, codes=(), action="OPEN_LONG", calls=()):
    moment = SimpleNamespace(moved={"moved_pct": 1.25, "lowest_pct": -0.5})
    answer = SimpleNamespace(decision=SimpleNamespace(action=action), errors=errors, calls=calls)
    verdict = SimpleNamespace(allowed=allowed, codes=codes)
    return Evaluated(moment, answer, verdict, Decimal(str(net_r)), Decimal(str(hold_r)), Decimal(1))


def test_a_score_is_what_it_was_worth_over_doing_nothing_less_its_punishment():
    assert optimize.score(found(1.5, hold_r=0.5)) == pytest.approx(1.0)
    assert optimize.score(found(errors=("ECHO",), calls=CALLS)) == pytest.approx(-0.5)
    assert optimize.score(found(allowed=False, codes=("COOLDOWN",))) == pytest.approx(-0.1)
    assert optimize.score(found(errors=("ECHO",), allowed=False, calls=CALLS)) == pytest.approx(-0.5), "punished once"


def test_feedback_says_what_came_of_it_in_the_trades_own_terms():
    assert optimize.feedback(found(1.5, hold_r=0.5)) == (
        "Score +1.00 R. OPEN_LONG earned +1.50 R within a day, doing nothing +0.50 R. "
        "The price after: moved +1.25 %, lowest -0.50 %."
    )
    denied = optimize.feedback(found(allowed=False, codes=("COOLDOWN",)))
    assert "OPEN_LONG was denied by the guard: COOLDOWN." in denied
    assert "No usable reply: ECHO: an example." in optimize.feedback(found(errors=("ECHO: an example",), calls=CALLS))


def test_whoever_reflects_sees_the_worst_and_the_best():
    shown = optimize.telling([found(r / 10) for r in range(40)])
    assert [round(each.net_r, 1) for each in shown] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 3.4, 3.5, 3.6, 3.7, 3.8, 3.9]
    call = SimpleNamespace(
        prompt=SimpleNamespace(name="single"), messages=[{"content": "rules"}, {"content": "x" * 5000}], raw_reply="{}"
    )
    read = optimize.record(found(calls=[call]), "single")
    assert (len(read["Asked"]), read["Replied"]) == (1500, "{}")
    assert optimize.record(found(calls=[call]), "risk")["Asked"] == "nothing: not its turn"


def test_whoever_reflects_is_told_what_was_proposed_before():
    told = optimize.proposal("Hold.\nBe brief.", "Hold.\nBuy.\nBe brief.", "Mean score +0.100 R of 40 moments.")
    assert told == {"Proposed": "Buy.", "Feedback": "Mean score +0.100 R of 40 moments."}


def moments(times):
    return [SimpleNamespace(as_of=datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=h)) for h in times]


def test_parts_follow_each_other_by_a_day_and_none_is_too_small():
    hours = range(0, 1200, 6)  # 200 moments, four a day
    parts = optimize.split(moments(hours))
    assert [len(part) for part in parts] == [77, 77, 40]
    assert [part[0] for part in parts] == [0, 80, 160]
    for before, after in pairwise(parts):
        assert hours[after[0]] - hours[before[-1]] >= 24
    with pytest.raises(InputError, match="60 moments leave 21 for validation, which needs 30: keep more"):
        optimize.split(moments(range(0, 360, 6)))


def test_a_minibatch_is_as_large_as_the_noise_asks():
    noisy = np.tile([-1.0, 1.0], 100)
    size, deviation = optimize.minibatch(noisy)
    assert deviation == pytest.approx(1.0, abs=0.01)
    assert size == 45  # (1.0025 / 0.15)^2
    assert optimize.minibatch(noisy / 100) == (3, pytest.approx(0.01, abs=0.001))
    assert optimize.minibatch(noisy[:20])[0] == 20, "no more than there are"


def test_a_candidate_keeps_head_variables_and_the_fields_of_the_reply():
    made = optimize.assembled(SINGLE, f"{SINGLE.system}\nCosts matter.", {"why": "By evidence."}, 7)
    assert (made.version, made.why) == ("v007", "By evidence.")
    assert (made.user, made.variables) == (SINGLE.user, SINGLE.variables)
    assert made.system.endswith("Costs matter.")
    assert optimize.assembled(SINGLE, SINGLE.system) is SINGLE


@pytest.mark.parametrize(
    ("instructions", "says"),
    [
        (f"{SINGLE.system}\nAsk for ${{more}}.", "'## system' must be static"),
        (f"{SINGLE.system}\n\n## user\nPair", "'## user' may stand in no line of it"),
        (SINGLE.system * 2 + "more", "characters are more than 2 times those of v003"),
        (SINGLE.system.replace("tp_atr", "target"), "it no longer says what the reply's tp_atr is"),
        ("", "must both say something"),
    ],
)
def test_what_is_no_such_prompt_is_refused_by_name(instructions, says):
    with pytest.raises(InputError, match=says.replace("$", r"\$")):
        optimize.assembled(SINGLE, instructions)


FLOORS = {"always HOLD": 0.0, "always long": 0.3, "always short": -0.4}


def test_a_candidate_must_beat_whoever_looks_at_nothing_and_surely_the_version_in_use():
    rng = np.random.default_rng(1)
    theirs = rng.normal(0, 1, 200)
    better = optimize.shown_better(theirs + rng.normal(0.8, 1, 200), theirs, FLOORS, 20, 0.95)
    assert [each.passed for each in better] == [True] * 4
    assert "its 99.75% interval above 0: 20 tried on these days" in str(better[-1])
    worse = optimize.shown_better(theirs + rng.normal(0.25, 1, 200), theirs, FLOORS, 20, 0.95)
    assert [each.passed for each in worse] == [True, False, True, False]
    few = optimize.shown_better(theirs[:20] + 1, theirs[:20], FLOORS, 1, 0.95)
    assert few[-1].unknown
    assert optimize.not_contradicted(theirs + 0.1, theirs).passed
    assert not optimize.not_contradicted(theirs - 0.1, theirs).passed


def test_the_more_candidates_were_tried_the_more_one_must_show():
    """Where no candidate is better, the best of 20 rarely passes: at the bar of one alone it would often."""
    passed = {1: 0, 20: 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        mine, theirs = rng.normal(0, 1, (20, 120)), rng.normal(0, 1, 120)
        best = mine[mine.mean(axis=1).argmax()]
        for tried in passed:
            passed[tried] += optimize.shown_better(best, theirs, {}, tried, 0.95)[-1].passed
    assert passed[20] <= 3 < 30 <= passed[1], passed

"""Transitions: what a step is, what it is credited with, what is left out of which split."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import InputError
from tasks.core.lab import rl
from tasks.core.lab.action_values import HORIZON, ActionValue, Foreseen
from tasks.core.types.decision import ACTIONS, Add, Answer, ModelCall, OpenLong, PromptRef, hold
from tasks.core.types.orders import Fill, OrderIntent, OrderType
from tasks.core.types.portfolio import AccountState, ClosedTrade, HeldPosition, Position
from tasks.core.types.record import CycleRecord, CycleStatus, Inputs
from tasks.core.types.snapshot import Constraints, Snapshot, TimeframeView
from tasks.core.types.verdict import Code, Verdict

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
START = datetime(2025, 1, 1, tzinfo=UTC)
ALLOWED = ("HOLD", "OPEN_LONG", "PAUSE")
BUY = OpenLong(symbol=BTC, confidence=Decimal("0.7"), size_pct=Decimal(20), stop_atr=Decimal(2), tp_atr=Decimal(4))
WHOLE = rl.SplitPlan(start=START, end=START + timedelta(days=1000))


def snapshot(symbol: str, at: datetime, **fields: object) -> Snapshot:
    views = {"5m": TimeframeView(close=100.0, rsi=70.0, last3=((1, 2, 3, 4, 5),)), "15m": TimeframeView(rsi=50.0)}
    limits = Constraints(max_trade_risk_pct=0.75, max_total_risk_pct=1.5, allowed_actions=ALLOWED)
    return Snapshot(**{"pair": symbol, "as_of": at, "timeframes": views, "constraints": limits} | fields)


def point(hours: float, equity: str = "10000", decision=None, *, symbol: str = BTC, **fields: object) -> CycleRecord:
    """A decision point: carried out as asked unless the fields say else."""
    at, asked = START + timedelta(hours=hours), decision or hold(symbol, "")
    whole = {
        "cycle_id": f"{symbol[:3]}{hours:g}", "strategy": "default", "symbol": symbol, "as_of": at, "decider": "rules",
        "status": CycleStatus.EXECUTED if decision else CycleStatus.HELD, "snapshot": snapshot(symbol, at),
        "state": AccountState(equity=Decimal(equity)),
        "decided": Answer(decision=asked, source="rules", rung="primary"),
        "verdict": Verdict(allowed=True, decision=asked),
    }  # fmt: skip
    return CycleRecord(**(whole | fields))


def steps(*records: CycleRecord, plan: rl.SplitPlan = WHOLE, **more: object) -> list[rl.Row]:
    return [row for _, row in rl.transitions(records, plan, Counter(), **more)]


def test_the_spec_never_changes_without_its_name():
    document = rl.spec_document()
    assert (document["name"], rl.SPEC_SHA256[:12]) == ("state-v1", "af8229de9a13")
    assert document["actions"] == [action for action in ACTIONS if action != "REDUCE"]


def test_a_state_is_normalised_and_what_is_unknown_is_masked():
    values, unknown = rl.state(snapshot(BTC, START))
    of = dict(zip(rl.COMPONENTS, zip(values, unknown, strict=True), strict=True))
    assert of["5m.rsi"] == (pytest.approx(0.7616), False)
    assert of["15m.rsi"] == (0, False)
    assert of["1h.rsi"] == of["15m.swing.to_last_high_atr"] == of["orderbook.imbalance"] == (0, True)
    assert of["position.side"] == (0, False)
    assert rl.policy_input(values, unknown).shape == (1, 2 * len(rl.COMPONENTS))


def test_a_step_leads_to_the_next_decision_point_of_the_same_symbol():
    rows = steps(point(0), point(1, symbol=ETH), point(2, "10100"), point(3, symbol=ETH))
    [btc] = [row for row in rows if row["symbol"] == BTC]
    assert btc["next_as_of"] - btc["as_of"] == timedelta(hours=2)
    assert btc["elapsed_s"] == 7200
    assert btc["next_state"] == rl.state(snapshot(BTC, START))[0]
    assert btc["allowed"] == [action in ALLOWED for action in rl.CHOICES]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10**7), min_size=2, max_size=20))
def test_rewards_add_up_to_what_the_account_made(equities):
    rows = steps(*(point(k, str(equity)) for k, equity in enumerate(equities)))
    assert sum(row["reward"] for row in rows) == pytest.approx(math.log(equities[-1] / equities[0]), abs=1e-9)


def test_ruin_ends_it_and_nothing_comes_after():
    counts: Counter[str] = Counter()
    [(_, row)] = rl.transitions([point(0), point(1, "0"), point(2, "0")], WHOLE, counts)
    assert (row["reward"], row["terminated"], row["truncated"], row["done"]) == (rl.RUIN, True, False, True)
    assert counts["after_ruin"] == 1


def test_a_cycle_that_ended_before_the_question_is_counted_and_not_guessed():
    counts: Counter[str] = Counter()
    quiet = CycleRecord(
        cycle_id="q", strategy="default", symbol=BTC, as_of=START + timedelta(hours=1), status=CycleStatus.QUIET
    )
    rows = list(rl.transitions([point(0), quiet, point(2)], WHOLE, counts))
    assert [row["elapsed_s"] for _, row in rows] == [7200]
    assert counts == {"no_state:quiet": 1, "no_next": 1}


def test_records_that_go_back_in_time_are_refused():
    with pytest.raises(InputError, match="export one run at a time"):
        steps(point(2), point(1))


# --- what was done


def test_what_the_guard_denied_is_a_hold_that_was_asked_otherwise():
    denied = Verdict(allowed=False, decision=BUY, codes=(Code.LOW_CONFIDENCE,))
    [row] = steps(point(0, decision=BUY, verdict=denied, status=CycleStatus.DENIED), point(1))
    assert (row["action"], row["asked_action"], row["guard_rewrite"]) == ("HOLD", "OPEN_LONG", True)
    assert (row["size_pct"], row["asked_size_pct"], row["codes"]) == (None, 20.0, ["LOW_CONFIDENCE"])


def test_what_the_guard_clamped_is_the_clamped():
    less = Verdict(allowed=True, decision=BUY.model_copy(update={"size_pct": Decimal(5)}), codes=(Code.SIZE_CLAMPED,))
    [row] = steps(point(0, decision=BUY, verdict=less), point(1))
    assert (row["action_id"], row["size_pct"], row["asked_size_pct"], row["guard_rewrite"]) == (1, 5.0, 20.0, True)


@pytest.mark.parametrize("status", [CycleStatus.FAILED, CycleStatus.DRY_RUN])
def test_what_was_never_carried_out_is_a_hold(status):
    [row] = steps(point(0, decision=BUY, status=status), point(1))
    assert (row["action"], row["asked_action"]) == ("HOLD", "OPEN_LONG")


# --- the trade's R


def traded(pnl: str = "30", hours: float = 1.5, symbol: str = BTC, risk: int | None = 10) -> ClosedTrade:
    r = Decimal(pnl) / risk if risk else None
    return ClosedTrade(closed_at=START + timedelta(hours=hours), pnl=Decimal(pnl), symbol=symbol, outcome_r=r)


def bought(hours: float, decision=BUY) -> CycleRecord:
    """An entry of 2 at 100 with its stop at 95."""
    intent = OrderIntent(
        client_order_id="e", symbol=BTC, side="buy", type=OrderType.MARKET, quantity=Decimal(2), stop=Decimal(95)
    )
    fill = Fill(
        fill_id="f", venue_order_id="v", client_order_id="e", symbol=BTC, side="buy", quantity=Decimal(2),
        price=Decimal(100), at=START,
    )  # fmt: skip
    asked = Verdict(allowed=True, decision=decision, price=Decimal(101))
    return point(hours, decision=decision, verdict=asked, intents=(intent,), fills=(fill,))


def having(hours: float, *trades: ClosedTrade, **fields: object) -> CycleRecord:
    return point(hours, state=AccountState(closed_trades=trades), **fields)


def test_r_stands_on_the_step_on_which_the_trade_closed_and_names_its_entry():
    rows = steps(point(0), bought(1), having(2), having(3, traded("30", 2.5)), having(4, traded("30", 2.5)))
    assert [row["reward_r"] for row in rows] == [0, 0, 3.0, 0]
    assert [row["entry_cycle_id"] for row in rows] == [None, None, "BTC1", None]


def test_what_was_added_to_has_the_r_of_all_its_entries():
    """1 at 100 with its stop at 90 and 1 at 110 with its stop at 100, both sold at 120: 30 of 20."""
    more = Add.model_validate(BUY.model_dump(exclude={"action"}))
    rows = steps(bought(0), bought(1, more), having(2, traded("30", 1.5, risk=20)))
    assert [(row["reward_r"], row["entry_cycle_id"]) for row in rows] == [(0, None), (1.5, "BTC1")]


def test_the_r_of_trades_that_closed_together_adds_up_and_is_unknown_if_one_of_them_is():
    both = traded("30", 0.4), traded("-5", 0.5)
    assert steps(bought(0), having(1, *both))[0]["reward_r"] == 2.5
    assert steps(bought(0), having(1, *both, traded("1", 0.6, risk=None)))[0]["reward_r"] is None


def test_the_r_of_a_trade_recorded_before_outcomes_had_one_is_unknown():
    """What it was recorded with is before fees."""
    old = traded("30", 0.5, risk=None).model_copy(update={"r_multiple": Decimal("3.1")})
    assert steps(bought(0), having(1, old))[0]["reward_r"] is None


@pytest.mark.parametrize("way", [1, -1], ids=["oldest first", "newest first"])
def test_lists_of_closed_trades_may_be_in_either_order(way):
    lists = [[traded("10", 0.5)], [traded("10", 0.5), traded("-10", 1.5)]]
    rows = steps(bought(0), *(having(k, *trades[::way]) for k, trades in enumerate(lists, start=1)))
    assert [row["reward_r"] for row in rows] == [1.0, -1.0]


def test_a_list_that_may_have_lost_trades_leaves_r_unknown():
    [_, row] = steps(bought(0), having(1, traded("10", 0.5)), having(2, traded("20", 1.5)))
    assert row["reward_r"] is None
    assert row["reward_symbol"] is None


def test_another_symbols_trade_is_not_credited():
    [row] = steps(bought(0), having(1, traded(hours=0.5, symbol=ETH)))
    assert (row["reward_r"], row["entry_cycle_id"]) == (0.0, None)


def test_a_symbols_reward_is_its_own_trades_and_position_after_fees():
    held = HeldPosition(symbol=BTC, side="short", quantity=Decimal(2), avg_price=Decimal(100), mark_price=Decimal(90))
    position = Position(
        position_id="p", strategy="default", cycle_id="BTC0", symbol=BTC, side="short", quantity=Decimal(2),
        entry_quantity=Decimal(2), avg_price=Decimal(100), fees=Decimal(1), realized_pnl=Decimal(5), opened_at=START,
    )  # fmt: skip
    holding = {"inputs": Inputs(strategy="", position=position)}
    opened, closed = steps(
        point(0),
        point(1, "10500", state=AccountState(equity=Decimal(10500), positions=(held,)), **holding),
        having(2, traded("22", 1.5), traded("1000", 1.6, ETH)),
    )
    assert opened["reward_symbol"] == pytest.approx(math.log1p(24 / 10000))  # 2 x 10 + 5 - 1
    assert closed["reward_symbol"] == pytest.approx(math.log1p(-2 / 10500))  # 22 in the end, 24 were counted
    [unknown, _] = steps(point(0), point(1, state=AccountState(positions=(held,))), point(2))
    assert unknown["reward_symbol"] is None


# --- who decided


def test_the_behaviour_policy_is_named():
    call = ModelCall(role="single", model="m", prompt=PromptRef(name="single", version="v002", sha256="0"))
    told = Answer(decision=BUY, source="llm:m", rung="failover", model="m", calls=(call, call))
    [row] = steps(point(0, decision=BUY, decided=told, decider="llm:single"), point(1))
    assert (row["decider"], row["rung"], row["model"], row["prompt_version"]) == (
        "llm:single", "failover", "m", "single/v002",
    )  # fmt: skip
    assert (row["propensity"], row["propensity_kind"], row["confidence"]) == (None, None, 0.7)


@pytest.mark.parametrize(("decision", "share"), [(None, 0.5), (BUY, 0.25)])
def test_the_odds_of_random_are_known(decision, share):
    told = Answer(decision=decision or hold(BTC, ""), source="random", rung="primary")
    [row] = steps(point(0, decision=decision, decided=told), point(1))
    assert (row["asked_propensity"], row["asked_propensity_kind"]) == (share, "random")
    known = (share, "random") if decision else (None, None)  # what else would have been denied is HOLD too
    assert (row["propensity"], row["propensity_kind"]) == known


@pytest.mark.parametrize(("source", "own"), [("random", None), ("rules", 1.0)])
def test_propensity_is_of_the_action_beside_it_when_the_guard_denies(source, own):
    told = Answer(decision=BUY, source=source, rung="primary")
    denied = Verdict(allowed=False, decision=BUY, codes=(Code.LOW_CONFIDENCE,))
    [row] = steps(point(0, decision=BUY, decided=told, verdict=denied, status=CycleStatus.DENIED), point(1))
    assert (row["action"], row["asked_action"]) == ("HOLD", "OPEN_LONG")
    assert (row["propensity"], row["asked_propensity"]) == (own, 0.25 if source == "random" else 1.0)


def test_a_panels_propensity_is_the_share_of_votes_for_its_way():
    votes = {"technical": "bullish", "orderbook": "bullish", "sentiment": "bearish"}
    said = [ModelCall(role=r, model="m", raw_reply=f'{{"signal":"{v}","confidence":0.8}}') for r, v in votes.items()]
    told = Answer(decision=BUY, source="llm:panel", rung="primary", calls=tuple(said))
    [row] = steps(point(0, decision=BUY, decided=told), point(1))
    assert (row["propensity"], row["propensity_kind"]) == (pytest.approx(2 / 3), "analyst_share")


def voted(*actions: str | None, **fields: object) -> CycleRecord:
    """A model's decision with what each sample of its question asked for, of which the first decides."""
    of = {"OPEN_LONG": BUY, "HOLD": hold(BTC, ""), None: None}
    asked = of[actions[0]]
    votes = tuple(of[action] for action in actions)
    told = Answer(decision=asked, source="llm:m", rung="primary", votes=votes)
    return point(0, decision=asked if asked is BUY else None, decided=told, decider="llm:single", **fields)


def shares(row: rl.Row) -> dict[str, tuple]:
    names = {"behavior": "behavior", "asked_action": "asked", "action": ""}
    return {
        of: (row[of], row[f"{name}_propensity".lstrip("_")], row[f"{name}_propensity_kind".lstrip("_")])
        for of, name in names.items()
    }


def test_the_share_of_samples_is_the_propensity_of_a_models_answer():
    """Three of five say so; one of the others could not be read, and is a vote for nothing."""
    [row] = steps(voted("OPEN_LONG", "HOLD", "OPEN_LONG", None, "OPEN_LONG"), point(1))
    each = ("OPEN_LONG", pytest.approx(0.6), "vote_share")
    assert shares(row) == {"behavior": each, "asked_action": each, "action": each}
    assert (row["votes"], row["behavior_odds"][:2]) == (5, [0.2, pytest.approx(0.6)])
    assert sum(row["behavior_odds"]) == pytest.approx(0.8)


def test_doing_nothing_is_as_likely_as_the_votes_that_come_to_it():
    """Of four votes one holds, and two of the three entries are denied."""
    denied = {"verdict": Verdict(allowed=False, decision=BUY, codes=(Code.LOW_CONFIDENCE,))}
    record = voted("OPEN_LONG", "HOLD", "OPEN_LONG", "OPEN_LONG", status=CycleStatus.DENIED, **denied)
    [row] = steps(record, point(1))
    assert shares(row)["asked_action"] == ("OPEN_LONG", 0.75, "vote_share")
    assert shares(row)["action"] == ("HOLD", None, None), "who knows what the guard would have said to the others"
    judged = Foreseen(votes=("HOLD", "HOLD", "OPEN_LONG", "HOLD"))
    [row] = steps(record, point(1), foresight=lambda _: judged)
    assert shares(row)["action"] == ("HOLD", 0.75, "vote_share")


def test_what_random_would_have_come_to_is_known_where_the_guards_word_on_all_of_it_is():
    worth = {
        a: ActionValue(0.0, r, c) for a, r, c in (("HOLD", 0, "HOLD"), ("OPEN_LONG", 1, "HOLD"), ("PAUSE", 0, "PAUSE"))
    }
    told = Answer(decision=hold(BTC, ""), source="random", rung="primary")
    [row] = steps(point(0, decided=told), point(1), foresight=lambda _: Foreseen(worth))
    assert (row["propensity"], row["asked_propensity"]) == (0.75, 0.5)
    assert row["action_value_r"][:3] == [0.0, 1.0, None]


def test_a_fallback_is_not_what_the_behaviour_policy_answered():
    ruled = Answer(decision=BUY, source="rules", rung="rules")
    [row] = steps(point(0, decision=BUY, decided=ruled), point(1))
    assert (row["behavior"], row["behavior_odds"], row["asked_action"]) == (None, [None] * 11, "OPEN_LONG")


def test_rules_are_certain_but_not_as_a_fallback():
    ruled = Answer(decision=hold(BTC, ""), source="rules", rung="rules")
    first, second = steps(point(0), point(1, decided=ruled), point(2))
    assert (first["propensity"], second["propensity"], second["asked_propensity"]) == (1.0, None, None)


def test_what_others_would_have_earned_stands_beside():
    [row] = steps(point(0), point(1), scores=lambda cycle_id: {"hold": 0.1} if cycle_id == "BTC0" else {})
    assert row["counterfactual"] == [{"decider": "hold", "return_pct": 0.1}]


# --- splits


def test_the_longest_trade_is_from_its_opening_to_its_close_or_to_where_it_was_last_seen():
    held = HeldPosition(symbol=BTC, side="long", quantity=Decimal(2), avg_price=Decimal(100))
    seen = AccountState(positions=(held,), closed_trades=(traded(hours=0.2),))
    within = [bought(1), having(4, traded(hours=3.5))]
    assert rl.longest_trade([point(0), *within]) == timedelta(hours=2.5)
    assert rl.longest_trade([bought(1), point(2, state=seen), having(9, traded(hours=8))]) == timedelta(hours=7)
    assert rl.longest_trade([bought(1), point(2, state=seen), point(6, state=seen)]) == timedelta(hours=5)
    assert rl.longest_trade([point(0), point(1)]) == timedelta(0)
    assert rl.longest_trade([bought(1), point(3)]) == timedelta(0), "a limit that never filled"


def test_a_step_whose_values_look_across_a_cut_is_purged():
    plan = rl.SplitPlan(start=START, end=START + timedelta(hours=100), train=0.5, validation=0.25)
    counts: Counter[str] = Counter()
    known = Foreseen({"HOLD": ActionValue(0.0, 0.0, "HOLD")})
    found = list(rl.transitions((point(h) for h in range(0, 100, 10)), plan, counts, foresight=lambda _: known))
    trained = [row["as_of"] for split, row in found if split == "train"]
    assert max(trained) + HORIZON <= plan.cuts[0]
    assert counts["purged"] == 4  # 30 and 40 of the first cut, 60 and 70 of the second


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 40), min_size=2, max_size=60),
    st.floats(0.2, 0.7),
    st.floats(0.05, 0.25),
    st.integers(0, 60),
)
def test_no_step_of_a_split_is_within_the_embargo_of_the_one_before(gaps, train, validation, embargo):
    hours = [sum(gaps[:k]) for k in range(len(gaps) + 1)]
    end = START + timedelta(hours=hours[-1])
    plan = rl.SplitPlan(start=START, end=end, train=train, validation=validation, embargo=timedelta(hours=embargo))
    counts: Counter[str] = Counter()
    found = list(rl.transitions((point(h) for h in hours), plan, counts))
    assert len(found) + counts["purged"] + counts["embargoed"] == len(gaps)
    for (before, first), (after, second) in pairwise(found):
        assert rl.SPLITS.index(before) <= rl.SPLITS.index(after)
        assert first["truncated"] == (before != after)
        if before != after:
            assert second["as_of"] - first["next_as_of"] >= plan.embargo
    assert not found or found[-1][1]["done"]
    for split, row in found:
        assert plan.split_of(row["as_of"], row["next_as_of"]) == split


def test_no_more_than_a_step_or_two_per_symbol_is_held():
    taken = 0

    def records():
        nonlocal taken
        for k in range(50):
            for symbol in (BTC, ETH):
                taken += 1
                yield point(k, symbol=symbol)

    for done, _ in enumerate(rl.transitions(records(), WHOLE, Counter()), start=1):
        assert taken - done <= 2 * 2

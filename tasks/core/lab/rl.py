"""Cycle records as transitions for reinforcement learning, streamed: one open step per symbol is held, no more.

A **transition** goes from one decision point of a symbol to the next of the same strategy and symbol: decisions fall
where events do, so time between them varies (`elapsed_s`; a semi-Markov process). Every record with a snapshot and an
account is a decision point, HOLD included; one that ended before the question (quiet, stale, quarantined) has no state
and is counted, not guessed.

- **state**: each of `COMPONENTS` is tanh((x - centre) / scale) of a number of the snapshot; unknown is 0, with its mask
  set. Names and numbers are the spec `SPEC`, `SPEC_SHA256` its hash: data and models of another spec are refused.
- **action**: what was carried out, after the guard; HOLD where it denied or the venue refused. `asked_*` is what the
  behaviour policy said, `guard_rewrite` whether they differ, `codes` why.
- **behavior**: what the behaviour policy answered; null where a fallback stood in, or nobody was asked.
  **behavior_odds** has how likely it was to ask for each of CHOICES, null where unknown, **votes** of how many samples.
- **propensity**: how likely `action` was, as **asked_propensity** is of `asked_action` and **behavior_propensity** of
  `behavior`; each with its kind, see `propensity`. They are equal where the action was carried out that was asked for,
  however clamped. HOLD also comes of what the guard denies: how likely it was is known where the guard's word on all
  that could have been asked is.
- **action_value_pct**, **action_value_r**: for each of CHOICES what it would have made within a day, after costs, in
  percent of equity and in R; null where it was not allowed or is not known, see `action_values`.
- **reward**: ln(equity after / equity before), equity of the whole account at the two closes, marked to market, after
  fees, spread, impact and whatever funding the account paid. A step to ruin (equity <= 0) is `RUIN` and terminates.
- **reward_symbol**: the same of this symbol alone: its closed trades' pnl and its open position's, realized and not,
  after fees, as a share of the account's equity before. With several symbols on one account this is what a decision
  can be credited with; null where a record does not hold the position.
- **reward_r**: `outcome_r` of the symbol's trade that closed after this decision and up to the next: what it made after
  fees and funding, over what all its entries risked. It stands on the step on which the trade *closed*, and
  `entry_cycle_id` names the last entry sent before, whose trade it is: joined on it, R can be credited to the entry
  instead. 0 where nothing closed, null where the risk is unknown, as of trades recorded before `outcome_r`.
- **next_state**: the state at the next decision point. **terminated**: ruin. **truncated**: the last step of a symbol
  in its split. **done**: either.

Splits go by time: train, validation, test. A step that spans a cut, or whose action values look across it, is purged;
one that starts within `embargo` after a cut, which is as long as the longest trade, is left out: so what a split was
trained on is over before the next begins.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.core.decision import memory
from tasks.core.errors import InputError
from tasks.core.lab.action_values import HORIZON, Foreseen
from tasks.core.lab.propensity import analyst_share, carried_share, odds_of
from tasks.core.types import (
    ACTIONS,
    COLUMNS,
    ENTRIES,
    AccountState,
    ClosedTrade,
    CycleRecord,
    CycleStatus,
    Decision,
    Dto,
    Json,
    JsonObject,
    Snapshot,
    Utc,
    exact_sum,
    hold,
)

SPEC = "state-v1"
_UNIT, _Z, _ATR, _BARS = (0, 1), (0, 2), (0, 5), (0, 96)
COMPONENTS: dict[str, tuple[float, float]] = memory.COMPONENTS | {
    "5m.delta20": (0, 0.3), "5m.vwap_z": _Z, "5m.range_ratio": _UNIT, "15m.rsi_slope": (0, 5), "15m.macd_cross": _UNIT,
    "15m.obv_dir": _UNIT, "15m.swing.to_last_high_atr": _ATR, "15m.swing.to_last_low_atr": _ATR,
    "1h.vwap_z": _Z, "1h.rsi_slope": (0, 5), "4h.price_z20": _Z, "1d.price_z20": _Z, "1d.cloud_atr": _ATR,
    "htf_anchors.dist_to_prev_week_high_atr": _ATR, "htf_anchors.dist_to_prev_week_low_atr": _ATR,
    "htf_anchors.daily_open_z": _Z, "htf_anchors.weekly_open_z": _Z, "htf_anchors.rolling_vwap_1d_z": _Z,
    "orderbook.imbalance": (0, 0.5), "orderbook.spread_bps": (0, 5),
    "position.size_pct": (0, 50), "position.age_bars_5m": _BARS, "position.stop_atr": _ATR, "position.tp_atr": _ATR,
    "risk.daily_pnl_pct": _Z, "risk.max_drawdown_today_pct": _Z,
    "confluence.alignment": _UNIT, "confluence.momentum": _UNIT, "confluence.volume": _UNIT, "confluence.vwap": _UNIT,
    "confluence.book": _UNIT,
}  # fmt: skip
CHOICES = tuple(action for action in ACTIONS if action != "REDUCE")  # of a policy: that one is about the account
ACTION_IDS = {action: number for number, action in enumerate(CHOICES)} | {"REDUCE": CHOICES.index("HOLD")}
Row = Json


def spec_document() -> JsonObject:
    """Return the spec in full: what one must know to compute the same state elsewhere."""
    return {
        "name": SPEC,
        "transform": "round(tanh((x - centre) / scale), 4); unknown: 0 and its mask 1; side: flat 0, long 1, short -1",
        "features": [{"name": n, "centre": float(c), "scale": float(s)} for n, (c, s) in COMPONENTS.items()],
        "actions": list(CHOICES),
    }


SPEC_SHA256 = hashlib.sha256(json.dumps(spec_document(), separators=(",", ":")).encode()).hexdigest()


def state(snapshot: Snapshot) -> tuple[list[float], list[bool]]:
    """Return the state's values and, for each, whether it is unknown."""
    values = memory.components(snapshot, COMPONENTS)
    return [0.0 if value is None else value for value in values], [value is None for value in values]


def policy_input(values: npt.ArrayLike, unknown: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return what a policy reads: the values, then the mask of the unknown, (rows, 2 x features)."""
    parts = (np.atleast_2d(np.asarray(part, dtype=np.float32)) for part in (values, unknown))
    return np.concatenate(tuple(parts), axis=1)


def allowed_mask(snapshot: Snapshot) -> list[bool]:
    """Return, for each of CHOICES, whether it was open; doing nothing always is."""
    return [action == "HOLD" or action in snapshot.constraints.allowed_actions for action in CHOICES]


def parameters(decision: Decision) -> Row:
    """Return an action's id, name and numbers as columns; what the action does not have is null."""
    numbers = {name: getattr(decision, name, None) for name in ("size_pct", "stop_atr", "tp_atr", "minutes")}
    entry, to = getattr(decision, "entry", None), getattr(decision, "to", None)
    numbers |= {"offset_bps": entry.offset_bps if entry else None, "stop_to_atr": to.x if to else None}
    return {
        "action_id": ACTION_IDS[decision.action],
        "action": decision.action,
        **{name: None if value is None else float(value) for name, value in numbers.items()},
        "entry_type": entry.type if entry else None,
        "stop_to": to.kind if to else None,
        "followups": list(getattr(decision, "followups", ())),
    }


RUIN = -10.0
SPLITS = ("train", "validation", "test")

Scores = Callable[[str], Mapping[str, float]]
Foresight = Callable[[CycleRecord], Foreseen]


class SplitPlan(Dto):
    """Where the cuts are: shares of the time from the first record to the last."""

    start: Utc
    end: Utc
    train: float = 0.7
    validation: float = 0.15
    embargo: timedelta = timedelta(0)  # as long as the longest trade

    @property
    def cuts(self) -> tuple[datetime, datetime]:
        whole = self.end - self.start
        return self.start + whole * self.train, self.start + whole * (self.train + self.validation)

    def split_of(self, at: datetime, until: datetime) -> str:
        """Return the split of a step, or why it is in none: `purged` (spans a cut) or `embargoed`."""
        for cut in self.cuts:
            if at < cut < until:
                return "purged"
            if cut <= at < cut + self.embargo:
                return "embargoed"
        return SPLITS[sum(cut <= at for cut in self.cuts)]


class _Step(NamedTuple):
    """A decision point that waits for its next."""

    as_of: datetime
    equity: float
    closed: tuple[ClosedTrade, ...]
    open_gain: float | None
    entered: bool  # sent an entry
    until: datetime  # how far what is known of it looks ahead
    row: Row


def transitions(
    records: Iterable[CycleRecord], plan: SplitPlan, counts: Counter[str], scores: Scores = lambda _: {},
    foresight: Foresight = lambda _: Foreseen(),
) -> Iterator[tuple[str, Row]]:  # fmt: skip
    """Yield (split, row) for every transition in a split; `counts` gets what was left out, and why.

    records: of each strategy and symbol oldest first. scores: cycle_id -> what other deciders' answers would have
    earned there, in percent of equity. foresight: what each allowed action would have been worth. Raises InputError
    where time goes back.
    """
    before: dict[tuple[str, str], _Step] = {}
    entries: dict[tuple[str, str], str] = {}  # the cycle of the last one sent
    pending: dict[tuple[str, str], tuple[str, Row]] = {}
    for record in records:
        key, step = (record.strategy, record.symbol), _step(record, scores, foresight)
        if step is None:
            counts[f"no_state:{record.status}"] += 1
            continue
        last, before[key] = before.get(key), step
        if last is not None and last.equity <= 0:
            counts["after_ruin"] += 1
        elif last is not None:
            if record.as_of <= last.as_of:
                raise InputError(
                    f"records go back in time: {record.strategy} {record.symbol} at {record.as_of.isoformat()} follows "
                    f"{last.as_of.isoformat()}; export one run at a time"
                )
            if last.entered:
                entries[key] = last.row["cycle_id"]
            split = plan.split_of(last.as_of, max(step.as_of, last.until))
            if key in pending:
                yield _ended(*pending.pop(key), split)
            if split in SPLITS:
                pending[key] = split, _row(last, step, record.symbol, entries.get(key))
            else:
                counts[split] += 1
    for split, row in pending.values():
        yield _ended(split, row, "")
    counts["no_next"] += len(before)


def _ended(split: str, row: Row, following: str) -> tuple[str, Row]:
    row["truncated"] = split != following and not row["terminated"]
    row["done"] = row["truncated"] or row["terminated"]
    return split, row


def _row(last: _Step, step: _Step, symbol: str, entry: str | None) -> Row:
    closed, ruined = _closed_between(last, step, symbol), step.equity <= 0
    rs = None if closed is None else [trade.outcome_r for trade in closed]
    made = None if closed is None else exact_sum(trade.pnl for trade in closed)
    alone = None
    if made is not None and last.open_gain is not None and step.open_gain is not None:
        gain = step.open_gain - last.open_gain + float(made)
        alone = math.log1p(gain / last.equity) if gain > -last.equity else RUIN
    return last.row | {
        "next_as_of": step.as_of,
        "elapsed_s": int((step.as_of - last.as_of).total_seconds()),
        "equity_before": last.equity,
        "equity_after": step.equity,
        "reward": RUIN if ruined else math.log(step.equity / last.equity),
        "reward_symbol": alone,
        "reward_r": None if rs is None or None in rs else float(exact_sum(filter(None, rs))),
        "entry_cycle_id": entry if closed else None,
        "terminated": ruined,
        **{f"next_{name}": step.row[name] for name in ("state", "state_unknown", "allowed")},
    }


def _open_gain(record: CycleRecord, account: AccountState) -> float | None:
    """Return what the symbol's open position has made so far, after fees; None if the record does not hold it."""
    holding = account.position(record.symbol)
    if holding is None:
        return 0.0
    position, mark = record.inputs.position if record.inputs else None, holding.mark_price or account.last_price
    if position is None or mark is None:
        return None
    move = (mark - position.avg_price) * (1 if position.side == "long" else -1)
    return float(position.realized_pnl - position.fees + move * position.quantity)


def _closed_between(last: _Step, step: _Step, symbol: str) -> list[ClosedTrade] | None:
    """Return the symbol's trades the later account lists and the earlier did not; None if it may have lost some.

    Both have the last so many, in either order: where all are new, some may have come and gone between them.
    """
    until = max((trade.closed_at for trade in last.closed), default=last.as_of)
    new = [t for t in step.closed if t.closed_at > until or (t.closed_at == until and t not in last.closed)]
    if last.closed and len(new) == len(step.closed):
        return None
    return [trade for trade in new if trade.symbol in (symbol, "")]


def _step(record: CycleRecord, scores: Scores, foresight: Foresight) -> _Step | None:
    snapshot, account = record.snapshot, record.state
    if snapshot is None or account is None:
        return None
    values, unknown = state(snapshot)
    view = snapshot.timeframes.get("5m")
    last = view.last3[-1] if view and view.last3 else (None,) * 5
    verdict, asked = record.verdict, record.decided.decision if record.decided else hold(record.symbol, "not asked")
    sent = record.status in (CycleStatus.EXECUTED, CycleStatus.HELD) or record.fills
    done = verdict.decision if verdict and verdict.allowed and sent else None
    carried = done or hold(record.symbol, "nothing was carried out")
    foreseen = foresight(record)
    worth = [foreseen.by_action.get(action) for action in CHOICES]
    row = {
        "cycle_id": record.cycle_id, "strategy": record.strategy, "symbol": record.symbol, "as_of": record.as_of,
        "state": values, "state_unknown": unknown, "allowed": allowed_mask(snapshot),
        **parameters(carried),
        **{f"asked_{name}": value for name, value in parameters(asked).items()},
        "guard_rewrite": parameters(carried) != parameters(asked),
        "codes": [code.value for code in verdict.codes] if verdict else [],
        "status": record.status.value,
        "counterfactual": [{"decider": d, "return_pct": pct} for d, pct in scores(record.cycle_id).items()],
        "action_value_pct": [None if each is None else each.pct for each in worth],
        "action_value_r": [None if each is None else each.r for each in worth],
        **_behaviour(record, carried, foreseen),
        **dict(zip(COLUMNS, last, strict=True)),
    }  # fmt: skip
    gain = _open_gain(record, account)
    entered = isinstance(carried, ENTRIES) and any(not intent.reduce_only for intent in record.intents)
    until = record.as_of + HORIZON if foreseen.by_action else record.as_of
    return _Step(record.as_of, float(account.equity), account.closed_trades, gain, entered, until, row)


def _behaviour(record: CycleRecord, carried: Decision, foreseen: Foreseen) -> Row:
    row: Row = {"decider": record.decider, **dict.fromkeys(("source", "rung", "model", "prompt_version"), "")}
    row |= dict.fromkeys(("behavior", "votes", "confidence"))
    row["behavior_odds"] = [None] * len(CHOICES)  # never null itself: Arrow reads no null list of a fixed size
    row |= {f"{of}propensity{kind}": None for of in ("behavior_", "asked_", "") for kind in ("", "_kind")}
    if (decided := record.decided) is None:
        return row
    asked, odds, share = decided.decision.action, odds_of(record, decided), analyst_share(record, decided)
    if not decided.is_fallback:
        row["behavior"] = asked
    if odds is not None:
        row |= _known("behavior_", odds.by_action[asked], odds.kind) | _known(
            "asked_", odds.by_action[asked], odds.kind
        )
        row |= _known("", carried_share(odds, foreseen, asked, carried.action), odds.kind)
        row["behavior_odds"] = [odds.by_action.get(action, 0.0) for action in CHOICES]
    elif share is not None:
        row |= _known("behavior_", share, "analyst_share") | _known("asked_", share, "analyst_share")
        row |= _known("", share if asked == carried.action != "HOLD" else None, "analyst_share")
    row |= {name: getattr(decided, name) for name in ("source", "rung", "model")}
    return row | {
        "votes": len(decided.votes) or None,
        "prompt_version": ", ".join(map(str, decided.prompts)),
        "confidence": float(decided.decision.confidence),
    }


def _known(of: str, share: float | None, kind: str) -> Row:
    return {f"{of}propensity": share, f"{of}propensity_kind": None if share is None else kind}


def longest_trade(records: Iterable[CycleRecord]) -> timedelta:
    """Return how long the longest trade lasted: from its opening to its close, or to where it was last seen open.

    records: of each strategy and symbol oldest first. Zero where nothing was traded.
    """
    longest = timedelta(0)
    opened: dict[tuple[str, str], tuple[datetime, bool]] = {}  # since when, and whether it was seen open
    for record in records:
        key, account = (record.strategy, record.symbol), record.state
        if account is None:
            continue
        since, seen = opened.pop(key, (record.as_of, False))
        held, position = account.position(record.symbol), record.inputs.position if record.inputs else None
        closed = [t.closed_at for t in account.closed_trades if t.closed_at > since and t.symbol in (record.symbol, "")]
        longest = max(longest, min(closed, default=record.as_of if seen else since) - since)
        if held is not None:
            since = position.opened_at if position else since
            longest, opened[key] = max(longest, record.as_of - since), (since, True)
        elif record.status is CycleStatus.EXECUTED and any(not intent.reduce_only for intent in record.intents):
            opened[key] = record.as_of, False
    return longest

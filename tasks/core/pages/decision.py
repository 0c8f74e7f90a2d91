"""The page a person reads about one decision, and the line that stands for it in a log.

Everything comes from the CycleRecord. What a model, a provider or a venue wrote is hostile until escaped: it may not
become a heading, a link, an image, HTML or another table row, nor hide characters that change how a line reads.
"""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from tasks.core.pages import inert
from tasks.core.pages.markdown import table
from tasks.core.pages.numbers import UNKNOWN, fixed, money, plain, price, usd
from tasks.core.trading.ledger import is_valued
from tasks.core.types import (
    ZERO,
    Answer,
    CycleRecord,
    Decision,
    HeldPosition,
    JsonObject,
    OpenLong,
    OpenShort,
    Order,
    OrderIntent,
    Outcome,
    Snapshot,
    Verdict,
    base_of,
    direction,
    quote_of,
    stop_distance,
)

MAX_TEXT = 4000
_LINE_START = re.compile(r"^(\d*)([-+=.)])")
_ABOUT = {"symbol", "confidence", "comment", "reasoning", "key_factors", "risk_assessment", "source"}


def to_markdown(record: CycleRecord, outcome: Outcome | None = None, chart: str = "", trace: str = "") -> str:
    """Write the page about one cycle; stages that did not happen are left out. chart, trace: URLs of our own."""
    reasons = [f"- {inert.markdown(str(reason))}{' (context)' if reason.context else ''}" for reason in record.reasons]
    failures = [(f.timeframe, f.expectation, f.count, "; ".join(f.rows)) for f in record.failures]
    fills = []
    for f in record.fills:
        fee = f"{money(f.fee, f.fee_currency)}{'' if is_valued(f) else ' (unvalued)'}"
        size = f"{plain(f.quantity)} {base_of(f.symbol)}, {money(f.quantity * f.price, quote_of(f.symbol))}"
        fills.append((f.at, f.side, size, price(f.price), fee, f.liquidity))
    return (
        _joined(
            _headline(record, trace),
            _titled("## Why it was asked", "\n".join(reasons)),
            _titled("## Data that failed", _table(("timeframe", "expectation", "bars", "first of them"), failures)),
            chart and f"![chart]({chart})",
            _titled("## What it saw", _seen(record, record.snapshot) if record.snapshot else ""),
            _titled("## What was decided", _decided(record.decided) if record.decided else ""),
            _titled("## What the guard said", _verdict(record, record.verdict) if record.verdict else ""),
            _titled("## What was sent", _sent(record.intents, record.orders)),
            _titled("## What was filled", _table(("at", "side", "size", "price", "fee", "liquidity"), fills)),
            _titled("## What became of it", _outcome(outcome) if outcome else ""),
            _titled("## What went wrong", _quote(record.error)),
        )
        + "\n"
    )


def title(record: CycleRecord) -> str:
    """Say in a line which symbol, when, what was decided and what came of it, for a list of pages; not yet escaped."""
    action = record.decided.decision.action if record.decided else "no decision"
    return f"{record.symbol} {_time(record.as_of)}: {action}, {record.status.replace('_', ' ')}"


def summary_line(record: CycleRecord) -> str:
    """Return the cycle as one line of key=value, for logs and the command line."""
    decided, verdict = record.decided, record.verdict
    facts = {
        "symbol": record.symbol,
        "as_of": record.as_of.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": record.status,
    }
    if decided:
        facts |= {"action": decided.decision.action, "source": decided.source, "rung": decided.rung}
    if verdict:
        facts |= {"allowed": str(verdict.allowed).lower(), "codes": ",".join(verdict.codes) or "-"}
        facts |= {"quantity": plain(verdict.quantity)} if verdict.quantity else {}
    if record.failures:
        facts["failures"] = ",".join(sorted({failure.expectation for failure in record.failures}))
    facts["cycle_id"] = record.cycle_id
    line = " ".join(f"{key}={'_'.join(inert.visible(str(value)).split())}" for key, value in facts.items())
    remark = record.error or (decided.decision.comment if decided else "")
    if not remark:
        return line
    quoted = json.dumps(inert.visible(remark).strip()[:200], ensure_ascii=False)  # one line, whatever is in it
    return f"{line} {'error' if record.error else 'comment'}={quoted}"


def proposed(record: CycleRecord) -> str:
    """Say in a sentence what waits for a person."""
    assert record.decided is not None  # a proposal was decided and judged
    assert record.verdict is not None
    decision, verdict = record.decided.decision, record.verdict
    parts = [f"{decision.action} {record.symbol}"]
    if verdict.quantity:
        value = money(verdict.quantity * (verdict.price or ZERO), quote_of(record.symbol))
        parts += [f"{plain(verdict.quantity)} {base_of(record.symbol)} at about {price(verdict.price)} ({value})"]
    parts += [f"{name} {price(level)}" for name, level in (("stop", verdict.stop), ("target", verdict.target)) if level]
    if verdict.trade_risk_pct:
        parts.append(f"risk {fixed(verdict.trade_risk_pct)} % of equity")
    return f"{', '.join(parts)}: {inert.visible(decision.comment or decision.reasoning or 'no reason was given')}."


def position_after(record: CycleRecord) -> HeldPosition | None:
    """Return the symbol's position with the levels that the verdict gives it, or the one that an entry would open."""
    position, verdict = record.state.position(record.symbol) if record.state else None, record.verdict
    if verdict is None or not verdict.allowed:
        return position
    if position is not None:
        return position.replace(stop=verdict.stop or position.stop, target=verdict.target or position.target)
    if isinstance(verdict.decision, OpenLong | OpenShort) and verdict.price:
        side = verdict.decision.side
        return HeldPosition.of(verdict, symbol=record.symbol, side=side, avg_price=verdict.price)
    return None


# --- the parts of the page


def _headline(record: CycleRecord, trace: str) -> str:
    facts = [
        f"strategy {inert.markdown(record.strategy)}",
        f"decider {inert.markdown(record.decider) or UNKNOWN}",
        f"started by {record.trigger}",
        f"cycle {inert.markdown(record.cycle_id)}",
        *([f"[trace in MLflow]({trace})"] if trace else ()),
    ]
    return f"# {inert.markdown(title(record))}\n\n{record.status.meaning}\n\n{' · '.join(facts)}"


def _seen(record: CycleRecord, snapshot: Snapshot) -> str:
    head = ("timeframe", "close", "RSI", "MACD hist", "MA stack", "price z20", "ATR %")
    rows = [
        (
            name,
            price(v.close),
            v.rsi,
            v.macd_hist,
            v.ma_stack and v.ma_stack.replace(">", " › "),
            v.price_z20,
            v.atr_pct,
        )
        for name, v in snapshot.timeframes.items()
    ]
    c, p, r, book = snapshot.confluence, snapshot.position, snapshot.risk, snapshot.orderbook
    votes = {"alignment": c.alignment, "momentum": c.momentum, "volume": c.volume, "VWAP": c.vwap, "book": c.book}
    shown = ", ".join(f"{name} {UNKNOWN if vote is None else format(vote, '+d')}" for name, vote in votes.items())
    held = record.state.position(record.symbol) if record.state else None
    open_pnl = None
    if held and held.mark_price:
        open_pnl = (held.mark_price - held.avg_price) * held.quantity * direction(held.side)
    position = (
        f"{p.side} {plain(p.size_pct, 4)} % of equity at {price(p.avg_price)}, open PnL "
        f"{money(open_pnl, quote_of(record.symbol), sign=True)} ({plain(p.unrealized_R, 3)} R), "
        f"open for {_text(p.age_bars_5m)} bars of 5m, "
        f"stop {plain(p.stop_atr, 3)} ATR and target {plain(p.tp_atr, 3)} ATR away"
    )
    today = f"today {plain(r.daily_pnl_pct, 3)} %, worst drawdown today {plain(r.max_drawdown_today_pct, 3)} %"
    return _table(head, rows) + (
        f"\n\n- Confluence: {c.signed:+d} of 5 ({shown})\n- Position: {'flat' if p.side == 'flat' else position}\n"
        f"- Risk: {today}, mode {r.risk_mode}\n"
        f"- Book{' (modelled)' if record.modelled_book else ''}: imbalance {plain(book.imbalance, 3)}, spread "
        f"{plain(book.spread_bps, 3)} bps, slippage for our size {plain(book.slippage_bps_for_size, 3)} bps"
    )


def _decided(a: Answer) -> str:
    d = a.decision
    asked = "".join(f", {name} {inert.markdown(value)}" for name, value in _parameters(d).items())
    calls = [
        (
            call.role,
            call.model,
            call.prompt and f"{call.prompt.name}/{call.prompt.version} ({call.prompt.sha256[:8]})",
            call.latency_ms / 1000,
            f"{_part(call.tokens_in, call.cached_tokens, 'cached')} / "
            f"{_part(call.tokens_out, call.thinking_tokens, 'thinking')}",
            usd([call]),
            call.error[:200] or "none",
        )
        for call in a.calls
    ]
    tools = [
        (
            tool.tool,
            ", ".join(f"{name}={value}" for name, value in tool.parameters.items()),
            tool.error[:200] or f"{tool.bytes} bytes{', cut' if tool.truncated else ''}",
            tool.latency_ms / 1000,
        )
        for tool in a.tool_calls
    ]
    return _joined(
        f"**{inert.markdown(d.action)}**{asked}, confidence {plain(d.confidence)}",
        _titled("Comment:", _quote(d.comment)),
        _titled("Reasoning:", _quote(d.reasoning)),
        _titled("Key factors:", _quoted_list(d.key_factors)),
        _titled("Risk assessment:", _quote(d.risk_assessment)),
        f"From {inert.markdown(a.source)}, rung {inert.markdown(a.rung)}, model {inert.markdown(a.model) or UNKNOWN}: "
        f"{plain(a.latency_ms / 1000, 3)} s, {usd(a.calls)}, {a.tokens} tokens.",
        _table(("role", "model", "prompt", "seconds", "tokens in / out", "cost", "error"), calls),
        *(_titled(f"Thinking of {inert.markdown(call.role)}:", _quote(call.thinking)) for call in a.calls),
        _table(("tool", "asked", "answered", "s"), tools),
        _titled("Flags:", _quoted_list(a.flags)),
        _titled("Errors on the way:", _quoted_list(a.errors)),
    )


def _part(tokens: int, part: int, what: str) -> str:
    return f"{tokens} ({part} {what})" if part else str(tokens)


def _verdict(record: CycleRecord, verdict: Verdict) -> str:
    decided, quote = record.decided, quote_of(record.symbol)
    asked = _parameters(decided.decision) if decided else {}
    allowed = _parameters(verdict.decision)
    changed = [(k, asked.get(k), v) for k, v in allowed.items() if decided and asked.get(k) != v]
    answer = "Denied." if not verdict.allowed else "Allowed, with changes." if verdict.codes else "Allowed."
    codes = [
        (check.code, check.code.meaning, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in check.inputs.items()))
        for check in verdict.checks
        if check.fired
    ]
    unread = [(each.text[:200], each.reason) for each in verdict.unread]
    at, equity = verdict.price, record.state.equity if record.state else None
    worth = at and money(at * verdict.quantity, quote)
    numbers = {
        "size": f"{plain(verdict.quantity)} {base_of(record.symbol)}, {worth or UNKNOWN}",
        "price": price(at),
        "stop": price(verdict.stop),
        "target": price(verdict.target),
        "reward / risk": _reward_risk(verdict),
        "risk of this trade": _share(verdict.trade_risk_pct, equity, quote),
        "risk of everything open with it": _share(verdict.total_risk_pct, equity, quote),
    }
    sends = verdict.allowed and any((verdict.quantity, verdict.stop, verdict.target))
    return _joined(
        f"**{answer}**",
        _table(("", "asked", "allowed"), changed),
        _table(("code", "meaning", "compared"), codes),
        _titled("Follow-ups that nobody will carry out:", _table(("said", "why"), unread)),
        _table(("as allowed", ""), numbers.items() if sends else ()),
    )


def _reward_risk(verdict: Verdict) -> str:
    """Return how many times an entry's target is as far away as its stop."""
    if not isinstance(verdict.decision, OpenLong | OpenShort) or verdict.price is None or verdict.target is None:
        return UNKNOWN
    risk = stop_distance(verdict.decision.side, verdict.price, verdict.stop)
    return plain(float((verdict.target - verdict.price) / risk), 3) if risk else UNKNOWN


def _share(pct: Decimal, equity: Decimal | None, quote: str) -> str:
    of = f" ({money(equity * pct / 100, quote)})" if equity else ""
    return f"{plain(float(pct), 3)} % of equity{of}"


def _sent(intents: Sequence[OrderIntent], orders: Sequence[Order]) -> str:
    by_id = {order.client_order_id: order for order in orders}
    rows: list[Sequence[object]] = []
    for i in intents:
        answer: Sequence[object] = (None, "no answer recorded", None, None)
        if order := by_id.get(i.client_order_id):
            status = f"{order.status}{f': {order.reason}' if order.reason else ''}"
            answer = (order.venue_order_id, status, plain(order.filled), price(order.avg_price))
        what = f"{i.side} {i.type}{' reduce-only' if i.reduce_only else ''}"
        rows.append((i.client_order_id, what, plain(i.quantity), *map(price, (i.price, i.stop, i.target)), *answer))
    head = ("our id", "order", "quantity", "price", "stop", "target", "venue id", "status", "filled", "average")
    return _table(head, rows)


def _outcome(o: Outcome) -> str:
    quote = quote_of(o.symbol)
    return (
        f"Closed at {_time(o.closed_at)} after {o.hold_seconds // 3600} h {o.hold_seconds % 3600 // 60} min: "
        f"entry {price(o.entry_price)}, exit {price(o.exit_price)}, "
        f"**PnL {money(o.pnl, quote, sign=True)}** after fees of {money(o.fees, quote)} "
        f"({fixed(o.pnl_pct, sign=True)} % of the entry notional), {fixed(o.outcome_r, sign=True)} R."
    )


# --- words and escaping


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _titled(title: str, body: str) -> str:
    return f"{title}\n\n{body}" if body else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table; empty without rows."""
    body = [map(_text, row) for row in rows]
    return table(head, body) if body else ""


def _text(value: object) -> str:
    if value is None or isinstance(value, Decimal | float):
        return plain(value, 3)
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return _time(value) if isinstance(value, datetime) else str(value)


def _quote(text: str) -> str:
    """Return foreign text as a blockquote in which nothing is markup; empty for none."""
    shown = text[:MAX_TEXT] + (f"\n… and {len(text) - MAX_TEXT} more characters" if len(text) > MAX_TEXT else "")
    return "\n".join(f"> {_line(line)}".rstrip() for line in shown.strip().splitlines())


def _quoted_list(texts: Sequence[str]) -> str:
    return "\n".join(f"> - {_line(' '.join(text.split())[:MAX_TEXT])}" for text in texts if text.strip())


def _line(text: str) -> str:
    """Escape a text that stands at the start of a line, where a dash or a number would begin a list."""
    return _LINE_START.sub(lambda hit: f"{hit[1]}&#{ord(hit[2])};", inert.markdown(text).strip())


def _parameters(decision: Decision) -> dict[str, str]:
    """Return what the action asks for, flat and as text, not yet escaped."""
    flat: JsonObject = {}
    for name, value in decision.model_dump(exclude=_ABOUT | {"action"}).items():
        flat |= {f"{name} {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return {name.replace("_", " "): _text(value) for name, value in flat.items() if value not in ((), None)}


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC") if not at.second else at.strftime("%Y-%m-%d %H:%M:%S UTC")

"""The page a person reads about one decision, and the line that stands for it in a log.

Everything comes from the CycleRecord. What a model, a provider or a venue wrote is hostile until escaped: it may not
become a heading, a link, an image, HTML or another table row, nor hide characters that change how a line reads.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from tasks.core.pages.explanations import CODES, STATUSES
from tasks.core.pages.numbers import UNKNOWN, plain
from tasks.core.types.decision import Answer, Decision, ModelCall, OpenLong, OpenShort, ToolCall
from tasks.core.types.orders import Fill, Order, OrderIntent, PositionSide
from tasks.core.types.portfolio import HeldPosition
from tasks.core.types.question import Reason
from tasks.core.types.record import CycleRecord, DataFailure, Outcome
from tasks.core.types.snapshot import Confluence, PositionView, RiskView, Snapshot
from tasks.core.types.verdict import Check, Verdict

MAX_TEXT = 4000
# An underscore inside a word (OPEN_LONG) is never markup; "//" after ":" and "." after "www" would become links.
_ACTIVE = re.compile(r"[\\`*\[\]<>&|~#!@$]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=www)\.", re.IGNORECASE)
_LINE_START = re.compile(r"^(\d*)([-+=.)])")
_ABOUT = {"symbol", "confidence", "comment", "reasoning", "key_factors", "risk_assessment", "source"}


def to_markdown(record: CycleRecord, outcome: Outcome | None = None, chart: str = "") -> str:
    """Write the page about one cycle; stages that did not happen are left out. chart: a picture's URL, our own."""
    decided, verdict = record.decided, record.verdict
    parts = [
        _headline(record),
        _section("Why it was asked", _reasons(record.reasons)),
        _section("Data that failed", _failures(record.failures)),
        f"![chart]({chart})" if chart else "",
        _section("What it saw", _seen(record.snapshot, record.modelled_book) if record.snapshot else ""),
        _section("What was decided", _decided(decided) if decided else ""),
        _section("What the guard said", _verdict(verdict, decided) if verdict else ""),
        _section("What was sent", _sent(record.intents, record.orders)),
        _section("What was filled", _fills(record.fills)),
        _section("What became of it", _outcome(outcome) if outcome else ""),
        _section("What went wrong", _quote(record.error)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary_line(record: CycleRecord) -> str:
    """Return the cycle as one line of key=value, for logs and the command line."""
    decided, verdict = record.decided, record.verdict
    facts: dict[str, object] = {
        "symbol": record.symbol,
        "as_of": record.as_of.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": record.status.value,
    }
    if decided:
        facts |= {"action": decided.decision.action, "source": decided.source, "rung": decided.rung}
    if verdict:
        facts |= {"allowed": str(verdict.allowed).lower(), "codes": ",".join(verdict.codes) or "-"}
        facts |= {"quantity": plain(verdict.quantity)} if verdict.quantity else {}
    if record.failures:
        facts["failures"] = ",".join(sorted({failure.expectation for failure in record.failures}))
    facts["cycle_id"] = record.cycle_id
    line = " ".join(f"{key}={'_'.join(_visible(str(value)).split())}" for key, value in facts.items())
    said = record.error or (decided.decision.comment if decided else "")
    return f"{line} {'error' if record.error else 'comment'}={_quoted(said)}" if said else line


def position_after(record: CycleRecord) -> HeldPosition | None:
    """Return the symbol's position with the levels that the verdict gives it, or the one that an entry would open."""
    held, verdict = record.state.position(record.symbol) if record.state else None, record.verdict
    if verdict is None or not verdict.allowed:
        return held
    if held is not None:
        return held.model_copy(update={"stop": verdict.stop or held.stop, "target": verdict.target or held.target})
    if isinstance(verdict.decision, OpenLong | OpenShort) and verdict.price:
        side: PositionSide = "long" if isinstance(verdict.decision, OpenLong) else "short"
        return HeldPosition(
            symbol=record.symbol, side=side, quantity=verdict.quantity, avg_price=verdict.price,
            stop=verdict.stop, target=verdict.target,
        )  # fmt: skip
    return None


# --- the parts of the page


def _headline(record: CycleRecord) -> str:
    action = record.decided.decision.action if record.decided else "no decision"
    facts = [
        f"As of {_time(record.as_of)}",
        f"strategy {_escape(record.strategy)}",
        f"decider {_escape(record.decider) or UNKNOWN}",
        f"started by {record.trigger}",
        f"cycle {_escape(record.cycle_id)}",
    ]
    title = f"# {_escape(record.symbol)}: {_escape(action)}, {record.status.value.replace('_', ' ')}"
    return f"{title}\n\n{STATUSES[record.status]}\n\n{' · '.join(facts)}"


def _reasons(reasons: Sequence[Reason]) -> str:
    return "\n".join(f"- {_escape(str(reason))}{' (context)' if reason.context else ''}" for reason in reasons)


def _failures(failures: Sequence[DataFailure]) -> str:
    rows = [(f.timeframe, f.expectation, str(f.count), "; ".join(f.rows)) for f in failures]
    return _table(("timeframe", "expectation", "bars", "first of them"), rows)


def _seen(snapshot: Snapshot, modelled_book: bool) -> str:
    rows = [
        (
            name,
            plain(view.close),
            plain(view.rsi, 3),
            plain(view.macd_hist, 3),
            (view.ma_stack or UNKNOWN).replace(">", " › "),
            plain(view.price_z20, 3),
            plain(view.atr_pct, 3),
        )
        for name, view in snapshot.timeframes.items()
    ]
    book = snapshot.orderbook
    lines = [
        f"- Confluence: {_confluence(snapshot.confluence)}",
        f"- Position: {_position(snapshot.position)}",
        f"- Risk: {_risk(snapshot.risk)}",
        f"- Book{' (modelled)' if modelled_book else ''}: imbalance {plain(book.imbalance, 3)}, spread "
        f"{plain(book.spread_bps, 3)} bps, slippage for our size {plain(book.slippage_bps_for_size, 3)} bps",
    ]
    head = ("timeframe", "close", "RSI", "MACD hist", "MA stack", "price z20", "ATR %")
    return _table(head, rows) + "\n\n" + "\n".join(lines)


def _confluence(c: Confluence) -> str:
    votes = {"alignment": c.alignment, "momentum": c.momentum, "volume": c.volume, "VWAP": c.vwap, "book": c.book}
    parts = ", ".join(f"{name} {UNKNOWN if vote is None else format(vote, '+d')}" for name, vote in votes.items())
    return f"{c.signed:+d} of 5 ({parts})"


def _position(p: PositionView) -> str:
    if p.side == "flat":
        return "flat"
    return (
        f"{p.side} {plain(p.size_pct, 4)} % of equity at {plain(p.avg_price)}, {plain(p.unrealized_R, 3)} R, "
        f"open for {UNKNOWN if p.age_bars_5m is None else p.age_bars_5m} bars of 5m, "
        f"stop {plain(p.stop_atr, 3)} ATR and target {plain(p.tp_atr, 3)} ATR away"
    )


def _risk(r: RiskView) -> str:
    today = f"today {plain(r.daily_pnl_pct, 3)} %, worst drawdown today {plain(r.max_drawdown_today_pct, 3)} %"
    return f"{today}, mode {r.risk_mode}"


def _decided(decided: Answer) -> str:
    d = decided.decision
    asked = "".join(f", {name} {_escape(value)}" for name, value in _parameters(d).items())
    came = (
        f"From {_escape(decided.source)}, rung {_escape(decided.rung)}, model {_escape(decided.model) or UNKNOWN}: "
        f"{plain(decided.latency_ms / 1000, 3)} s, {plain(decided.cost_usd)} USD, {decided.tokens} tokens."
    )
    parts = [
        f"**{_escape(d.action)}**{asked}, confidence {plain(d.confidence)}",
        _labelled("Comment", _quote(d.comment)),
        _labelled("Reasoning", _quote(d.reasoning)),
        _labelled("Key factors", _quoted_list(d.key_factors)),
        _labelled("Risk assessment", _quote(d.risk_assessment)),
        came,
        _calls(decided.calls),
        _tools(decided.tool_calls),
        _labelled("Flags", _quoted_list(decided.flags)),
        _labelled("Errors on the way", _quoted_list(decided.errors)),
    ]
    return "\n\n".join(part for part in parts if part)


def _tools(calls: Sequence[ToolCall]) -> str:
    rows = [
        (
            call.tool,
            ", ".join(f"{name}={value}" for name, value in call.parameters.items()),
            call.error[:200] or f"{call.bytes} bytes{', cut' if call.truncated else ''}",
            plain(call.latency_ms / 1000, 3),
        )
        for call in calls
    ]
    return _table(("tool", "asked", "answered", "s"), rows)


def _calls(calls: Sequence[ModelCall]) -> str:
    rows = [
        (
            call.role,
            call.model,
            f"{call.prompt.name}/{call.prompt.version} ({call.prompt.sha256[:8]})" if call.prompt else UNKNOWN,
            plain(call.latency_ms / 1000, 3),
            f"{call.tokens_in} / {call.tokens_out}",
            plain(call.cost_usd),
            call.error[:200] or "none",
        )
        for call in calls
    ]
    return _table(("role", "model", "prompt", "seconds", "tokens in / out", "USD", "error"), rows)


def _verdict(verdict: Verdict, decided: Answer | None) -> str:
    asked = _parameters(decided.decision) if decided else {}
    allowed = _parameters(verdict.decision)
    changed = [(k, asked.get(k, UNKNOWN), v) for k, v in allowed.items() if decided and asked.get(k) != v]
    answer = "Allowed" if verdict.allowed else "Denied"
    answer += ", with changes." if verdict.allowed and verdict.codes else "."
    numbers = {
        "quantity": verdict.quantity, "price": verdict.price, "stop": verdict.stop, "target": verdict.target,
        "risk of this trade, % of equity": verdict.trade_risk_pct,
        "risk of everything open with it, % of equity": verdict.total_risk_pct,
    }  # fmt: skip
    sends = verdict.allowed and any((verdict.quantity, verdict.stop, verdict.target))
    parts = [
        f"**{answer}**",
        _table(("", "asked", "allowed"), changed),
        _table(("code", "meaning", "compared"), [_code(check) for check in verdict.checks if check.fired]),
        _table(("as allowed", ""), [(k, plain(v)) for k, v in numbers.items()]) if sends else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _code(check: Check) -> tuple[str, str, str]:
    inputs = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in check.inputs.items())
    return check.code.value, CODES.get(check.code, ""), inputs


def _sent(intents: Sequence[OrderIntent], orders: Sequence[Order]) -> str:
    by_id = {order.client_order_id: order for order in orders}
    head = ("our id", "order", "quantity", "price", "stop", "target", "venue id", "status", "filled", "average")
    return _table(head, [_order(intent, by_id.get(intent.client_order_id)) for intent in intents])


def _order(i: OrderIntent, order: Order | None) -> tuple[str, ...]:
    what = f"{i.side} {i.type.value}{' reduce-only' if i.reduce_only else ''}"
    sent = (i.client_order_id, what, plain(i.quantity), plain(i.price), plain(i.stop), plain(i.target))
    if order is None:
        return (*sent, UNKNOWN, "no answer recorded", UNKNOWN, UNKNOWN)
    status = f"{order.status.value}{f': {order.reason}' if order.reason else ''}"
    return (*sent, order.venue_order_id, status, plain(order.filled), plain(order.avg_price))


def _fills(fills: Sequence[Fill]) -> str:
    rows = [
        (_time(f.at), f.side, plain(f.quantity), plain(f.price), f"{plain(f.fee)} {f.fee_currency}", f.liquidity)
        for f in fills
    ]
    return _table(("at", "side", "quantity", "price", "fee", "liquidity"), rows)


def _outcome(o: Outcome) -> str:
    return (
        f"Closed at {_time(o.closed_at)} after {o.hold_seconds // 3600} h {o.hold_seconds % 3600 // 60} min: "
        f"entry {plain(o.entry_price)}, exit {plain(o.exit_price)}, "
        f"**PnL {plain(o.pnl)}** after fees of {plain(o.fees)} ({plain(o.pnl_pct)} % of the entry notional), "
        f"{plain(o.r_multiple)} R."
    )


# --- words and escaping


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _labelled(label: str, body: str) -> str:
    return f"{label}:\n\n{body}" if body else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table, every cell of `rows` escaped; empty without rows."""
    body = ["| " + " | ".join(" ".join(_escape(cell).split()) for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]) if body else ""


def _quote(text: str) -> str:
    """Return foreign text as a blockquote in which nothing is markup; empty for none."""
    shown = text[:MAX_TEXT] + (f"\n… and {len(text) - MAX_TEXT} more characters" if len(text) > MAX_TEXT else "")
    return "\n".join(f"> {_line(line)}".rstrip() for line in shown.strip().splitlines())


def _quoted_list(texts: Sequence[str]) -> str:
    return "\n".join(f"> - {_line(' '.join(text.split())[:MAX_TEXT])}" for text in texts if text.strip())


def _line(text: str) -> str:
    """Escape a text that stands at the start of a line, where a dash or a number would begin a list."""
    return _LINE_START.sub(lambda hit: f"{hit[1]}&#{ord(hit[2])};", _escape(text).strip())


def _escape(text: str) -> str:
    """Write what markdown or HTML would act on as character references, which both only ever show."""
    return _ACTIVE.sub(lambda hit: "".join(f"&#{ord(c)};" for c in hit[0]), _visible(text))


def _visible(text: str) -> str:
    """Drop what cannot be seen (control and direction characters, surrogates) and make every space a plain one."""
    spaced = "".join(" " if unicodedata.category(c)[0] == "Z" or c in "\t\r\n" else c for c in text)
    return "".join(c for c in spaced if unicodedata.category(c)[0] != "C")


def _quoted(text: str) -> str:
    return json.dumps(_visible(text).strip()[:200], ensure_ascii=False)  # one line, whatever is in it


def _parameters(decision: Decision) -> dict[str, str]:
    """Return what the action asks for, flat and as text, not yet escaped."""
    flat: dict[str, object] = {}
    for name, value in decision.model_dump(exclude=_ABOUT | {"action"}).items():
        flat |= {f"{name} {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return {name.replace("_", " "): _parameter(value) for name, value in flat.items() if value not in ((), None)}


def _parameter(value: object) -> str:
    if isinstance(value, Decimal):
        return plain(value)
    return "; ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M UTC") if not at.second else at.strftime("%Y-%m-%d %H:%M:%S UTC")

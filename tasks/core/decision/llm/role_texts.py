"""What the panel's roles are told: the variables of their prompts.

News is fenced: somebody else's words. Unknown is `-`, and what nobody knows of the account says so in its place.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean

from tasks.core.decision.decider import VARIABLES as SNAPSHOT_VARIABLES
from tasks.core.decision.decider import room_left, variables_of
from tasks.core.decision.llm.roles import REVERSION_TF, TREND_TF, Analysis, Entering, way_of
from tasks.core.decision.memory import memory_text
from tasks.core.decision.plain_text import plain_text
from tasks.core.market.lean import cell
from tasks.core.types import Dto, News, Portfolio, PortfolioPosition, Question, Statistics

VARIABLES = SNAPSHOT_VARIABLES | {
    "price", "prices", "indicators", "book", "news", "votes", "proposal", "position", "trend",
    "risk_table",
}  # fmt: skip
INDICATORS = ("adx", "bb_upper", "bb_middle", "bb_lower", "bb_percent_b", "bb_width", "ema50", "ema200", "swing_low",
              "swing_high")  # fmt: skip
STRATEGISTS_READ, OFFICER_READS = ("indicators", "position", "trend"), ("proposal", "risk_table")
FLOW = ("vol_z20", "vol_spike", "obv_dir", "delta20", "range_ratio")
STRONG, WEAK = 25, 20  # ADX from which a trend is so called
MAX_HEADLINES = 20
FENCE = ("<<<HEADLINES", "HEADLINES>>>")
RISKS = {"low": 0.0, "medium": 0.5, "high": 1.0}


def variables_of_roles(question: Question) -> dict[str, str]:
    """Return every variable a role's prompt may use; votes and proposal are filled in as the panel goes on."""
    indicators = [f"{tf} {_pairs(row, INDICATORS)}" for tf, row in question.role_inputs.timeframes.items()]
    flow = [f"{tf} {_pairs(question.view(tf), FLOW)}" for tf in ("5m", "15m", "1h")]
    closes = " ".join(cell(close, 6) for close in question.role_inputs.recent_closes) or "-"
    volume = cell(question.role_inputs.volume_24h, 4)
    last, quarter = question.snapshot.last_price, question.view("15m")
    about = {
        "price": f"last={last or '-'} {_pairs(quarter, ('atr', 'rsi'))} (15m)",
        "prices": f"volume_24h={volume}\n5m closes {closes}",
        "indicators": "\n".join(indicators) or "none known",
        "book": "\n".join([f"{_pairs(question.snapshot.orderbook)} volume_24h={volume}", *flow, f"5m closes {closes}"]),
        "news": "unknown" if question.news is None else fenced(known_news(question)),
    }
    about |= {"position": position_text(question), "trend": trend_text(question)}
    told = variables_of(question) | about | dict.fromkeys(("votes", "proposal", "risk_table"), "none")
    return told | remembered(question, told, *STRATEGISTS_READ)


def remembered(question: Question, told: Mapping[str, str], *beside: str) -> dict[str, str]:
    """Return as much of the memory as fits into a message with these variables and what all who read it are told."""
    texts = (told[name] for name in ("market", "portfolio", "votes", "price", "allowed_actions", *beside))
    return {"memory": memory_text(question.memory, room_left(*texts))}


def position_text(question: Question) -> str:
    """Write the position as strategists judge it: what it earns, its protection, what is to follow and why it is."""
    position, last = question.snapshot.position, question.snapshot.last_price
    if position.side == "flat":
        return "flat"
    held = () if question.portfolio is None else question.portfolio.positions
    own = next(
        (each for each in held if each.symbol == question.snapshot.pair),
        PortfolioPosition.trusted(symbol=question.snapshot.pair, side=position.side),
    )
    average, way = position.avg_price, way_of(question)
    pnl = None if not average or last is None else way * (float(last) / average - 1) * 100
    return (
        f"{_pairs(position)} pnl={_pct(pnl)} stop={cell(own.stop, 6)} target={cell(own.target, 6)}\n"
        f"follow-ups: {'; '.join(own.followups) or 'none'}\nopened because: {own.thesis or '-'}"
    )


def trend_text(question: Question) -> str:
    """Write how the 1h averages stand, how strong a trend ADX makes of it, and what has crossed lately."""
    hour, quarter = question.inputs(TREND_TF), question.inputs(REVERSION_TF)
    stand = "-"
    if hour.ema50 is not None and hour.ema200 is not None:
        stand = "bullish" if hour.ema50 > hour.ema200 else "bearish" if hour.ema50 < hour.ema200 else "neutral"
    crosses = [("ema50/200", hour.ema_cross), ("sma20/50", hour.sma_cross), ("macd", hour.macd_cross)]
    known = [f"{what} {'up' if n > 0 else 'down'} {abs(n) - 1:.0f} bars ago" for what, n in crosses if n is not None]
    return (
        f"1h: ema50 against ema200 {stand}; trend {_strength(hour.adx)}\n"
        f"crossed on 1h: {', '.join(known) or 'nothing lately'}\n15m: trend {_strength(quarter.adx)}"
    )


def _strength(adx: float | None) -> str:
    word = "unknown" if adx is None else "strong" if adx > STRONG else "weak" if adx > WEAK else "none"
    return f"{word} (adx {cell(adx)})"


def risk_table(question: Question, entry: Entering, votes: Iterable[Analysis]) -> str:
    """Write what the risk officer judges an entry by: the account, its month, the market, the record and the trade."""
    p, memory, limits = question.portfolio, question.memory, question.snapshot.constraints
    last, atr = question.snapshot.last_price, question.view("15m").atr
    loss = None if not last or not atr else float(entry.size_pct * entry.stop_atr) * atr / float(last)
    now = None if p is None else p.open_risk_pct
    with_it = None if loss is None or p is None or now is None else now + loss * (p.of_account or 1)
    done = next(iter(memory.statistics), Statistics()) if memory else Statistics()
    risks = [RISKS[vote.risk_level] for vote in votes]
    alike = {} if p is None else p.correlations
    rows = {
        "capital": f"{cell(p and p.equity, 7)} available {cell(p and p.cash, 7)}",
        "positions": f"{cell(p and len(p.positions))} exposure {_shares(p, gross='gross_pct', net='net_pct')}",
        "today": _shares(p, pnl="daily_pnl_pct", realized="realized_today_pct", drawdown="drawdown_today_pct"),
        "drawdown": _shares(p, peak="drawdown_pct", month="drawdown_30d_pct", halt="drawdown_halt_pct"),
        "volatility of 30 days": f"{_pct(question.role_inputs.volatility_30d)} a day",
        "trend on 1h": _strength(question.inputs(TREND_TF).adx),
        "correlation": ", ".join(f"{symbol} {cell(r)}" for symbol, r in alike.items()) or "nothing else is open",
        "record": f"{done.trades} trades, {_pct(done.win_rate and done.win_rate * 100)} won, {cell(done.mean_r)}R each",
        "kelly": f"{_share(p, 'kelly_pct')} of capital at risk",
        "risk the analysts see": f"{cell(fmean(risks) if risks else None)} (0 low to 1 high)",
        "this trade": f"size {entry.size_pct}%, loss at its stop {_pct(loss)} of {limits.max_trade_risk_pct:g}%",
        "all open risk": f"{_pct(now)}, with it {_pct(with_it)} of {limits.max_total_risk_pct:g}%",
        "largest position": f"{_share(p, 'max_symbol_pct')} of capital",
    }
    return "\n".join(f"{name}: {row}" for name, row in rows.items())


def _shares(portfolio: Portfolio | None, **names: str) -> str:
    """Write percentages of a portfolio by the words they go under."""
    return " ".join(f"{word} {_share(portfolio, name)}" for word, name in names.items())


def _share(portfolio: Portfolio | None, name: str) -> str:
    return _pct(getattr(portfolio, name, None))


def _pct(number: float | None) -> str:
    return f"{cell(number)}%"


def _pairs(view: Dto, names: Iterable[str] = ()) -> str:
    return " ".join(f"{name}={cell(getattr(view, name), 6)}" for name in names or type(view).model_fields)


def known_news(question: Question) -> News | None:
    """Return the news that was out at as_of, at most 20 headlines as plain text; None where nothing is left."""
    news, as_of = question.news or News(), question.snapshot.as_of
    out = (h for h in news.headlines if h.published_at is None or h.published_at <= as_of)
    plain = (h.replace(title=plain_text(h.title), source=plain_text(h.source, 40)) for h in out)
    kept = tuple(h for h in plain if h.title)[:MAX_HEADLINES]
    return news.replace(headlines=kept) if kept or news.fear_greed is not None else None


def fenced(news: News | None) -> str:
    """Write the news for a prompt: somebody else's words, one line each, between markers that no line can contain."""
    if news is None:
        return "no news"
    lines = [f"- {str(h.published_at or '?')[:16]} | {h.source} | {h.title}" for h in news.headlines]
    return "\n".join([f"fear_greed={cell(news.fear_greed)} (0 fear, 100 greed)", FENCE[0], *lines, FENCE[1]])

"""Write docs/configuration.md, docs/guard.md and deployments/forms.json from the code: `python docs/generate.py`.

A test says when to.
"""

import importlib
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tasks.core.trading.guard.guard import ALLOWED_WITH
from tasks.core.types.limits import Limits
from tasks.core.types.verdict import Code
from tasks.settings import PREFIX, ROOT, Settings

DOCS = Path(__file__).resolve().parent

# What a field means, where its name and its own description leave something open.
NOTES = {
    "profile": "where market data come from and orders go: sandbox, paper, testnet or live",
    "symbols": "ccxt unified names, comma-separated; `:USDT` at the end is a perpetual",
    "strategy": "its name: state of strategies is kept apart; lower case, digits, - and _",
    "home": "holds all state: databases, logs, candles, MLflow's files",
    "sandbox_url": "profile sandbox: the local exchange",
    "prefect_api_url": "Prefect's API; `up` uses what answers there if this is set, else starts a server",
    "provider_timeout_s": "one request to one provider",
    "decision_deadline_s": "a whole decision, with every retry and failover; then HOLD",
    "max_reply_bytes": "a longer reply is cut off and counts as unusable",
    "breaker_cooldown_s": "how long no model is asked then",
    "tool_rates.candles": "calls a minute, per process", "tool_rates.order_book": "the same",
    "tool_rates.trades": "the same", "tool_rates.funding": "the same", "tool_rates.position": "the same",
    "tool_rates.digest": "the same", "tool_rates.similar_decisions": "the same",
    "budget.usd_per_day": "a UTC day, of a strategy; `none`: unlimited",
    "budget.calls_per_day": "the same, counted",
    "budget.usd_per_session": "one session", "budget.calls_per_session": "the same, counted",
    "budget.usd_per_symbol_day": "one symbol on one UTC day", "budget.calls_per_symbol_day": "the same, counted",
    "budget.usd_per_decision": "one decision with all its roles", "budget.calls_per_decision": "the same, counted",
    "limits.max_trade_risk_pct": "of equity, lost at the stop with costs, by one position",
    "limits.max_total_risk_pct": "the same, by all positions and working entries together",
    "limits.leverage": "at most; set at the venue, and what margin is computed with",
    "limits.max_gross_pct": "longs plus shorts, notional in % of equity",
    "limits.max_net_pct": "longs less shorts, notional in % of equity",
    "limits.max_symbol_pct": "notional of one symbol in % of equity",
    "limits.per_symbol": 'less than that for some, as JSON: `{"DOGE/USDT:USDT": {"leverage": 2, "max_pct": 20}}`',
    "limits.max_positions": "open positions and working entries, by symbol",
    "limits.kelly_fraction": "of the full Kelly share of equity at risk",
    "limits.kelly_min_outcomes": "outcomes of the decider before Kelly is asked",
    "limits.min_reward_risk": "distance to the target over distance to the stop",
    "limits.min_confidence": "below it an entry is refused",
    "limits.max_offset_spreads": "how far a limit entry may lie from the market, in spreads",
    "limits.daily_loss_halt_pct": "entries stop for the UTC day; at half of it sizes are halved",
    "limits.drawdown_halt_pct": "from the persisted peak of equity; at half of it sizes are halved",
    "limits.opens_per_hour": "entries sent", "limits.opens_per_day": "entries sent in 24 hours",
    "limits.reentry_cooldown_min": "after an exit, before the same symbol is entered again",
    "limits.cool_off": "what losses in a short time do: `half` the size, or `pause` entries",
    "limits.cool_off_losses": "how many losing trades", "limits.cool_off_min": "within how many minutes",
    "limits.liquidation_cooldown_min": "no entries for this long after a liquidation",
    "limits.fallback_may_open": "let rungs below the configured decider open positions",
    "costs.taker_bps": "fee of an order that takes", "costs.maker_bps": "fee of an order that rests",
    "costs.half_spread_bps": "paid at market where no book is known",
    "events.flip_vwap_std": "close beyond VWAP20 by this, in standard deviations",
    "events.sweep_atr": "wick beyond a prior swing", "events.sweep_vol_z": "volume z of a sweep",
    "events.hold_atr": "close beyond a level that makes a break",
    "events.hold_bars": "bars within which the level is tested and holds",
    "events.run_vol_z": "volume z of a stop run",
    "events.age_r": "the R, up or down, that a position is to have reached by then",
    "events.r_levels": "the position's R at which the decider is asked again",
}  # fmt: skip
# The limits that each code of the guard compares with; a code without one is a matter of fact.
LIMITS_OF: dict[Code, tuple[str, ...]] = {
    Code.SIZE_CLAMPED: ("daily_loss_halt_pct", "drawdown_halt_pct"),
    Code.TRADE_RISK_CLAMPED: ("max_trade_risk_pct",),
    Code.TOTAL_RISK_CLAMPED: ("max_total_risk_pct",),
    Code.GROSS_CLAMPED: ("max_gross_pct", "leverage"),
    Code.NET_CLAMPED: ("max_net_pct",),
    Code.AVAILABLE_CLAMPED: ("leverage",),
    Code.LARGEST_ORDER_CLAMPED: (),
    Code.SYMBOL_CLAMPED: ("max_symbol_pct", "per_symbol"),
    Code.CORRELATION_CLAMPED: ("max_correlation", "max_trade_risk_pct"),
    Code.KELLY_CLAMPED: ("kelly_fraction", "kelly_min_outcomes", "kelly_floor_pct"),
    Code.SLIPPAGE_CLAMPED: ("max_slippage_bps",),
    Code.VOLATILITY_CLAMPED: ("target_atr_pct",),
    Code.COOL_OFF_CLAMPED: ("cool_off", "cool_off_losses", "cool_off_min", "cool_off_confluence"),
    Code.CONFIDENCE_CLAMPED: ("size_by_confidence",),
    Code.REDUCED_CLAMPED: (),
    Code.REMAINDER_CLOSED: (),
    Code.HALTED: (),
    Code.STALE: ("max_lateness_s",),
    Code.SYMBOL_NOT_ALLOWED: (),
    Code.SYMBOL_MISMATCH: (),
    Code.DATA_MISSING: (),
    Code.ACTION_NOT_ALLOWED: (),
    Code.SHORTING_NOT_ALLOWED: (),
    Code.LOW_CONFIDENCE: ("min_confidence",),
    Code.FOREIGN_POSITION: (),
    Code.POSITION_EXISTS: (),
    Code.NO_POSITION: (),
    Code.MAX_POSITIONS: ("max_positions",),
    Code.STOP_WRONG_SIDE: (),
    Code.STOP_WOULD_LOOSEN: (),
    Code.STOP_TOO_CLOSE: ("min_stop_atr",),
    Code.STOP_TOO_FAR: ("max_stop_pct",),
    Code.TARGET_WRONG_SIDE: (),
    Code.REWARD_RISK_TOO_LOW: ("min_reward_risk",),
    Code.TOTAL_RISK_EXCEEDED: ("max_total_risk_pct",),
    Code.GROSS_EXCEEDED: ("max_gross_pct", "leverage"),
    Code.BELOW_MIN_QUANTITY: (),
    Code.BELOW_MIN_NOTIONAL: (),
    Code.OPENS_PER_HOUR: ("opens_per_hour",),
    Code.OPENS_PER_DAY: ("opens_per_day",),
    Code.REENTRY_COOLDOWN: ("reentry_cooldown_min",),
    Code.DAILY_LOSS: ("daily_loss_halt_pct",),
    Code.DRAWDOWN: ("drawdown_halt_pct",),
    Code.PAUSED: (),
    Code.FALLBACK_MAY_NOT_OPEN: ("fallback_may_open",),
    Code.COOL_OFF: ("cool_off", "cool_off_losses", "cool_off_min"),
    Code.REJECTION_STREAK: ("max_rejections", "rejection_window_min"),
    Code.LIQUIDATED: ("liquidation_cooldown_min",),
    Code.LIQUIDATION_NEAR: ("maintenance_margin_pct", "liquidation_buffer_pct", "leverage"),
    Code.STALE_PRICE: ("max_lateness_s",),
    Code.VENUE_NOT_ALLOWED: ("venues",),
    Code.STACKED: ("stack_min_r",),
    Code.CHASING: ("chase_rsi", "chase_z"),
    Code.OFFSET_TOO_FAR: ("max_offset_spreads",),
    Code.SLIPPAGE_TOO_HIGH: ("max_slippage_bps",),
    Code.NOT_APPROVED: ("max_lateness_s",),
}
CONFIGURATION = """\
# Settings

Environment over `quarterdeck.toml` (in the working directory, or where `QUARTERDECK_TOML` points) over these defaults.
A nested name is written with two underscores in the environment, and as a table in TOML:

```
export QUARTERDECK_LIMITS__MAX_TRADE_RISK_PCT=0.5        # the environment
```
```toml
symbols = "BTC/USDT:USDT,ETH/USDT:USDT"                  # quarterdeck.toml
[limits]
max_trade_risk_pct = "0.5"                               # money and percentages as text: a float is no amount
```

Further strategies on the same account have a table each, with symbols that no other has:

```toml
[strategies.trend]
symbols = "SOL/USDT:USDT,XRP/USDT:USDT"
capital_pct = "30"                                       # of the account's equity; without it, sizes are of all of it
decider = "llm:single@v002"
model = "openai/gpt-4o"
budget = { usd_per_day = "1" }                           # its own; a table without one has caps like the top level's
limits = { drawdown_halt_pct = "5", max_trade_risk_pct = "0.3" }
```

What a table leaves out is as at the top. The account's is refused there, and written at the top: profile, venue,
addresses, databases, `WORKERS`, `ALERT_URLS`, schedules' offsets, `STOP_WITHIN_S`, `PATIENCE_S`, `RETENTION_DAYS`, and
the limits `max_total_risk_pct`, `max_gross_pct`, `max_net_pct`, `max_positions`. These and the top level's
`daily_loss_halt_pct` of the whole account count what all strategies have open or lost; a strategy's own daily loss,
drawdown, opens and cool-offs count its trades alone, in percent of what the account would be worth by them. In the
environment a value of a table is `QUARTERDECK_STRATEGIES__TREND__DECIDER`.

`capital_pct` is what a strategy trades with, in percent of the account's equity at each decision: `size_pct`,
`max_trade_risk_pct`, `max_symbol_pct` and Kelly are shares of that, and deciders are told it as the equity. Its daily
loss and drawdown are then percentages of that share of what the account was worth when its equity curve began, and of
what it has made since. The limits on the account stay percentages of all of it, and so does what positions that move
alike, of whichever strategy, may risk together. Shares may not make more than 100 %; a strategy without one may use
what the account's limits leave, and a table without one has the top level's. A deposit or withdrawal counts in the top
level's curve: with a share of 20 %, taking 3 % out of the account is 15 % of it. Shares are of the live account: a
backtest or comparison begins with `PAPER_CASH`, and sizes on all of that.

A wrong name or value is one line and exit code 2. `quarterdeck doctor` shows what is in force. This page is made by
`.venv/bin/python docs/generate.py`; a test fails when it is not current.

Keys are not settings: they are read from the environment when a connection is made, and are in no record, log or task
argument. `QUARTERDECK_VENUE_KEY` and `QUARTERDECK_VENUE_SECRET` are the venue's (at Hyperliquid the wallet's address
and the private key of an agent of it, which cannot withdraw); providers' keys keep their usual
names (`OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, ...). `QUARTERDECK_YES_LIVE=1` is `up --yes-live`."""
GUARD = """\
# What the guard may say

Every decision, whoever made it, passes the same pure function (`tasks/core/trading/guard/guard.py`), which only ever
makes it smaller or refuses it. A verdict names every code that fired, with what was compared. Exits are never refused
for a loss, a halt, lateness or low confidence. Only the benchmark `buy-and-hold` is not asked about, and in replays
only ([evaluation.md](evaluation.md)). Try it without an account:

```
.venv/bin/quarterdeck guard --snapshot snapshot.json --reply reply.json --json
```

What `--state` leaves out of the instrument comes by the symbol's form (`BTC/USDT` is spot: no shorting, leverage 1) and
the price, and `instrument.source` in the answer says so.

The limits are `QUARTERDECK_LIMITS__...`, see [configuration.md](configuration.md); this page is made by
`.venv/bin/python docs/generate.py`, and a test fails when a code is missing here."""


def configuration() -> str:
    """Return docs/configuration.md."""
    plain = [(name, field) for name, field in Settings.model_fields.items() if not _model(field)]
    parts = [CONFIGURATION, "\n## General\n", _table(plain, "")]
    for name, field in Settings.model_fields.items():
        if model := _model(field):
            said = field.description or " ".join((model.__doc__ or "").split("\n\n")[0].split())
            parts += [f"\n## {name}: {said.rstrip('.')}\n", _table(model.model_fields.items(), f"{name}.", field)]
    return "\n".join(parts).rstrip() + "\n"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(fields: Any, path: str, parent: FieldInfo | None = None) -> str:
    rows = [_row(path + name, field, parent) for name, field in fields]
    return "\n".join(("| `QUARTERDECK_...` | default | |", "|---|---|---|", *rows, ""))


def _row(path: str, field: FieldInfo, parent: FieldInfo | None) -> str:
    default = getattr(parent.default, path.split(".")[-1]) if parent else field.default
    meaning = NOTES.get(path) or NOTES.get(path.replace("shadow_budget.", "budget.")) or field.description or ""
    bounds = ", ".join(_bounds(field))
    said = "; ".join(filter(None, (meaning, bounds))).replace("|", "\\|")
    return f"| `{path.upper().replace('.', '__')}` | {_shown(default)} | {said} |"


def _shown(default: object) -> str:
    if default is None:
        return "none"
    if isinstance(default, Path):
        default = f"{default.relative_to(ROOT)}/" if default.is_relative_to(ROOT) else default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default}`" if default not in ("", {}, PydanticUndefined) else "empty"


def _bounds(field: FieldInfo) -> Iterator[str]:
    for each in _metadata(field):
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if (bound := getattr(each, name, None)) is not None:
                yield f"{sign} {bound}"
    if get_origin(field.annotation) is Literal and all(isinstance(each, int) for each in get_args(field.annotation)):
        yield " or ".join(f"`{value}`" for value in get_args(field.annotation))


def _metadata(field: FieldInfo) -> Iterator[object]:
    """Yield the constraints of a field, those inside of an optional's annotation too."""
    yield from field.metadata
    if isinstance(field.annotation, types.UnionType):
        for part in get_args(field.annotation):
            if get_origin(part) is Annotated:
                yield from (m for f in part.__metadata__ for m in getattr(f, "metadata", ()))


def guard() -> str:
    """Return docs/guard.md."""
    cut = [code for code in Code if code in ALLOWED_WITH]
    denied = [code for code in Code if code not in ALLOWED_WITH]
    parts = [GUARD, "\n## Allowed, but changed\n", _codes(cut), "\n## Refused\n", _codes(denied)]
    return "\n".join(parts).rstrip() + "\n"


def _codes(codes: list[Code]) -> str:
    rows = [f"| `{code}` | {code.meaning} | {_limits(LIMITS_OF[code])} |" for code in codes]
    return "\n".join(("| code | because | limits |", "|---|---|---|", *rows, ""))


def _limits(names: tuple[str, ...]) -> str:
    defaults = Limits()
    return ", ".join(f"`{name}` {_shown(getattr(defaults, name)).strip('`')}" for name in names)


def forms() -> str:
    """Return deployments/forms.json: what `deployments.forms` reads."""
    found = {}
    for each in yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["deployments"]:
        module, _, name = each["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        schema = parameter_schema(flow).model_dump(exclude_unset=True)
        found[each["entrypoint"]] = {"flow": flow.name, "schema": schema}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


PAGES = {"configuration.md": configuration, "guard.md": guard, "../deployments/forms.json": forms}


def unexplained() -> list[str]:
    """Return the settings that neither a description nor a note explains."""
    found = []
    for name, field in Settings.model_fields.items():
        inner = {f"{name}.{key}": f for key, f in model.model_fields.items()} if (model := _model(field)) else None
        for path, each in (inner or {name: field}).items():
            noted = NOTES.get(path) or NOTES.get(path.replace("shadow_budget.", "budget."))
            if not (each.description or noted):
                found.append(PREFIX + path.upper().replace(".", "__"))
    return found


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())

"""The tools a model may ask data from: typed parameters, allowlists, a meter, a byte budget, a record of each call.

`ToolDesk.answer` is the one way to a tool, for `llm:tools` and for the MCP server alike. It never raises for what was
asked: a refused, dropped or failed request is answered with its error. What a tool may say is `Toolbox`'s business;
the real one is `adapters.model.toolbox`, a replay's `core.simulation.replayed_tools`. The loop that lets a model ask is
`core.decision.llm.planner`.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import ClassVar, Literal, Protocol, get_args

import pandas as pd
from pydantic import Field, ValidationError

from tasks.core.decision.decider import within_deadline
from tasks.core.types import (
    COLUMNS,
    DataError,
    Described,
    JsonObject,
    Position,
    Question,
    Texts,
    ToolCall,
    ToolLimits,
    ToolRates,
    TradingError,
    Utc,
    first_error,
)

Stored = Literal["5m", "15m", "30m", "1h", "4h", "1d"]  # the timeframes every cycle keeps
WINDOW_S = 60.0
REACH = timedelta(days=1100)  # how long before as_of candles may be asked for: what a cycle keeps of 1d, and more
PRESENT = {  # what is told of the present alone, by tool
    "order_book": ("bid", "bid_size", "ask", "ask_size"),
    "trades": ("at", "side", "price", "size"),
    "funding": ("paid_at", "rate"),
}
SHOWN = 100  # characters of a refused parameter that are kept


class Parameters(Described):
    """What every tool takes."""

    symbol: str = Field(max_length=40)
    """ccxt unified symbol, e.g. BTC/USDT:USDT"""
    venue: str | None = Field(None, max_length=40)
    """only the strategy's own; null means that one"""


class Listed(Parameters):
    """What tools take that answer with rows; a larger `limit` than `most` is clamped, and flagged."""

    most: ClassVar[int] = 1
    limit: int = Field(20, ge=1)
    """rows"""


class Candles(Listed):
    """Closed candles, newest first: time it opened, open, high, low, close, volume."""

    most: ClassVar[int] = 200
    timeframe: Stored
    until: Utc | None = None
    """ISO time with zone, not after as_of: candles closed by then"""


class OrderBookDepth(Listed):
    """Levels of the order book as it is now, best first: bid, size, ask, size."""

    most: ClassVar[int] = 50


class Trades(Listed):
    """The last public trades as of now, newest first: time, side of the taker, price, size."""

    most: ClassVar[int] = 200


class Funding(Listed):
    """The coming funding rate with its time, and past rates, newest first."""

    most: ClassVar[int] = 30


class OpenPosition(Parameters):
    """Our open position in the symbol."""


class Digest(Parameters):
    """What our closed trades in the symbol came to."""


class SimilarDecisions(Listed):
    """Earlier decisions of ours in the symbol whose outcome is known, with R."""

    most: ClassVar[int] = 10


TOOLS: dict[str, type[Parameters]] = {
    "candles": Candles,
    "order_book": OrderBookDepth,
    "trades": Trades,
    "funding": Funding,
    "position": OpenPosition,
    "digest": Digest,
    "similar_decisions": SimilarDecisions,
}


class Toolbox(Protocol):
    """Where the data comes from. Reads only; raises TradingError when it has none."""

    async def run(self, tool: str, parameters: Parameters, as_of: datetime) -> str:
        """Return one JSON object; what may be cut for size is its list `rows`, the most important first."""


@dataclass
class Meter:
    """How often each tool ran in the last minute, over all decisions of this process."""

    rates: ToolRates
    clock: Callable[[], float]
    taken: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))

    def take(self, tool: str) -> bool:
        """Count one call; False, and not counted, when this minute's are used up."""
        now, taken = self.clock(), self.taken[tool]
        while taken and taken[0] <= now - WINDOW_S:
            taken.popleft()
        if len(taken) >= getattr(self.rates, tool):
            return False
        taken.append(now)
        return True


@dataclass
class ToolDesk:
    """Answers requests one by one: checked, metered, cut to size, timed."""

    toolbox: Toolbox
    limits: ToolLimits
    meter: Meter

    async def answer(self, asked: Mapping[str, object], as_of: datetime, trace_id: str, seconds: float) -> ToolCall:
        """Answer one request, `{"tool": ..., parameters}`, within `seconds`; a null parameter is one not given."""
        started = self.meter.clock()
        parameters = checked(asked, self.limits, as_of)
        if isinstance(parameters, str):
            return refused(asked, trace_id, parameters)
        tool = str(asked["tool"])
        flags: Texts = ()
        if isinstance(parameters, Listed) and parameters.limit > parameters.most:
            parameters, flags = parameters.replace(limit=parameters.most), (f"clamped:{tool}",)
        call = ToolCall(trace_id=trace_id, tool=tool, parameters=texts(parameters), flags=flags)
        if not self.meter.take(tool):
            error = f"dropped: at most {getattr(self.meter.rates, tool)} {tool} calls a minute"
            return call.replace(error=error, dropped=True, flags=(*flags, f"dropped:{tool}"))
        found = await self._run(tool, parameters, as_of, seconds)
        found["latency_ms"] = round((self.meter.clock() - started) * 1000, 1)
        if found.get("truncated"):
            found["flags"] = (*flags, "truncated")
        return call.replace(**found)

    async def _run(self, tool: str, parameters: Parameters, as_of: datetime, seconds: float) -> JsonObject:
        try:
            text = await within_deadline(self.toolbox.run(tool, parameters, as_of), seconds)
        except TradingError as e:
            return {"error": _short(e, 300)}
        if text is None:
            return {"error": "timeout", "late": True}
        budget = self.limits.response_bytes
        fitted, truncated = fit(text, budget)
        error = "" if fitted else f"the answer does not fit into {budget} bytes, and has no rows to leave out"
        return {"response": fitted, "error": error, "truncated": truncated, "bytes": len(fitted.encode())}


DESK: ContextVar[Callable[[Question], ToolDesk]] = ContextVar("desk")  # a replay's, set around each decision


def texts(parameters: Parameters) -> dict[str, str]:
    """Return the parameters as they are kept."""
    return {name: str(value) for name, value in parameters.model_dump(mode="json", exclude_none=True).items()}


def refused(asked: Mapping[str, object], trace_id: str, error: str) -> ToolCall:
    """Answer a request with nothing but an error."""
    named = [(_short(name), _short(value)) for name, value in _given(asked).items()]
    parameters = dict(named[: len(Candles.model_fields)])
    return ToolCall(trace_id=trace_id, tool=_short(asked.get("tool")), parameters=parameters, error=error)


def _given(asked: Mapping[str, object]) -> JsonObject:
    return {name: value for name, value in asked.items() if name != "tool" and value is not None}


def checked(asked: Mapping[str, object], limits: ToolLimits, as_of: datetime) -> Parameters | str:
    """Return the parameters of an allowed request, or what is wrong with it."""
    tool = asked.get("tool")
    if not isinstance(tool, str) or tool not in TOOLS:
        return f"unknown tool {_short(tool)!r}; there are {', '.join(TOOLS)}"
    try:
        parameters = TOOLS[tool].model_validate(_given(asked))
    except ValidationError as e:
        where, why = first_error(e)
        return f"{_short(where)}: {_short(why, 200)}"
    except OverflowError:  # a time at the end of the calendar that UTC pushes over it
        return "until: out of range"
    if parameters.symbol not in limits.symbols:
        return f"symbol {_short(parameters.symbol)!r} is not allowed; allowed: {', '.join(limits.symbols)}"
    if parameters.venue not in (None, limits.venue):
        return f"venue {_short(parameters.venue)!r} is not allowed; allowed: {limits.venue}"
    if isinstance(parameters, Candles) and parameters.until and not as_of - REACH <= parameters.until <= as_of:
        return f"until {parameters.until.isoformat()} is not allowed; at most {REACH.days} days before as_of, not after"
    return parameters


def fit(text: str, budget: int) -> tuple[str, bool]:
    """Cut an answer to `budget` bytes by leaving out last rows, and say whether; empty if no row fits."""
    if len(text.encode()) <= budget:
        return text, False
    document = json.loads(text)
    rows, kept = document.pop("rows", []), list[object]()
    size = len(compact({**document, "rows": []}))
    for row in rows:
        size += len(compact(row)) + 1
        if size > budget:
            break
        kept.append(row)
    return (compact({**document, "rows": kept}) if kept else ""), True


def shown(call: ToolCall) -> str:
    """Write an answer as the model sees it: one line of JSON, its request first, then the response or the error."""
    head = {"tool": call.tool, "parameters": call.parameters}
    head |= {"flags": call.flags} if call.flags else {}
    if call.error:
        return compact(head | {"error": call.error})
    return f'{compact(head)[:-1]},"response":{call.response}}}'


def described(limits: ToolLimits) -> str:
    """List the tools for a prompt: name, parameters, what comes back, and what is allowed."""
    ranges = {"timeframe": f"timeframe {'|'.join(get_args(Stored))}"}
    lines = []
    for tool, cls in TOOLS.items():
        known = ranges | ({"limit": f"limit 1-{cls.most}"} if issubclass(cls, Listed) else {})
        lines.append(f"- {tool}({', '.join(known.get(name, name) for name in cls.model_fields)}): {cls.__doc__}")
    allowed = f"Symbols: {', '.join(limits.symbols)}. Venue: {limits.venue}, or null."
    return "\n".join([*lines, allowed, f"An answer is cut to {limits.response_bytes} bytes, its last rows first."])


@cache
def functions() -> tuple[JsonObject, ...]:
    """Describe the tools for models that call functions, in OpenAI's form."""
    known = {tool: {"description": cls.__doc__, "parameters": cls.model_json_schema()} for tool, cls in TOOLS.items()}
    return tuple({"type": "function", "function": {"name": tool, **about}} for tool, about in known.items())


def candles_text(bars: pd.DataFrame, asked: Candles, until: datetime) -> JsonObject:
    """Write candles that had closed, newest first; raises DataError when there are none."""
    if bars.empty:
        raise DataError(
            f"no {asked.timeframe} candles of {asked.symbol} that had closed at {time_text(until)} are kept"
        )
    values = bars[list(COLUMNS)].to_numpy().tolist()
    rows = [[time_text(t), *(float(f"{x:.10g}") for x in v)] for t, v in zip(bars.index, values, strict=True)]
    return {"columns": ["open_time", *COLUMNS], "rows": rows[::-1]}


def position_text(position: Position | None) -> JsonObject:
    """Write our open position, without what only the ledger needs."""
    hidden = {"position_id", "strategy", "cycle_id", "closed_at", "exit_price"}
    return {"position": position.model_dump(mode="json", exclude=hidden) if position else None}


def time_text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def compact(value: object) -> str:
    """Write JSON without spaces, ASCII only, so that its length is its bytes."""
    return json.dumps(value, separators=(",", ":"))


def _short(value: object, length: int = SHOWN) -> str:
    """Write what a model sent so that every log, database and prompt can hold it."""
    return ascii(str(value))[1:-1][:length]

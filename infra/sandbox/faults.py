"""The fault bench: what can go wrong between a trader and an exchange, on demand.

A fault applies to the next `times` requests whose path contains `path`, or to a seeded share of them. Each kind is a
sequence of steps that a request goes through. Kinds that make the venue itself misbehave hand a quirk to the endpoints.

LASTING kinds are about no request. `late_fills` and `late_orders` strike the next `times` executions, or orders, that
are made after the fault was ordered: each is listed nowhere until it is `seconds` old by the venue's clock.
`told_fills` and `told_orders` list them with the fields of `row` in place of their own. `partial_stop` lets the next
`times` stops and targets that fire find room for half of the position; the rest goes on. `mark_offset` puts the mark
price `bps` off the last price until the faults are cleared.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.sandbox.api.answers import BybitAnswer, BybitError
from infra.sandbox.exchange import Exchange
from infra.sandbox.market.crash import ERROR_SHARE

SOMEHOW = ("timeout_after_accept", "drop", "http_500", "rate_limit", "html", "duplicate")
QUIRKS = (
    "clock_skew", "delisting", "fee_coin", "reject_stop", "partial_fill", "partial_fill_cancel", "stale_positions",
)  # fmt: skip
LATE = ("late_fills", "late_orders")
MADE = (*LATE, "told_fills", "told_orders")  # about executions and orders made from now on
LASTING = (*MADE, "mark_offset", "partial_stop")
PAGE = "<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>Please wait</body></html>"
ANSWERS = {  # HTTP status, and what is said
    "http_500": (500, "Internal Server Error"),
    "html": (200, PAGE),
    "rate_limit": (200, BybitError(10006, "Too many visits. Exceeded the API Rate Limit.")),
    "ban": (403, BybitError(10006, "access too frequent, please try again in 10 minutes")),
    "insufficient_margin": (200, BybitError(110007, "ab not enough for new order")),
}
SECONDS = {  # where none are given
    "latency": 2.0, "late": 0.5, "reorder": 1.0, "ban": 10.0, "clock_skew": 30.0,
    **dict.fromkeys((*LATE, "stale_positions"), 4.0),
}  # fmt: skip
PATHS = {"stale_positions": "position/list", "fee_coin": "user-setting-config"}  # where no path is given


@dataclass
class Call:
    """One request on its way to the exchange; below are the steps it can go through."""

    bench: "FaultBench"
    fault: "Fault"
    app: ASGIApp
    scope: Scope
    body: bytes
    send: Send
    unheard: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        return {"type": "http.request", "body": self.body}

    async def keep(self, message: Message) -> None:
        self.unheard.append(message)


async def serve(call: Call) -> None:
    await call.app(call.scope, call.receive, call.send)


async def serve_unheard(call: Call) -> None:
    """Let the exchange carry the request out; nobody hears the answer."""
    await call.app(dict(call.scope), call.receive, call.keep)


async def tell(call: Call) -> None:
    """Let what the exchange answered be heard after all."""
    for message in call.unheard:
        await call.send(message)


async def wait(call: Call) -> None:
    await asyncio.sleep(call.fault.seconds)


async def wait_for_another(call: Call) -> None:
    """Wait until a later request is answered, or for `seconds`."""
    with suppress(TimeoutError):
        await asyncio.wait_for(call.bench.answered.wait(), call.fault.seconds)


async def hang_up(call: Call) -> None:
    """Close the connection without an answer; uvicorn keeps its transport behind `send`."""
    call.send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's request cycle, not ASGI's
    await asyncio.sleep(0.01)


async def answer(call: Call) -> None:
    """Answer in the exchange's place."""
    status, said = ANSWERS.get(call.fault.kind) or (200, BybitError(call.fault.code, "refused by the fault bench"))
    status = call.fault.status or status
    now_ms = call.bench.exchange.now_ms
    reply = HTMLResponse(said, status) if isinstance(said, str) else BybitAnswer(said, now_ms, status=status)
    await reply(call.scope, call.receive, call.send)


async def ban(call: Call) -> None:
    """From here on nothing is answered but 403, for some seconds."""
    call.bench.banned_until = max(call.bench.banned_until, time.monotonic() + call.fault.seconds)


async def liquidate(call: Call) -> None:
    call.bench.exchange.liquidate()


async def misbehave(call: Call) -> None:
    call.scope["quirks"] = {call.fault.kind: call.fault.seconds}


KINDS = {
    # the exchange acts, the answer never arrives
    "timeout_after_accept": (serve_unheard, wait, hang_up),
    # the connection closes before the exchange has seen the request
    "drop": (wait, hang_up),
    # the connection closes at once, and the exchange sees the request some seconds later
    "late": (hang_up, wait, serve_unheard),
    "latency": (wait, serve),
    # the request is delivered twice, and it is the second delivery's answer that is heard
    "duplicate": (serve_unheard, serve),
    # the exchange acts at once, but its answer comes after that of a later request
    "reorder": (serve_unheard, wait_for_another, tell),
    # the venue's risk engine closes every position at the present price, before the request is seen
    "liquidation": (liquidate, serve),
    "ban": (ban, answer),
    # refuse: answered with the retCode `code`, in Bybit's envelope; what was asked for is not done
    **dict.fromkeys(("http_500", "html", "rate_limit", "insufficient_margin", "refuse"), (answer,)),
    # clock_skew: the venue's clock is `seconds` ahead: it says so, and finds our signature too old
    # delisting: nothing is listed any more; positions may be closed, and nothing opened
    # reject_stop: orders are taken without their stop; setting one later is refused
    # partial_fill: only half of what an order asks for is there to be taken
    # partial_fill_cancel: half of an order is taken, and the venue cancels the rest, also of a limit order
    # fee_coin: the account says that its fees are taken in another coin
    # stale_positions: the positions are listed as they were `seconds` ago
    **dict.fromkeys(QUIRKS, (misbehave, serve)),
    "somehow": (),  # one of SOMEHOW
    **dict.fromkeys(LASTING, ()),
}


class Fault(BaseModel, extra="forbid"):
    """One order to misbehave.

    seconds: of latency, of silence before a dropped answer, of a ban, of skew, of lateness. status: the HTTP code.
    share: of the requests that match, chosen by `seed`; the others pass. code: what `refuse` answers.
    row: fields of `told_fills` and `told_orders`. bps: of `mark_offset`.
    """

    kind: Literal[*KINDS]  # type: ignore[valid-type]
    path: str = ""
    times: int = Field(1, ge=1)
    seconds: float | None = None
    status: int | None = None
    share: float = Field(1.0, gt=0, le=1)
    seed: int = 0
    code: int = 429
    row: dict[str, str] = {}
    bps: Decimal = Field(Decimal(0), gt=-10_000)

    def model_post_init(self, _context: object) -> None:
        self._luck = random.Random(self.seed)

    def strikes(self) -> bool:
        return self._luck.random() < self.share

    def at_work(self) -> "Fault":
        """Return what it does to one request: its kind, or one of what can happen on the way to any exchange."""
        kind = self._luck.choice(SOMEHOW) if self.kind == "somehow" else self.kind
        seconds = SECONDS.get(kind, 0.0) if self.seconds is None else self.seconds
        return self.model_copy(update={"kind": kind, "seconds": seconds})


class FaultBench:
    """The faults that are still to happen, first come first served."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.pending: list[Fault] = []
        self.banned_until = 0.0
        self.answered = asyncio.Event()
        self._crash = Fault(kind="somehow", share=ERROR_SHARE, seed=exchange.config.seed)
        self._looked_at = dict.fromkeys(MADE, 0)  # how many there were

    def order(self, fault: Fault) -> None:
        """Let a fault happen to what comes from now on."""
        self.exchange.catch_up()
        self.strike_what_is_new()
        self.pending.append(fault)
        if fault.kind == "mark_offset":
            self.exchange.account.wallet.basis = 1 + fault.bps / 10_000
        elif fault.kind == "partial_stop":
            self.exchange.half_stops += fault.times

    def clear(self) -> None:
        """Take every fault back; what is late is told now."""
        self.pending.clear()
        self.banned_until = 0.0
        self.exchange.hidden_until.clear()
        self.exchange.half_stops, self.exchange.account.wallet.basis = 0, Decimal(1)

    def strike_what_is_new(self) -> None:
        """Let the faults that are about executions or orders happen to those made since the last call."""
        account = self.exchange.account
        for kind, made in zip(MADE, (account.fills, account.orders) * 2, strict=True):
            for each in made[self._looked_at[kind] :]:
                if fault := self._struck(lambda f, kind=kind: f.kind == kind):
                    self.exchange.tell(each, fault.at_work().seconds or 0, fault.row)
            self._looked_at[kind] = len(made)

    async def deliver(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Bring a request to the exchange, through the fault that is ordered for it or that a crash brings along."""
        fault = self._take(scope["path"])
        if fault is None:
            await app(scope, receive, send)
        else:
            call = Call(self, fault.at_work(), app, scope, await Request(scope, receive).body(), send)
            for step in KINDS[call.fault.kind]:
                await step(call)
        self.answered.set()
        self.answered = asyncio.Event()

    def _take(self, path: str) -> Fault | None:
        """Return the fault that applies to a request for `path`, one time less of it remaining."""
        if time.monotonic() < self.banned_until:
            return Fault(kind="ban", seconds=0)
        if fault := self._struck(lambda f: f.kind not in LASTING and (f.path or PATHS.get(f.kind, "")) in path):
            return fault
        crash = self.exchange.config.crash
        crashing = crash is not None and crash.lasts(self.exchange.clock.now_ms())
        return self._crash if crashing and self._crash.strikes() else None

    def _struck(self, wanted: Callable[["Fault"], bool]) -> Fault | None:
        """Return the first wanted fault that strikes, one time less of it remaining."""
        for fault in filter(wanted, self.pending):
            if fault.strikes():
                fault.times -= 1
                if not fault.times:
                    self.pending.remove(fault)
                return fault
        return None

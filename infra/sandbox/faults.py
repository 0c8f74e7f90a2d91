"""The fault bench: what can go wrong between a trader and an exchange, on demand.

A fault applies to the next `times` requests whose path contains `path`, or to a seeded share of them. Each kind is one
function: it is given the request and decides what becomes of it. Kinds that make the venue itself misbehave hand a
quirk to the handlers.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.sandbox.exchange import Exchange
from tasks.core.errors import InputError


@dataclass
class Fault:
    """One order to misbehave.

    seconds: of latency, of silence before a dropped answer, of a ban, of skew. status: the HTTP code.
    share: of the requests that match, chosen by `seed`; the others pass.
    """

    kind: str
    path: str = ""
    times: int = 1
    seconds: float | None = None
    status: int | None = None
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"fault kind {self.kind!r}: choose one of {' '.join(sorted(KINDS))}")
        if self.times < 1:
            raise InputError(f"fault times is {self.times}: give 1 or more")
        if not 0 < self.share <= 1:
            raise InputError(f"fault share is {self.share}: give more than 0 and at most 1")
        self._luck = random.Random(self.seed)

    def strikes(self) -> bool:
        return self._luck.random() < self.share

    async def act(self, call: "Call") -> None:
        await KINDS[self.kind](self, call)

    async def any_of(self, kinds: tuple[str, ...], call: "Call") -> None:
        await KINDS[self._luck.choice(kinds)](self, call)


@dataclass
class Call:
    """One request on its way to the exchange."""

    exchange: Exchange
    bench: "FaultBench"
    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send

    async def serve(self) -> None:
        await self.app(self.scope, self.receive, self.send)

    async def serve_unheard(self) -> list[Message]:
        """Let the exchange carry the request out; nobody hears the answer, which is returned."""
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self.app(dict(self.scope), self.receive, keep)
        return answer

    async def keep_request(self) -> None:
        """Read the request to its end, so that it can be delivered more than once."""
        messages = [await self.receive()]
        while messages[-1].get("more_body"):
            messages.append(await self.receive())
        body = b"".join(message.get("body", b"") for message in messages)

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        self.receive = again

    async def refuse(self, code: int, message: str, status: int | None) -> None:
        body = {"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}, "time": self.exchange.now_ms}
        await self.reply(status or 200, "application/json", json.dumps(body).encode())

    async def reply(self, status: int, content_type: str, body: bytes) -> None:
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def hang_up(self) -> None:
        """Close the connection without an answer; uvicorn keeps its transport behind `send`."""
        self.send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's request cycle, not ASGI's
        await asyncio.sleep(0.01)


async def timeout_after_accept(fault: Fault, call: Call) -> None:
    """The exchange acts, the answer never arrives."""
    await call.serve_unheard()
    await asyncio.sleep(fault.seconds or 0)
    await call.hang_up()


async def drop(fault: Fault, call: Call) -> None:
    """The connection closes before the exchange has seen the request."""
    await asyncio.sleep(fault.seconds or 0)
    await call.hang_up()


async def http_500(fault: Fault, call: Call) -> None:
    await call.reply(fault.status or 500, "text/plain", b"Internal Server Error")


async def rate_limit(fault: Fault, call: Call) -> None:
    await call.refuse(10006, "Too many visits. Exceeded the API Rate Limit.", fault.status)


async def ban(fault: Fault, call: Call) -> None:
    """From here on nothing is answered but 403, for some seconds (10 if not said)."""
    if not call.bench.banned():
        call.bench.banned_until = time.monotonic() + (10 if fault.seconds is None else fault.seconds)
    await call.refuse(10006, "access too frequent, please try again in 10 minutes", fault.status or 403)


async def insufficient_margin(fault: Fault, call: Call) -> None:
    await call.refuse(110007, "ab not enough for new order", fault.status)


async def html(fault: Fault, call: Call) -> None:
    """A proxy's page where JSON is expected."""
    page = b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>Please wait</body></html>"
    await call.reply(fault.status or 200, "text/html; charset=utf-8", page)


async def latency(fault: Fault, call: Call) -> None:
    await asyncio.sleep(2.0 if fault.seconds is None else fault.seconds)
    await call.serve()


async def duplicate(_fault: Fault, call: Call) -> None:
    """The request is delivered twice, and it is the second delivery's answer that is heard."""
    await call.keep_request()
    await call.serve_unheard()
    await call.serve()


async def late(fault: Fault, call: Call) -> None:
    """The connection closes at once, and the exchange sees the request some seconds (0.5) later."""
    await call.keep_request()
    await call.hang_up()
    await asyncio.sleep(0.5 if fault.seconds is None else fault.seconds)
    await call.serve_unheard()


async def reorder(fault: Fault, call: Call) -> None:
    """The exchange acts at once, but its answer comes after that of a later request, or after `seconds` (1)."""
    answer = await call.serve_unheard()
    await call.bench.next_answer(1.0 if fault.seconds is None else fault.seconds)
    for message in answer:
        await call.send(message)


async def liquidation(_fault: Fault, call: Call) -> None:
    """The venue's risk engine closes every position at the present price, before the request is seen."""
    call.exchange.liquidate()
    await call.serve()


async def clock_skew(fault: Fault, call: Call) -> None:
    """The venue's clock is `seconds` (30) ahead: it says so, and finds our signature too old."""
    await _with_quirk("clock_skew", call, 30.0 if fault.seconds is None else fault.seconds)


async def delisting(_fault: Fault, call: Call) -> None:
    """Nothing is listed any more; positions may be closed, and nothing opened."""
    await _with_quirk("delisting", call)


async def reject_stop(_fault: Fault, call: Call) -> None:
    """Orders are taken without their stop; setting one later is refused."""
    await _with_quirk("reject_stop", call)


async def partial_fill(_fault: Fault, call: Call) -> None:
    """Only half of what an order asks for is there to be taken."""
    await _with_quirk("partial_fill", call)


async def partial_fill_cancel(_fault: Fault, call: Call) -> None:
    """Half of an order is taken, and the venue cancels the rest, also of a limit order."""
    await _with_quirk("partial_fill_cancel", call)


async def _with_quirk(quirk: str, call: Call, size: float = 1.0) -> None:
    call.scope["quirks"] = {quirk: size}
    await call.serve()


async def somehow(fault: Fault, call: Call) -> None:
    """One of what can happen on the way to any exchange."""
    await fault.any_of(("timeout_after_accept", "drop", "http_500", "rate_limit", "html", "duplicate"), call)


KINDS: dict[str, Callable[[Fault, Call], Awaitable[None]]] = {
    fault.__name__: fault
    for fault in (
        timeout_after_accept, drop, late, http_500, rate_limit, ban, html, latency, duplicate, reorder,
        insufficient_margin, liquidation, clock_skew, delisting, reject_stop, partial_fill,
        partial_fill_cancel, somehow,
    )
}  # fmt: skip


@dataclass
class FaultBench:
    """The faults that are still to happen, first come first served."""

    pending: list[Fault] = field(default_factory=list)
    banned_until: float = 0.0
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    def banned(self) -> bool:
        return time.monotonic() < self.banned_until

    def take(self, path: str) -> Fault | None:
        """Return the fault that applies to a request for `path`, one time less of it remaining."""
        if self.banned():
            return Fault("ban")
        for fault in self.pending:
            if fault.path in path and fault.strikes():
                fault.times -= 1
                if not fault.times:
                    self.pending.remove(fault)
                return fault
        return None

    def clear(self) -> None:
        self.pending.clear()
        self.banned_until = 0.0

    def listed(self) -> list[dict[str, object]]:
        return [asdict(fault) for fault in self.pending]

    def answered(self) -> None:
        """Let go of the answers that waited for this one."""
        self._answered.set()
        self._answered = asyncio.Event()

    async def next_answer(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answered.wait(), seconds)

"""The fault bench: what can go wrong between a trader and an exchange, on demand.

A fault applies to the next `times` requests whose path contains `path`. Each kind is one function: it is given the
request and decides what becomes of it. Kinds that make the venue itself misbehave hand a quirk to the handlers.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.sandbox.exchange import Exchange
from tasks.core.errors import InputError


@dataclass
class Fault:
    """One order to misbehave. seconds: of latency, or of silence before a dropped answer; status: the HTTP code."""

    kind: str
    path: str = ""
    times: int = 1
    seconds: float | None = None
    status: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"fault kind {self.kind!r}: choose one of {' '.join(sorted(KINDS))}")
        if self.times < 1:
            raise InputError(f"fault times is {self.times}: give 1 or more")

    async def act(self, call: "Call") -> None:
        await KINDS[self.kind](self, call)


@dataclass
class Call:
    """One request on its way to the exchange."""

    exchange: Exchange
    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send

    async def serve(self) -> None:
        await self.app(self.scope, self.receive, self.send)

    async def serve_unheard(self) -> None:
        """Let the exchange carry the request out; nobody hears the answer."""

        async def swallow(_message: Message) -> None:
            return None

        await self.app(self.scope, self.receive, swallow)

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
    body = {"retCode": 10006, "retMsg": "Too many visits. Exceeded the API Rate Limit.", "result": {}, "retExtInfo": {}}
    body["time"] = call.exchange.now_ms
    await call.reply(fault.status or 200, "application/json", json.dumps(body).encode())


async def html(fault: Fault, call: Call) -> None:
    """A proxy's page where JSON is expected."""
    page = b"<!DOCTYPE html><html><head><title>Attention Required!</title></head><body>Please wait</body></html>"
    await call.reply(fault.status or 200, "text/html; charset=utf-8", page)


async def latency(fault: Fault, call: Call) -> None:
    await asyncio.sleep(2.0 if fault.seconds is None else fault.seconds)
    await call.serve()


async def reject_stop(_fault: Fault, call: Call) -> None:
    """Orders are taken without their stop; setting one later is refused."""
    await _with_quirk("reject_stop", call)


async def partial_fill(_fault: Fault, call: Call) -> None:
    """Only half of what an order asks for is there to be taken."""
    await _with_quirk("partial_fill", call)


async def _with_quirk(quirk: str, call: Call) -> None:
    call.scope["quirks"] = {quirk}
    await call.serve()


KINDS: dict[str, Callable[[Fault, Call], Awaitable[None]]] = {
    fault.__name__: fault
    for fault in (timeout_after_accept, drop, http_500, rate_limit, html, latency, reject_stop, partial_fill)
}


@dataclass
class FaultBench:
    """The faults that are still to happen, first come first served."""

    pending: list[Fault] = field(default_factory=list)

    def take(self, path: str) -> Fault | None:
        """Return the fault that applies to a request for `path`, one time less of it remaining."""
        for fault in self.pending:
            if fault.path in path:
                fault.times -= 1
                if not fault.times:
                    self.pending.remove(fault)
                return fault
        return None

    def listed(self) -> list[dict[str, object]]:
        return [asdict(fault) for fault in self.pending]

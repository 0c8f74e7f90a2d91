"""The sandbox as an ASGI app: Bybit's V5 paths over one exchange, the admin paths, and the fault bench in front."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from infra.sandbox import account_api, market_api, order_api
from infra.sandbox.admin import admin_router, refuse
from infra.sandbox.auth import check_signature
from infra.sandbox.clock import wall_ms
from infra.sandbox.config import SandboxConfig
from infra.sandbox.errors import BybitError, bad_parameter
from infra.sandbox.exchange import Exchange
from infra.sandbox.faults import Call, Fault, FaultBench
from infra.sandbox.market_api import Params
from infra.sandbox.scenario import ERROR_SHARE
from infra.sandbox.views import Json
from tasks.core.errors import InputError

Handler = Callable[[Exchange, Params], Json]
READS: dict[str, Handler] = {**market_api.ENDPOINTS, **account_api.ENDPOINTS}
WRITES: dict[str, Handler] = {**order_api.ENDPOINTS}


@dataclass
class Venue:
    exchange: Exchange
    bench: FaultBench
    crash: Fault

    def trouble(self, path: str) -> Fault | None:
        """Return the fault ordered for a request, or the one that a crash brings with it."""
        ordered = self.bench.take(path)
        crashing = ordered is None and self.exchange.crashing(self.exchange.clock.now_ms())
        return self.crash if crashing and self.crash.strikes() else ordered


class SandboxApp(FastAPI):
    """FastAPI with the fault bench outside of everything, where the connection can still be cut."""

    venue: Venue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v5/"):
            await super().__call__(scope, receive, send)
            return
        self.venue.exchange.requests[scope["path"]] += 1
        ex, bench = self.venue.exchange, self.venue.bench
        fault = self.venue.trouble(scope["path"])
        call = Call(ex, bench, super().__call__, scope, receive, send)
        if fault is None:
            await call.serve()
        else:
            await fault.act(call)
        bench.answered()


def create_app(config: SandboxConfig) -> SandboxApp:
    """Build the exchange and the app around it; raises InputError if the configuration makes no sense."""
    exchange, bench = Exchange(config), FaultBench()
    app = SandboxApp(title="Quarterdeck sandbox exchange", docs_url=None, redoc_url=None, openapi_url=None)
    app.venue = Venue(exchange, bench, Fault("somehow", share=ERROR_SHARE, seed=config.seed))
    app.include_router(admin_router(exchange, bench))
    app.add_exception_handler(InputError, refuse)

    @app.get("/v5/{path:path}")
    async def read(path: str, request: Request) -> JSONResponse:
        return _answer(exchange, request, path, READS, request.url.query, dict(request.query_params))

    @app.post("/v5/{path:path}")
    async def write(path: str, request: Request) -> JSONResponse:
        body = (await request.body()).decode()
        return _answer(exchange, request, path, WRITES, body, None)

    return app


def _answer(
    ex: Exchange, request: Request, path: str, handlers: dict[str, Handler], payload: str, params: Params | None
) -> JSONResponse:
    """Run one endpoint to its end, at the market's present time; errors are HTTP 200 with a retCode."""
    handler = handlers.get(path)
    if handler is None:
        return JSONResponse({"error": f"no such endpoint: {request.method} /v5/{path}"}, status_code=404)
    ex.catch_up()
    ex.quirks = request.scope.get("quirks", {})
    ex.skew_ms = round(ex.quirks.get("clock_skew", 0) * 1000)
    try:
        if path not in market_api.ENDPOINTS:
            clocks = [now + ex.skew_ms for now in (ex.now_ms, wall_ms())]
            check_signature(request.headers, payload, ex.config.key, ex.config.secret, clocks)
        result = handler(ex, _json_params(payload) if params is None else params)
    except BybitError as e:
        return _envelope(ex, e.code, e.message, {})
    finally:
        ex.save(changed=path in WRITES)
    ex.forget_closed()
    return _envelope(ex, 0, "OK", result)


def _json_params(body: str) -> Params:
    """Return the fields of a POST as text, as Bybit takes them."""
    try:
        fields = json.loads(body or "{}", parse_float=str, parse_int=str)
    except json.JSONDecodeError:
        raise bad_parameter("params error: body is not JSON") from None
    if not isinstance(fields, dict):
        raise bad_parameter("params error: body is not an object")
    return {name: _as_text(value) for name, value in fields.items() if value is not None}


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _envelope(ex: Exchange, code: int, message: str, result: Json) -> JSONResponse:
    body = {"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": ex.now_ms + ex.skew_ms}
    return JSONResponse(body)

"""The sandbox as an ASGI app: Bybit's V5 paths over one exchange, the admin paths, and the fault bench in front."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from urllib.parse import unquote

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from infra.sandbox.admin import admin_routes, refuse
from infra.sandbox.api import account, market, orders
from infra.sandbox.api.answers import OK, BybitAnswer, BybitError, bad_parameter
from infra.sandbox.api.query import Query
from infra.sandbox.clock import wall_ms
from infra.sandbox.config import SandboxConfig
from infra.sandbox.exchange import Exchange
from infra.sandbox.faults import FaultBench
from tasks.core.errors import InputError

READS = market.ENDPOINTS | account.ENDPOINTS
WRITES = orders.ENDPOINTS
AHEAD_MS = 1000
STALE = "invalid request, please check your server timestamp or recv_window param."


class SandboxApp:
    """The fault bench is outside of everything, where the connection can still be cut."""

    def __init__(self, config: SandboxConfig) -> None:
        """Build the exchange and what answers for it; raises InputError if the configuration makes no sense."""
        self.exchange = Exchange(config)
        self.bench = FaultBench(self.exchange)
        routes = admin_routes(self.exchange, self.bench)
        routes.append(Route("/v5/{path:path}", self._answer, methods=["GET", "POST"]))
        self._app = Starlette(routes=routes, exception_handlers={InputError: refuse, ValidationError: refuse})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/v5/"):
            self.exchange.requests[scope["path"]] += 1
            await self.bench.deliver(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, request: Request) -> JSONResponse:
        """Run one endpoint to its end, at the market's present time; errors are HTTP 200 with a retCode."""
        path, writes, ex = request.path_params["path"], request.method == "POST", self.exchange
        endpoint = (WRITES if writes else READS).get(path)
        if endpoint is None:
            return JSONResponse({"error": f"no such endpoint: {request.method} /v5/{path}"}, 404)
        payload = (await request.body()).decode() if writes else request.url.query
        ex.catch_up()
        self.bench.strike_what_is_new()
        query = Query(ex, request.query_params, request.scope.get("quirks", {}))
        outcome, result = OK, None
        try:
            if path not in market.ENDPOINTS:
                clocks = [query.now_ms, wall_ms() + query.now_ms - ex.now_ms]
                check_signature(request.headers, payload, ex.config.key, ex.config.secret, clocks)
            if writes:
                query.params = _fields(payload)
            result = endpoint(query)
        except BybitError as e:
            outcome = e
        ex.settle(changed=writes)
        return BybitAnswer(outcome, query.now_ms, result)


def _fields(body: str) -> dict[str, str]:
    """Return the fields of a POST as text, as Bybit takes them."""
    try:
        fields = json.loads(body or "{}", parse_float=str, parse_int=str)
        return {name: str(value) for name, value in fields.items() if value is not None}
    except (ValueError, AttributeError):
        raise bad_parameter("params error: body is not a JSON object") from None


def check_signature(headers: Mapping[str, str], payload: str, key: str, secret: str, clocks_ms: list[int]) -> None:
    """Raise BybitError unless the request is signed with our key, now.

    payload: the raw query string of a GET, the raw body of a POST. clocks_ms: the times that count as now; a client
    of a replay may sign with the exchange's time or with its own.
    """
    if headers.get("x-bapi-api-key") != key:
        raise BybitError(10003, "API key is invalid.")
    stamp, window = headers.get("x-bapi-timestamp", ""), headers.get("x-bapi-recv-window", "5000")
    if not stamp.isdigit() or not window.isdigit():
        raise BybitError(10002, STALE)
    for text in (payload, unquote(payload)):
        signed = hmac.new(secret.encode(), (stamp + key + window + text).encode(), hashlib.sha256).hexdigest()
        if hmac.compare_digest(signed, headers.get("x-bapi-sign", "")):
            break
    else:
        raise BybitError(10004, f"error sign! origin_string[{stamp}{key}{window}{payload}]")
    if not any(now - int(window) <= int(stamp) < now + AHEAD_MS for now in clocks_ms):
        times = f"req_timestamp[{stamp}],server_timestamp[{clocks_ms[0]}],recv_window[{window}]"
        raise BybitError(10002, f"{STALE} {times}")

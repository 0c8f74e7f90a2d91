"""A scripted HTTP server in Bybit's dialect: it answers what a test tells it to and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z

LINEAR = {
    "symbol": "BTCUSDT", "contractType": "LinearPerpetual", "status": "Trading", "baseCoin": "BTC",
    "quoteCoin": "USDT", "settleCoin": "USDT", "launchTime": "1585526400000", "deliveryTime": "0", "priceScale": "2",
    "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
    "priceFilter": {"minPrice": "0.10", "maxPrice": "1999999.80", "tickSize": "0.10"},
    "lotSizeFilter": {"maxOrderQty": "1190.000", "minOrderQty": "0.001", "qtyStep": "0.001", "minNotionalValue": "5"},
}  # fmt: skip
SPOT = {
    "symbol": "BTCUSDT", "baseCoin": "BTC", "quoteCoin": "USDT", "status": "Trading", "marginTrading": "none",
    "lotSizeFilter": {"basePrecision": "0.000001", "quotePrecision": "0.0000001", "minOrderQty": "0.000011",
                      "maxOrderQty": "83", "minOrderAmt": "5", "maxOrderAmt": "8000000"},
    "priceFilter": {"tickSize": "0.01"},
}  # fmt: skip
ORDER = {
    "symbol": "BTCUSDT", "orderId": "v-1", "orderLinkId": "qd-1", "side": "Buy", "orderType": "Market",
    "price": "88000.5", "qty": "0.010", "cumExecQty": "0.010", "cumExecValue": "870.123", "avgPrice": "87012.30",
    "orderStatus": "Filled", "stopOrderType": "", "triggerPrice": "", "stopLoss": "86000.00", "takeProfit": "",
    "rejectReason": "EC_NoError", "reduceOnly": False, "createdTime": "1767225599000", "updatedTime": "1767225599100",
}  # fmt: skip
FLAT = {"symbol": "BTCUSDT", "positionIdx": 0, "size": "0", "side": "", "leverage": "3"}


def ok(**result: object) -> dict[str, object]:
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": NOW_MS}


NONE = ok(list=[], nextPageCursor="")


def refused(code: int, said: str) -> dict[str, object]:
    return {"retCode": code, "retMsg": said, "result": {}, "retExtInfo": {}, "time": NOW_MS}


def _instruments(asked: "Asked") -> dict[str, object]:
    if asked.query.get("status") == "PreLaunch":
        return ok(category="linear", list=[])
    listed = LINEAR if asked.query["category"] == "linear" else SPOT
    return ok(category=asked.query["category"], list=[listed], nextPageCursor="")


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    query: dict[str, str]
    raw: str  # the body as it was on the wire

    @property
    def body(self) -> dict[str, object]:
        return json.loads(self.raw)


Answer = dict[str, object] | tuple[int, str] | Callable[[Asked], object]  # tuple: a status and text, not the venue's


@dataclass
class Stub:
    """`answers` by path; a list is used up one by one, its last answer stays."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, Answer | list[Answer]] = field(
        default_factory=lambda: {
            "/v5/market/time": ok(timeSecond=str(NOW_MS // 1000)),
            "/v5/market/instruments-info": _instruments,
            "/v5/position/list": ok(list=[FLAT], nextPageCursor=""),
        }
    )

    def requests(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def answer(self, asked: Asked) -> object:
        self.asked.append(asked)
        answer = self.answers.get(asked.path, (404, "<html>no such page</html>"))
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer(asked) if callable(answer) else answer


@contextmanager
def stub_venue(stub: Stub | None = None) -> Iterator[Stub]:
    stub = stub or Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each body waits 40 ms for the acknowledgement of its headers

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            answer = stub.answer(Asked(self.command, parts.path, query, raw))
            if answer == "drop":
                self.close_connection = True
                return
            status, text = answer if isinstance(answer, tuple) else (200, json.dumps(answer))
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if text.startswith("<") else "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_DELETE = _handle

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""The sandbox over plain HTTP and as a process: what it answers without ccxt, how it starts and how it ends."""

import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest
from sandbox_server import admin, advance, fault, running_sandbox, state

from tasks.settings import ROOT

BTC = "BTC/USDT:USDT"
START = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def url():
    with running_sandbox(start=START, stepped=True, symbols=(BTC,), seed=11) as running:
        yield running


def get(url: str, path: str, **params: object) -> dict:
    return httpx.get(f"{url}/v5/{path}", params=params).json()


def signed(url: str, method: str, path: str, payload: str, secret: str = "sandbox", **headers: str) -> dict:
    stamp = str(time.time_ns() // 1_000_000)
    sign = hmac.new(secret.encode(), f"{stamp}sandbox5000{payload}".encode(), hashlib.sha256).hexdigest()
    headers = {
        "X-BAPI-API-KEY": "sandbox",
        "X-BAPI-TIMESTAMP": stamp,
        "X-BAPI-RECV-WINDOW": "5000",
        "X-BAPI-SIGN": sign,
    } | headers
    if method == "GET":
        return httpx.get(f"{url}/v5/{path}?{payload}", headers=headers).json()
    return httpx.post(f"{url}/v5/{path}", content=payload, headers=headers).json()


# --- the dialect --------------------------------------------------------------------------------------------------


def test_every_answer_has_bybits_envelope(url):
    answer = get(url, "market/time")
    assert set(answer) == {"retCode", "retMsg", "result", "retExtInfo", "time"}
    assert answer["result"]["timeSecond"] == str(answer["time"] // 1000)


@pytest.mark.parametrize("category", ["option", "inverse", "spot"])
def test_categories_nothing_is_listed_in_are_empty(url, category):
    assert get(url, "market/instruments-info", category=category)["result"]["list"] == []


def test_nothing_is_waiting_to_be_launched(url):
    assert get(url, "market/instruments-info", category="linear", status="PreLaunch")["result"]["list"] == []


def test_klines_come_newest_first_and_respect_their_bounds(url):
    query = {"category": "linear", "symbol": "BTCUSDT", "interval": "60"}
    newest = get(url, "market/kline", **query, limit=5)["result"]["list"]
    times = [int(row[0]) for row in newest]
    assert times == sorted(times, reverse=True)
    bounded = get(url, "market/kline", **query, start=times[4], end=times[2])["result"]["list"]
    assert [int(row[0]) for row in bounded] == times[2:]
    assert bounded == newest[2:]
    late = get(url, "market/kline", **query, start=times[4], end=times[0], limit=2)["result"]["list"]
    assert [int(row[0]) for row in late] == times[:2]


@pytest.mark.parametrize(
    ("path", "params", "said"),
    [
        ("market/kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "7"}, "Invalid period"),
        ("market/kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "1", "start": "x"}, "start invalid"),
        ("market/orderbook", {"category": "spot", "symbol": "BTCUSDT"}, "symbol invalid"),
        ("market/tickers", {"category": "shares"}, "category"),
    ],
)
def test_wrong_parameters_are_10001_with_http_200(url, path, params, said):
    answer = get(url, path, **params)
    assert answer["retCode"] == 10001
    assert said in answer["retMsg"]


def test_private_endpoints_need_a_signature_that_fits_the_payload(url):
    assert get(url, "account/info")["retCode"] == 10003
    assert signed(url, "GET", "account/info", "")["retCode"] == 0
    assert signed(url, "GET", "account/info", "", secret="guess")["retCode"] == 10004
    assert signed(url, "GET", "account/info", "", **{"X-BAPI-TIMESTAMP": "soon"})["retCode"] == 10002
    assert signed(url, "POST", "order/create", "{not json")["retCode"] == 10001
    assert signed(url, "POST", "order/create", "[]")["retCode"] == 10001


def test_the_key_may_trade_and_may_not_withdraw(url):
    key = signed(url, "GET", "user/query-api", "")["result"]
    assert key["permissions"]["Wallet"] == []
    assert "Order" in key["permissions"]["ContractTrade"]
    assert key["readOnly"] == 0


def test_an_unknown_endpoint_is_404(url):
    assert httpx.get(f"{url}/v5/market/nonsense").status_code == 404


# --- admin --------------------------------------------------------------------------------------------------------


def test_the_state_tells_everything_that_happened(url):
    before = state(url)
    order = {"category": "linear", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Market", "qty": "0.010"}
    extras = {"orderLinkId": "one", "stopLoss": "1000", "takeProfit": "900000"}
    assert signed(url, "POST", "order/create", json.dumps(order | extras))["retCode"] == 0
    advance(url, 60)
    seen = state(url)
    (placed,) = seen["orders"]
    assert (placed["orderLinkId"], placed["status"], placed["qty"], placed["stop"]) == (
        "one",
        "filled",
        "0.010",
        "1000",
    )
    (fill,) = seen["fills"]
    assert (fill["orderLinkId"], fill["qty"], fill["reason"]) == ("one", "0.010", "entry")
    (position,) = seen["positions"]
    assert (position["symbol"], position["side"], position["size"]) == (BTC, "long", "0.010")
    assert (position["stopLoss"], position["takeProfit"], position["unprotected_s"]) == ("1000", "900000", 0)
    assert seen["unprotected_s"] == {BTC: 0}
    assert seen["requests"]["/v5/order/create"] == before["requests"].get("/v5/order/create", 0) + 1
    assert seen["clock"] > before["clock"]


def test_the_clock_moves_only_as_it_is_told(url):
    at = admin(url, "clock")["now_ms"]
    assert admin(url, "clock")["now_ms"] == at
    assert advance(url, 1.5)["now_ms"] == at + 1500
    refused = httpx.post(f"{url}/__admin/clock", json={"advance_s": -1})
    assert (refused.status_code, "only moves forward" in refused.text) == (400, True)


def test_faults_are_listed_used_up_and_cleared(url):
    fault(url, "http_500", "market/time", times=2)
    assert admin(url, "faults")["faults"][0]["times"] == 2
    assert httpx.get(f"{url}/v5/market/time").status_code == 500
    assert httpx.get(f"{url}/v5/market/tickers?category=linear").status_code == 200
    assert admin(url, "faults")["faults"][0]["times"] == 1
    admin(url, "faults", method="DELETE")
    assert httpx.get(f"{url}/v5/market/time").status_code == 200


@pytest.mark.parametrize("wanted", [{"kind": "gremlins"}, {"kind": "drop", "times": 0}, {"kind": "drop", "who": "me"}])
def test_a_wrong_fault_is_refused_in_one_line(url, wanted):
    refused = httpx.post(f"{url}/__admin/faults", json=wanted)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("fault ")


def test_rate_limits_and_html_come_with_the_status_asked_for(url):
    fault(url, "rate_limit", "market/time", status=403)
    answer = httpx.get(f"{url}/v5/market/time")
    assert (answer.status_code, answer.json()["retCode"]) == (403, 10006)
    fault(url, "html", "market/time", status=502)
    answer = httpx.get(f"{url}/v5/market/time")
    assert (answer.status_code, answer.text[:9]) == (502, "<!DOCTYPE")


def test_a_dropped_connection_has_no_answer(url):
    fault(url, "drop", "market/time")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/v5/market/time")


# --- the process --------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "infra.sandbox", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--candles", "BTC/USDT:USDT=/nowhere/x.parquet"], "/nowhere/x.parquet: no such candle file"),
        (["--candles", "nonsense"], "candles"),
        (["--symbols", "BTCUSDT"], "write BTC/USDT:USDT"),
        (["--start", "yesterday"], "--start yesterday: Input should be a valid datetime"),
        (["--speed", "0"], "--speed 0: Input should be greater than 0"),
        (["--cash", "-5"], "--cash -5: Input should be greater than 0"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, said):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_port_in_use_is_one_line_and_exit_code_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--port", str(taken.getsockname()[1]), "--start", "2024-01-02", "--stepped")
    assert done.returncode == 2
    assert "choose another with --port" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_with_a_client_connected(number):
    keys = {"QUARTERDECK_SANDBOX_KEY": "sandbox", "QUARTERDECK_SANDBOX_SECRET": "other"}
    command = [sys.executable, "-m", "infra.sandbox", "--port", "0", "--start", "2024-01-02", "--stepped"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | keys, stderr=subprocess.PIPE, text=True) as process:
        try:
            where = process.stderr.readline().split("url=")[1].split()[0]
            with httpx.Client() as client:
                assert client.get(f"{where}/v5/market/time").json()["retCode"] == 0
                assert signed(where, "GET", "account/info", "", secret="other")["retCode"] == 0
                process.send_signal(number)
                assert process.wait(timeout=60) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()

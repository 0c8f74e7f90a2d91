"""HMAC signatures as Bybit checks them (header form, V5)."""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import unquote

from infra.sandbox.answers import BybitError

AHEAD_MS = 1000
STALE = "invalid request, please check your server timestamp or recv_window param."


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

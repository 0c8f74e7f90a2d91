"""HMAC signatures as Bybit checks them (header form, V5)."""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import unquote

from infra.sandbox.errors import BybitError

AHEAD_MS = 1000


def check_signature(headers: Mapping[str, str], payload: str, key: str, secret: str, clocks_ms: list[int]) -> None:
    """Raise BybitError unless the request is signed with our key, now.

    payload: the raw query string of a GET, the raw body of a POST. clocks_ms: the times that count as now; a client
    of a replay may sign with the exchange's time or with its own.
    """
    if headers.get("x-bapi-api-key") != key:
        raise BybitError(10003, "API key is invalid.")
    stamp, window = headers.get("x-bapi-timestamp", ""), headers.get("x-bapi-recv-window", "5000")
    if not stamp.isdigit() or not window.isdigit():
        raise BybitError(10002, "invalid request, please check your server timestamp or recv_window param.")
    sign = headers.get("x-bapi-sign", "")
    texts = (stamp + key + window + payload, stamp + key + window + unquote(payload))
    if not any(hmac.compare_digest(_sign(text, secret), sign) for text in texts):
        raise BybitError(10004, f"error sign! origin_string[{texts[0]}]")
    if not any(now - int(window) <= int(stamp) < now + AHEAD_MS for now in clocks_ms):
        raise BybitError(
            10002,
            "invalid request, please check your server timestamp or recv_window param. "
            f"req_timestamp[{stamp}],server_timestamp[{clocks_ms[0]}],recv_window[{window}]",
        )


def _sign(text: str, secret: str) -> str:
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()

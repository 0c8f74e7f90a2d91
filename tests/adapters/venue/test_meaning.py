"""What a venue's answer means, through the very path it takes: ccxt's reading of the body, then our choice of error.

The small table runs anywhere; every code of the venues' own lists where ../shared has them.
"""

import json
from functools import cache

import ccxt
import pytest
from shared_data import SHARED

from tasks.adapters.venue import client
from tasks.adapters.venue.meaning import ErrorAnswer, Meaning, meaning_of, table
from tasks.core.errors import (
    DuplicateOrder,
    NotModified,
    OrderGone,
    OrderRejected,
    VenueBusy,
    VenueUnavailable,
)

VENUES = {"bybit": "bybit", "okx": "okx", "bitget": "bitget", "binanceusdm": "binance", "hyperliquid": "hyperliquid"}
ERRORS = {
    Meaning.ACCEPTED: VenueUnavailable,  # an error that says it is none: look it up
    Meaning.REFUSED: OrderRejected,
    Meaning.GONE: OrderGone,
    Meaning.DUPLICATE: DuplicateOrder,
    Meaning.NOT_MODIFIED: NotModified,
    Meaning.BUSY: VenueBusy,
    Meaning.UNKNOWN: VenueUnavailable,
}


@cache
def exchange(venue):
    return getattr(ccxt, venue)()


def body_of(venue, code, words):
    """Write an error as the venue does."""
    return {
        "bybit": {"retCode": int(code) if code.lstrip("-").isdigit() else code, "retMsg": words, "result": {}},
        "okx": {"code": "1", "msg": "", "data": [{"clOrdId": "a", "ordId": "", "sCode": code, "sMsg": words}]},
        "bitget": {"code": code, "msg": words, "requestTime": 1, "data": None},
        "binanceusdm": {"code": int(code) if code.lstrip("-").isdigit() else code, "msg": words},
        "hyperliquid": {"status": "ok", "response": {"type": "order", "data": {"statuses": [{"error": words}]}}},
    }[venue]


def said(venue, body, status=200, order=True):
    """Return our error for a body, by way of ccxt's."""
    ccxt_client, text = exchange(venue), body if isinstance(body, str) else json.dumps(body)
    url = "https://api.exchange.test/order"
    try:
        parsed = None if isinstance(body, str) else body
        ccxt_client.handle_errors(status, "Reason", url, "POST", {}, text, parsed, {}, None)
        ccxt_client.handle_http_status_code(status, "Reason", url, "POST", text)
    except ccxt.BaseError as e:
        return client.ours(ccxt_client, e, "send order qd-1", order)
    return None


# What each venue says most, and what it would cost to take it wrongly.
CODES = {
    "bybit": {
        Meaning.REFUSED: "10001 10003 10005 10010 110003 110004 110007 110014 110017 110090 110094 170131 170193",
        Meaning.GONE: "110001 110008 110010 110034 170139 170142 170143 170190 170213",
        Meaning.DUPLICATE: "110030 110072 170141",
        Meaning.NOT_MODIFIED: "34040 34036 110025 110026 110043",
        Meaning.BUSY: "-1 429 10002 10006 10018 10429 110063 110114 170005 170222",
        Meaning.UNKNOWN: "10000 10016 40004 110079 170007 170032 170035 170146 170147 170212 170234 170310 987654",
    },
    "okx": {
        Meaning.REFUSED: "1 50111 50113 50120 51000 51008 51006 51121 51250 51278 59102",
        Meaning.GONE: "51023 51063 51169 51400 51401 51402 51503 51603",
        Meaning.DUPLICATE: "51016 51065",
        Meaning.BUSY: "50001 50011 50013 50040 50061 50102 51029 51030",
        Meaning.UNKNOWN: "50004 50026 51054 51149 51412 987654",
    },
    "bitget": {
        Meaning.REFUSED: "40009 40012 40014 40754 40762 40891 43012 45110 40917",
        Meaning.GONE: "22002 40109 40768 40838 43001 43020 43025 45057",
        Meaning.DUPLICATE: "40786 43118 50060",
        Meaning.BUSY: "429 30038 40008 40200 40604 41114",
        Meaning.UNKNOWN: "40010 40015 40725 40910 43059 45001 987654",
    },
    "binanceusdm": {
        Meaning.REFUSED: "-1013 -1022 -1111 -1121 -2010 -2014 -2015 -2019 -2021 -2022 -2027 -4061 -4120 -4164 -5022",
        Meaning.GONE: "-2011 -2013 -20124",
        Meaning.DUPLICATE: "-4111 -4116 -20132",
        Meaning.NOT_MODIFIED: "-4046 -4059 -5027",
        Meaning.BUSY: "-1003 -1008 -1015 -1021 -5028",
        Meaning.UNKNOWN: "-1000 -1001 -1006 -1007 -2012 -4117 -987654",
    },
}
ROWS = [(v, m, code) for v, kinds in CODES.items() for m, codes in kinds.items() for code in codes.split()]
WORDS = [
    ("hyperliquid", Meaning.REFUSED, "Insufficient margin to place order. asset=4"),
    ("hyperliquid", Meaning.REFUSED, "Reduce only order would increase position. asset=0"),
    ("hyperliquid", Meaning.REFUSED, "Invalid TP/SL price. asset=0"),
    ("hyperliquid", Meaning.GONE, "Order was never placed, already canceled, or filled. asset=0"),
    ("hyperliquid", Meaning.BUSY, "Too many cumulative requests sent (12 > 10) for cumulative volume traded $4."),
    ("hyperliquid", Meaning.BUSY, "Only post-only orders allowed immediately after a network upgrade. asset=0"),
    ("hyperliquid", Meaning.UNKNOWN, "Something that it has never said before"),
    ("bybit", Meaning.GONE, (110017, "current position is zero, cannot fix reduce-only order qty")),
    ("bybit", Meaning.GONE, (130125, "current position is zero, cannot fix reduce-only order qty")),
    ("binanceusdm", Meaning.DUPLICATE, (-2010, "Duplicate order sent.")),
    ("binanceusdm", Meaning.REFUSED, (-2011, "This action is disabled on this account.")),
    ("binanceusdm", Meaning.BUSY, (-1008, "Server is currently overloaded with other requests.")),
    ("bitget", Meaning.UNKNOWN, ("bad-request", "system exception")),
]


@pytest.mark.parametrize(("venue", "meaning", "code"), ROWS)
def test_each_code_of_weight_means_this(venue, meaning, code):
    error = said(venue, body_of(venue, code, "words that tell nothing"), 400 if venue == "binanceusdm" else 200)
    assert type(error) is ERRORS[meaning], error
    assert code in str(error)


@pytest.mark.parametrize(("venue", "meaning", "words"), WORDS)
def test_words_tell_what_a_code_does_not(venue, meaning, words):
    code, text = words if isinstance(words, tuple) else ("", words)
    error = said(venue, body_of(venue, str(code), text))
    assert type(error) is ERRORS[meaning], error


@pytest.mark.parametrize(
    ("venue", "status", "text", "kind"),
    [
        ("bybit", 403, "<html><h1>403 ERROR</h1>configured to block access from your country</html>", VenueBusy),
        ("bybit", 403, "access too frequent, please try again later", VenueBusy),
        ("okx", 429, "slow down", VenueBusy),
        ("binanceusdm", 418, "banned until 1700000000000", VenueBusy),
        ("binanceusdm", 503, "Service Unavailable", VenueBusy),
        ("binanceusdm", 503, "", VenueUnavailable),  # orders were filled after one
        ("binanceusdm", 503, "Unknown error, please check your request or try again later.", VenueUnavailable),
        ("binanceusdm", 408, "", VenueUnavailable),
        ("bitget", 502, "<html>Bad Gateway</html>", VenueUnavailable),
        ("hyperliquid", 504, "", VenueUnavailable),
        ("hyperliquid", 422, "Failed to deserialize the JSON body", OrderRejected),
    ],
)
def test_where_there_is_no_code_the_status_tells(venue, status, text, kind):
    error = said(venue, text, status)
    assert type(error) is kind, error
    assert "\n" not in str(error)


def test_a_blocked_country_is_one_line():
    assert str(said("bybit", "<html>\n<h1>403</h1>\n</html>", 403)) == (
        "send order qd-1: bybit refuses this machine's address (HTTP 403): its country or network is blocked there; "
        "an account of a region has its own QUARTERDECK_VENUE_HOST"
    )


def test_an_answer_of_which_one_row_was_taken_is_unknown():
    """An entry whose stop was refused may be open: a refusal would forget it."""
    rows = [{"resting": {"oid": 1}}, {"error": "Invalid TP/SL price. asset=0"}]
    body = {"status": "ok", "response": {"type": "order", "data": {"statuses": rows}}}
    assert type(said("hyperliquid", body)) is VenueUnavailable
    taken = {"ordId": "1", "sCode": "0", "sMsg": ""}
    refused = {"ordId": "", "sCode": "51008", "sMsg": "Insufficient balance"}
    assert type(said("okx", {"code": "1", "msg": "", "data": [taken, refused]})) is VenueUnavailable
    assert type(said("okx", {"code": "1", "msg": "", "data": [refused, refused]})) is OrderRejected


@pytest.mark.parametrize("venue", VENUES)
def test_no_code_has_two_meanings(venue):
    path = client.__file__.replace("client.py", f"codes/{venue}.json")
    with open(path, encoding="utf-8") as file:
        codes = [code for listed in json.load(file)["codes"].values() for code in listed]
    assert len(codes) == len(set(codes))
    assert meaning_of(venue, ErrorAnswer("no such code", "")) is Meaning.UNKNOWN


# --- every code the venues list ------------------------------------------------------------------------------------

# Each of these sold a position, or forgot an order, when it was taken for a refusal.
NEVER_REFUSED = {"bybit": ["429", "-1", "170035", "170191", "170212", "170310", "40004", "110114"]}


def listed(venue):
    path = SHARED / "venues" / VENUES[venue] / "errors.json"
    return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.parametrize("venue", VENUES)
def test_every_code_of_the_venue_is_judged_and_reaches_its_error(venue):
    rows = listed(venue)
    if not rows:
        pytest.skip(f"needs the recorded data in {SHARED / 'venues'}")
    wrong = []
    for row in rows:
        code, words = row["code"], row["meaning"].replace("0x..", "0x0f")
        if code.startswith("HTTP"):
            status = code.split()[1].replace("5XX", "500")
            words = code.removeprefix(f"HTTP {status}").strip() or "nothing"
            error = said(venue, words, int(status))
            meaning = meaning_of(venue, ErrorAnswer(f"HTTP {status}", f"Reason {words}"))
        elif code.lstrip("-").isdigit():
            meaning = table(venue).codes.get(code)
            if meaning is None or meaning is Meaning.ACCEPTED:
                wrong += [code] * (meaning is None)
                continue
            error = said(venue, body_of(venue, code, ""))
        else:
            meaning = meaning_of(venue, ErrorAnswer("", code.removeprefix("err: ")))
            if meaning is Meaning.ACCEPTED:
                continue
            error = said(venue, body_of(venue, "bad-request", code.removeprefix("err: ")))
            if meaning is Meaning.UNKNOWN and not any(word in code for word in ("system", "System", "internal")):
                wrong.append(code)
        if type(error) is not ERRORS[meaning] or (code in NEVER_REFUSED.get(venue, ()) and meaning is Meaning.REFUSED):
            wrong.append((code, meaning, error))
    assert not wrong


@pytest.mark.parametrize("venue", VENUES)
def test_every_recorded_error_body_has_a_meaning(venue):
    bodies = sorted((SHARED / "venues" / VENUES[venue] / "rest").glob("err_*.json"))
    if not bodies:
        pytest.skip(f"needs the recorded data in {SHARED / 'venues'}")
    unread = []
    for path in bodies:
        body = json.loads(path.read_text())["body"]
        if not isinstance(body, dict) or "mixed" in path.stem or path.stem in ("err_0_2", "err_30084"):
            continue  # answers that ccxt takes for done
        error = said(venue, body, order=True)
        if error is None or "no usable answer" in str(error):
            unread.append((path.name, error))
    assert not unread

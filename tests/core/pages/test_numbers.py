"""Numbers are written for people: no exponent, no digits nobody asked for, a dash where nothing is known."""

from decimal import Decimal

import pytest

from tasks.core.pages.numbers import amount, fixed, interval, money, percent, plain, price


@pytest.mark.parametrize(
    ("value", "text"),
    [(83540.2, "83,540.2"), (84000.0, "84,000"), (0.065321, "0.065321"), (1_234_567.0, "1,234,567"), (0.0, "0")],
)
def test_prices_are_written_for_people(value, text):
    assert plain(value, thousands=True) == text


def test_a_decimal_is_written_in_full_and_a_float_to_the_digits_asked_for():
    assert plain(Decimal("0.00000012300")) == "0.000000123"
    assert plain(1.5e-7) == "0.00000015"
    assert (plain(58.12, 3), plain(-12.25, 3)) == ("58.1", "-12.2")


def test_what_is_unknown_is_a_dash():
    assert {plain(None), fixed(None), percent(None), interval(None)} == {"–"}


def test_what_is_rounded_to_nothing_has_no_minus():
    assert (fixed(-0.001), fixed(Decimal("-0.001"), sign=True), amount(Decimal("-1E-30"))) == ("0.00", "+0.00", "0.00")


def test_an_interval_without_bounds_is_its_estimate():
    assert interval({"estimate": 1.234, "low": None, "high": None}) == "+1.23"
    few = {"estimate": 1.234, "low": None, "high": None, "effective_n": 7.6}
    assert interval(few) == "+1.23 [none: effective n = 8]"
    assert interval({"estimate": 1.2344, "low": -0.5, "high": 3.0}, 3) == "+1.234 [-0.500, +3.000]"


@pytest.mark.parametrize(
    ("amount", "text"),
    [("1234.5", "+1,234.50 USDT"), ("-0.004321", "-0.0043 USDT"), ("0", "+0.00 USDT"), ("0.01", "+0.01 USDT")],
)
def test_money_has_its_currency_and_as_many_digits_as_say_something(amount, text):
    assert money(Decimal(amount), "USDT", sign=True) == text


def test_an_average_price_has_no_more_digits_than_one_can_use():
    assert price(Decimal("64123.456666666666666667")) == "64,123.457"
    assert price(None) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1234.5", "+1,234.50"), ("-0.00031", "-0.00031"), ("0.0000004567", "+0.00000046"), ("0", "+0.00"),
        ("1E-24", "+0.00"),
    ],
)  # fmt: skip
def test_what_a_trade_brought_in_bitcoin_is_no_zero_and_what_a_division_left_is(value, text):
    assert amount(Decimal(value), sign=True) == text

"""Work on many symbols: one that fails leaves the others theirs."""

import pytest

from tasks.stage import apart, result


def test_one_symbols_defect_takes_the_place_of_its_result_only():
    found = apart(lambda _, divisor: 6 // divisor, {"A": 2, "B": 0, "C": 3})
    assert (result(found["A"]), result(found["C"])) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        result(found["B"])


def test_what_failed_in_an_earlier_stage_is_not_worked_on_again():
    broken = ValueError("in an earlier stage")
    found = apart(lambda symbol, _: symbol, {"A": 1, "B": broken})
    assert found == {"A": "A", "B": broken}

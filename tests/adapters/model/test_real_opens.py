"""What became of the openings that language models really asked for, once parser and guard were through with them."""

from collections import Counter

import pytest
import real_opens
from guard_fuzz import FuzzCase, breach

pytestmark = pytest.mark.skipif(not real_opens.there(), reason=f"needs the recorded replies and {real_opens.CANDLES}")


@pytest.mark.parametrize("flat", [False, True], ids=["as stated", "flat"])
@pytest.mark.parametrize("sided", [True, False], ids=["sided", "distance"])
def test_no_order_of_a_real_decision_breaks_a_limit(flat, sided):
    found = real_opens.opens(flat, sided)
    assert len(found) == 66
    for one in found:
        if one.verdict is None:
            assert one.refused
            continue
        broken, verdict = breach(FuzzCase(one.decision, one.snapshot, one.state, real_opens.LIMITS, 0, False))
        assert not broken
        assert verdict.codes == one.verdict.codes
        assert bool(one.intents) is one.verdict.allowed
        for intent in one.intents:
            assert (intent.quantity, intent.stop) == (one.verdict.quantity, one.verdict.stop)


def test_every_reason_is_counted():
    found = real_opens.opens(flat=True, sided=False)
    reasons = Counter(one.refused or ("allowed" if one.verdict.allowed else "denied") for one in found)
    assert sum(reasons.values()) == 66
    assert reasons["allowed"] > 0

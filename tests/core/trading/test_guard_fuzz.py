"""The short form of `make fuzz`."""

from collections import Counter

from guard_fuzz import breach, cases

SEED, COUNT = 20_261_121, 6000


def test_no_random_decision_breaks_an_invariant():
    judged = [(*breach(case), case.decision) for case in cases(SEED, COUNT)]
    assert not Counter(found for found, _, _ in judged if found)
    passed = Counter(decision.action for _, verdict, decision in judged if verdict.allowed)
    assert passed["OPEN_LONG"] > 100, "too few pass for their invariants to be looked at"
    assert passed["OPEN_SHORT"] > 100
    assert passed["ADD"] >= 1

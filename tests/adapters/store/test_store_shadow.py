"""Challengers' answers and paper books: the first answer counts, and of two writers of a book one is refused."""

from datetime import timedelta
from decimal import Decimal

import pytest
from guard_cases import GRID
from store_samples import AT, a_cycle, a_decision, a_full_cycle, a_verdict, an_intent, minutes

from tasks.adapters.store.store import Store
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import PaperBookState, ShadowDecision


def a_shadow(cycle_id: str = "c1", **fields: object) -> ShadowDecision:
    values = {
        "cycle_id": cycle_id, "strategy": "default", "decider": "rules", "symbol": GRID.symbol, "as_of": AT,
        "state": AccountState(instrument=GRID), "decided": a_decision(), "verdict": a_verdict(),
        "intents": (an_intent(),),
    }  # fmt: skip
    return ShadowDecision(**values | fields)


def keep(store: Store, shadow: ShadowDecision) -> None:
    """Keep an answer about a cycle that was begun."""
    begun = a_cycle(shadow.cycle_id, strategy=shadow.strategy, symbol=shadow.symbol, as_of=shadow.as_of)
    store.cycles.begin(begun, shadow.as_of)
    store.shadow.keep(shadow)


def a_book(state: str = "one", equity: int = 10_000, until: int = 0) -> PaperBookState:
    return PaperBookState(state=state, equity=Decimal(equity), until=AT + minutes(until))


@pytest.mark.parametrize(
    "theirs", [a_book("two", until=5), a_book("two"), a_book("one", until=5)], ids=["both", "state", "until"]
)
def test_of_two_writers_who_read_the_same_book_the_second_is_refused(store_url, open_store, theirs):
    """Another run has passed the same bars over it: to write once more would undo what that one kept."""
    first, second = open_store(store_url), open_store(store_url)
    assert first.paper_books.save("default", "rules", a_book(), None)
    read = [each.paper_books.get("default", "rules") for each in (first, second)]
    assert first.paper_books.save("default", "rules", theirs, read[0])
    assert not second.paper_books.save("default", "rules", a_book("late", until=10), read[1])
    assert second.paper_books.get("default", "rules") == theirs
    assert second.paper_books.save("default", "rules", a_book("late", until=10), theirs)


def test_of_two_writers_of_a_first_book_the_second_is_refused(store_url, open_store):
    first, second = open_store(store_url), open_store(store_url)
    assert first.paper_books.get("default", "rules") is second.paper_books.get("default", "rules") is None
    assert first.paper_books.save("default", "rules", a_book("mine"), None)
    assert not second.paper_books.save("default", "rules", a_book("late"), None)
    assert second.paper_books.get("default", "rules") == a_book("mine")


def test_a_book_is_its_strategys_and_its_challengers_own(store):
    for strategy, decider in (("default", "rules"), ("default", "hold"), ("other", "rules")):
        assert store.paper_books.save(strategy, decider, a_book(f"{strategy}/{decider}"), None)
    moved = a_book("moved", until=5)
    assert store.paper_books.save("default", "rules", moved, a_book("default/rules"))
    assert store.paper_books.get("default", "rules") == moved
    assert store.paper_books.get("default", "hold").state == "default/hold"
    assert store.paper_books.get("other", "rules").state == "other/rules"


def test_the_first_answer_of_a_decider_in_a_cycle_is_its_only_one(store):
    keep(store, a_shadow())
    keep(store, a_shadow(decided=a_decision("second thoughts")))
    keep(store, a_shadow(decider="hold"))
    [kept] = store.shadow.between("default", "rules", AT - minutes(5), AT)
    assert kept == a_shadow()


def test_answers_are_found_by_strategy_decider_and_time_with_the_later_end_included(store):
    for i in range(4):
        keep(store, a_shadow(f"c{i}", as_of=AT + minutes(5 * i)))
    keep(store, a_shadow("c1", decider="hold", as_of=AT + minutes(5)))
    keep(store, a_shadow("other", strategy="other", as_of=AT + minutes(5)))
    found = store.shadow.between("default", "rules", AT, AT + minutes(10))
    assert [each.cycle_id for each in found] == ["c1", "c2"]


def test_a_score_is_its_answers_own_and_is_asked_for_once(store):
    for decider in ("rules", "hold"):
        keep(store, a_shadow(decider=decider))
    keep(store, a_shadow("young", as_of=AT + timedelta(days=1)))
    keep(store, a_shadow("other", strategy="other", as_of=AT - minutes(5)))
    assert {each.decider for each in store.shadow.unscored("default", AT, 10)} == {"rules", "hold"}
    assert len(store.shadow.unscored("default", AT, 1)) == 1
    store.shadow.score(a_shadow(), Decimal("1.25"))
    assert [each.decider for each in store.shadow.unscored("default", AT, 10)] == ["hold"]
    assert store.shadow.scores("default") == {"rules": {"c1": Decimal("1.25")}}
    assert store.shadow.scored("default", AT) == [(a_shadow(), Decimal("1.25"))]
    assert store.shadow.scored("default", AT + minutes(5)) == []
    assert store.shadow.scores("other") == {}


def test_challengers_answers_and_all_scores_are_mirrored_once_each_on_its_own_trace(store):
    champion, challenger = a_shadow(decider="champion"), a_shadow()
    cycle = a_full_cycle(challenger.cycle_id)
    store.cycles.save(cycle, AT)
    for shadow in (champion, challenger, a_shadow(decider="hold")):
        store.shadow.keep(shadow)
    hold, (waiting, of_whom) = sorted(store.shadow.untracked("default", 9), key=lambda each: each[0].decider)
    assert (hold[0].decider, waiting, of_whom) == ("hold", challenger, cycle)
    store.shadow.mark_tracked(challenger, trace_id="tr-2")
    assert [each[0].decider for each in store.shadow.untracked("default", 9)] == ["hold"]
    assert store.shadow.untracked("other", 9) == []

    for shadow in (champion, challenger, a_shadow(decider="hold")):
        store.shadow.score(shadow, Decimal("1.5"))
    assert store.shadow.untracked_scores("default", 9) == [("tr-2", challenger, Decimal("1.5"))], (
        "hold has no trace yet"
    )
    store.decisions.mark_tracked(cycle.cycle_id, "tr-1")
    assert {each[0] for each in store.shadow.untracked_scores("default", 9)} == {"tr-1", "tr-2"}
    store.shadow.mark_tracked(champion, assessment_id="a-1")
    assert [each[0] for each in store.shadow.untracked_scores("default", 9)] == ["tr-2"]
    assert store.shadow.untracked_scores("other", 9) == []
    only = store.shadow.scored("default", AT, AT + minutes(5), "rules")
    assert [shadow.decider for shadow, _ in only] == ["rules"]
    assert store.shadow.scored("default", AT - minutes(5), AT, "rules") == []

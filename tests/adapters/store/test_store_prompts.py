"""Aliases of prompts on both databases: one champion for all machines, and a history of every move."""

from decimal import Decimal

from store_samples import AT, a_cycle, a_decision, a_position, an_outcome, minutes

from tasks.core.types.decision import POLICY, PromptRef
from tasks.core.types.promotion import Criterion, Move

SHA = "ab" * 32  # of the prompt that `a_decision` sent


def move(version: str, kind: str = "promoted", role: str = "single", **fields: object) -> Move:
    values = {"at": AT, "role": role, "alias": "champion", "version": version, "sha256": version * 16, "who": "me"}
    return Move(**values, kind=kind, **fields)


def test_an_alias_moves_and_the_history_says_from_where(store):
    met = Criterion(name="cost", value="0.01", threshold="at most 0.05", passed=True)
    assert store.prompts.move(move("v001", "pinned")).previous == ""
    assert store.prompts.move(move("v002", criteria=(met,), evidence="run1")).previous == "v001"
    store.prompts.note_refusal(move("v003", "refused"))
    store.prompts.move(move("v001", role="risk"))
    assert {role: {a: tuple(to) for a, to in named.items()} for role, named in store.prompts.aliases().items()} == {
        "single": {"champion": ("v002", "v002" * 16)}, "risk": {"champion": ("v001", "v001" * 16)},
    }  # fmt: skip
    assert [(one.kind, one.version) for one in store.prompts.moves("single")] == [
        ("refused", "v003"), ("promoted", "v002"), ("pinned", "v001"),
    ]  # fmt: skip
    assert store.prompts.moves("single")[1] == move("v002", criteria=(met,), evidence="run1", previous="v001")


def test_the_first_champion_comes_after_the_version_that_was_used_without_one(store):
    assert store.prompts.move(move("v001", previous="v004")).previous == "v004"


def test_decisions_and_outcomes_are_found_by_the_prompt_they_sent(store):
    for i, (strategy, cycle) in enumerate([("default", "c1"), ("default", "c2"), ("other", "c3")]):
        at = AT + minutes(5 * i)
        store.cycles.begin(a_cycle(cycle, strategy=strategy, as_of=at), at)
        store.decisions.keep(cycle, a_decision(comment=cycle), at)
        store.positions.save(a_position(f"p{i}", cycle_id=cycle, strategy=strategy, closed_at=at))
        store.outcomes.save(an_outcome(f"p{i}", cycle_id=cycle, outcome_r=Decimal(i), closed_at=at))
    assert [d.decision.comment for d in store.prompts.decisions("default", SHA, AT, 9)] == ["c2", "c1"]
    assert [d.decision.comment for d in store.prompts.decisions("default", SHA, AT + minutes(1), 9)] == ["c2"]
    assert len(store.prompts.decisions("default", SHA, AT, 1)) == 1
    assert store.prompts.decisions("default", "cd" * 32, AT, 9) == []
    assert store.prompts.outcomes("default", SHA, AT, 9) == [Decimal(1), Decimal(0)]


def test_what_a_policy_decided_is_found_by_its_file(store):
    policy = PromptRef(name=POLICY, version="p.onnx@cdcdcdcd", sha256="cd" * 32)
    cycle = a_cycle("c9", as_of=AT)
    store.cycles.begin(cycle, AT)
    store.decisions.keep(cycle.cycle_id, a_decision("c9", calls=0).model_copy(update={"policies": (policy,)}), AT)
    store.positions.save(a_position("p9", cycle_id=cycle.cycle_id))
    store.outcomes.save(an_outcome("p9", cycle_id=cycle.cycle_id, outcome_r=Decimal(2)))
    assert [d.decision.comment for d in store.prompts.decisions("default", policy.sha256, AT, 9)] == ["c9"]
    assert store.prompts.outcomes("default", policy.sha256, AT, 9) == [Decimal(2)]
    assert store.prompts.decisions("default", SHA, AT, 9) == []

"""A champion is made on evidence that is checked: each thing asked for can fail it alone."""

from decimal import Decimal

import numpy as np
import pytest

from tasks.core.lab.promotion_criteria import Evidence, Measured, Shadows, Use, breaches, criteria, use_of
from tasks.core.types.decision import Answer, ModelCall, PromptRef, hold
from tasks.core.types.limits import Promotion

NEW, OLD, DATA = "a" * 64, "b" * 64, "d" * 64
TERMS = Promotion(min_shadows=40)
GOOD = Evidence(
    name="run", data_sha256=DATA, git_commit="c" * 40, commit_known=True, signed=True,
    variants=(
        Measured(label="new", model="m", prompt_sha256=NEW, masked_sharpe=1.0),
        Measured(label="old", model="m", prompt_sha256=OLD, masked_sharpe=0.9),
        Measured(label="rules", masked_sharpe=5.0),
    ),
)  # fmt: skip
USE = Use(60, 1, Decimal("0.6"))


def returns(mean: float, n: int = 60, seed: int = 1) -> list[Decimal]:
    return [Decimal(repr(float(x))) for x in np.random.default_rng(seed).normal(mean, 0.1, n)]


def shadows(mean: float = 0.3, n: int = 60, use: Use = USE) -> Shadows:
    return beside(returns(mean, n), returns(0.0, n, seed=2), use)


def beside(ours: list[Decimal], theirs: list[Decimal], use: Use = USE) -> Shadows:
    return Shadows(list(zip(ours, theirs, strict=True)), use)


def failed(evidence: Evidence | None = GOOD, seen: Shadows | None = None, terms: Promotion = TERMS) -> list[str]:
    found = criteria(NEW, OLD, evidence, seen or shadows(), terms)
    return [each.name for each in found if not each.passed]


def test_good_evidence_meets_every_criterion():
    assert failed() == []
    assert len(criteria(NEW, OLD, GOOD, shadows(), TERMS)) == 9


def measured(**changed: object) -> Evidence:
    first, *rest = GOOD.variants
    return GOOD.model_copy(update={"variants": (first.model_copy(update=changed), *rest)})


@pytest.mark.parametrize(
    ("evidence", "names"),
    [
        (None, ["evidence"]),
        (GOOD.model_copy(update={"data_sha256": ""}), ["evidence data"]),
        (GOOD.model_copy(update={"commit_known": False}), ["evidence commit"]),
        (GOOD.model_copy(update={"signed": False}), ["evidence signature"]),
        (measured(prompt_sha256="f" * 64), ["evidence prompts", "masked replay"]),
        (measured(masked_sharpe=None), ["masked replay"]),
        (measured(masked_sharpe=0.8), ["masked replay"]),
        (measured(model="another"), ["masked replay"]),
        (measured(prompt_sha256=f"{'e' * 64}+{NEW}"), []),
    ],
)
def test_evidence_about_other_prompts_other_code_or_unmasked_candles_does_not_count(evidence, names):
    assert failed(evidence) == names


@pytest.mark.parametrize(
    ("seen", "names"),
    [
        (shadows(n=39), ["shadow decisions"]),
        (shadows(n=0), ["shadow decisions", "shadow edge"]),
        (shadows(mean=0.0), ["shadow edge"]),
        (shadows(mean=-0.3), ["shadow edge"]),
        (beside([Decimal(0)] * 60, [Decimal(0)] * 60), ["shadow edge"]),
        (shadows(use=Use(60, 4, Decimal("0.6"))), ["invalid replies"]),
        (shadows(use=Use(60, 0, Decimal("3.1"))), ["cost"]),
        (shadows(use=Use(0, 0, Decimal(0))), ["invalid replies", "cost"]),
    ],
)
def test_too_few_no_better_invalid_or_dear_shadow_decisions_do_not_promote(seen, names):
    assert failed(seen=seen) == names


def test_what_nothing_was_measured_of_is_unknown_and_neither_passed_nor_failed():
    found = {each.name: each for each in criteria(NEW, OLD, None, shadows(n=1, use=Use(0, 0, Decimal(0))), TERMS)}
    unknown = {name for name, each in found.items() if each.unknown}
    assert unknown == {"evidence", "shadow edge", "invalid replies", "cost"}
    assert not any(found[name].passed for name in unknown)
    assert str(found["invalid replies"]).startswith("unknown  invalid replies: no decision of this version (needs")
    assert str(found["shadow decisions"]).startswith("FAIL     shadow decisions: 1 (needs 40")
    assert not any(each.unknown for each in criteria(NEW, OLD, GOOD, shadows(mean=-1.0), TERMS))


def test_a_champion_that_has_decided_nothing_breaks_nothing():
    assert breaches(Use(0, 0, Decimal(0)), [Decimal(1)], TERMS.model_copy(update={"watched": 0})) == ()


def test_a_mean_that_is_better_within_its_noise_does_not_promote():
    """Ten times +3.1 and fifty times -0.5: 0.1 % better on average, and as likely chance."""
    noisy = beside([Decimal("3.1" if i % 6 == 0 else "-0.5") for i in range(60)], [Decimal(0)] * 60)
    assert sum(ours - theirs for ours, theirs in noisy.pairs_pct) > 0
    assert failed(seen=noisy) == ["shadow edge"]
    steady = beside([Decimal("0.2" if i % 2 else "0.0") for i in range(60)], [Decimal(0)] * 60)
    assert failed(seen=steady) == []


def test_the_edge_is_over_the_champions_own_return_on_the_same_decisions():
    rose = [Decimal("0.5") + Decimal(i % 3) / 100 for i in range(60)]
    assert failed(seen=beside(rose, rose[1:] + rose[:1])) == ["shadow edge"]


def test_few_shadows_have_no_interval_and_the_criterion_says_how_few():
    found = criteria(NEW, OLD, GOOD, shadows(n=20), TERMS.model_copy(update={"min_shadows": 20}))
    [edge] = [each for each in found if each.name == "shadow edge"]
    assert not edge.passed
    assert "[none: effective n = " in edge.value


def test_a_wider_interval_is_harder_to_lie_above():
    seen = shadows(mean=0.03)
    assert failed(seen=seen, terms=TERMS.model_copy(update={"confidence": 0.6})) == []
    assert failed(seen=seen, terms=TERMS.model_copy(update={"confidence": 0.9999})) == ["shadow edge"]


def test_an_edge_must_lie_above_the_threshold_not_above_zero():
    assert failed(terms=TERMS.model_copy(update={"min_edge_pct": Decimal("0.3")})) == ["shadow edge"]


def decided(rung: str, reply: str, sha256: str = NEW) -> Answer:
    call = ModelCall(role="single", model="m", prompt=PromptRef(name="single", version="v002", sha256=sha256),
                     raw_reply=reply)  # fmt: skip
    return Answer(decision=hold("X", "x"), source="llm:m", rung=rung, cost_usd=Decimal("0.01"), calls=(call,))


def test_a_fallback_counts_as_invalid_only_where_the_model_had_answered():
    seen = [decided("primary", "{}"), decided("rules", "no json"), decided("rules", ""), decided("hold", "x", OLD)]
    assert use_of(seen, NEW) == Use(3, 1, Decimal("0.03"))


def test_a_champion_is_left_alone_until_it_was_watched_long_enough():
    bad = [Decimal(-1)] * 20
    assert breaches(Use(19, 19, Decimal(19)), bad[:19], TERMS) == ()
    assert [each.name for each in breaches(Use(20, 2, Decimal(2)), bad, TERMS)] == ["invalid replies", "cost", "mean R"]
    assert breaches(Use(20, 1, Decimal("0.1")), [Decimal("-0.5")] * 20, TERMS) == ()

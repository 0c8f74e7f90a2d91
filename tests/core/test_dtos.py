"""What every DTO promises, also one that is built without being validated."""

from decimal import Decimal

import pytest

from tasks.core.types.base import read_dto
from tasks.core.types.limits import Limits, PanelTerms
from tasks.core.types.question import Reason
from tasks.core.types.snapshot import Confluence, Headline, News
from tasks.core.types.strategy import Strategy


def test_a_trusted_dto_is_the_validated_one():
    assert News.trusted(headlines=(Headline(title="x"),)) == News(headlines=(Headline(title="x"),))
    assert Confluence.trusted(vwap=1, score=1).model_dump_json() == Confluence(score=1, vwap=1).model_dump_json()


def test_a_field_that_is_missing_or_unknown_is_an_error_without_validation_too():
    with pytest.raises(TypeError, match=r"Reason: .*'as_of'"):
        Reason.trusted(rule="x", symbol="BTC/USDT")
    with pytest.raises(TypeError, match=r"News: .*'headline'"):
        News.trusted(headline=())
    with pytest.raises(TypeError, match=r"News: .*'headline'"):
        News().replace(headline=())


def test_a_trusted_default_is_of_its_fields_type():
    assert Strategy.trusted().capital == Strategy().capital == Decimal(10_000)
    assert Strategy.trusted().sha256 == Strategy().sha256


def test_a_setting_that_came_later_changes_no_hash_at_its_default():
    document = Strategy().model_dump(mode="json")
    assert "panel" not in document
    assert "size_by_confidence" not in document["limits"]
    for other in (Strategy(panel=PanelTerms(stage_s=5)), Strategy(limits=Limits(size_by_confidence=True))):
        assert other.sha256 != Strategy().sha256
        assert read_dto(Strategy, other.model_dump_json(), "strategy") == other

"""What a comparison's report says of the prompts that were compared."""

from tasks.adapters.charts.comparison_report import prompt_diffs
from tasks.adapters.files.prompts import load_prompt
from tasks.core.lab.compare import Variant


def variant(label: str, **versions: str) -> Variant:
    prompts = tuple(load_prompt(role, version).ref for role, version in versions.items())
    return Variant(label=label, decider=label, prompts=prompts)


def test_each_role_of_a_panel_that_differs_has_a_diff_and_no_other():
    new = variant("new", trend="v003", risk="v003", sentiment="v002")
    old = variant("old", trend="v002", risk="v003", technical="v001")
    assert list(prompt_diffs(new, old)) == ["trend: v002 to v003"]
    changed = prompt_diffs(new, old)["trend: v002 to v003"]
    assert changed[0].startswith("@@")
    assert {"-version: v002", "+version: v003"} <= set(changed)
    assert prompt_diffs(new, variant("hold")) == {}

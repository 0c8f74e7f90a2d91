"""Prompt files: what is wrong with one is said before any call."""

import hashlib

import pytest

from tasks.adapters.files.prompts import list_prompts, load_prompt
from tasks.core.decision.decider import VARIABLES
from tasks.core.decision.llm.prompt import check_variables, parse_prompt, render
from tasks.core.errors import InputError

GOOD = """---
role: single
version: v001
schema: decision
variables: [pair, snapshot]
temperature: 0.2
seed: 7
max_tokens: 900
---
## system
You trade. Costs are $5.

## user
Pair: ${pair} at $$10
$snapshot
"""


def test_a_prompt_knows_its_reference_and_renders_system_first():
    prompt = parse_prompt(GOOD, "single/v001")
    assert prompt.ref.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert (prompt.ref.name, prompt.ref.version) == ("single", "v001")
    assert (prompt.ref.temperature, prompt.ref.seed, prompt.ref.max_tokens) == (0.2, 7, 900)
    assert render(prompt, {"pair": "BTC", "snapshot": "${pair} $x", "more": "unused"}) == [
        {"role": "system", "content": "You trade. Costs are $5."},
        {"role": "user", "content": "Pair: BTC at $10\n${pair} $x"},
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("---\nrole", "role", "front matter between ---"),
        ("## user", "## User", "'## user'"),
        ("temperature: 0.2", "temperature: [", "not YAML"),
        ("temperature: 0.2", "temperature: hot", "temperature"),
        ("temperature: 0.2", "temperature: .nan", "temperature"),
        ("seed: 7\n", "", "seed"),
        ("seed: 7", "seed: 7\ntop_p: 1", "top_p"),
        ("version: v001", "version: 1", "version"),
        ("version: v001", "version: v002", "front matter says single/v002"),
        ("schema: decision", "schema: trades", "schema"),
        ("role: single", "- role", "front matter is not YAML"),
        ("[pair, snapshot]", "[pair]", "unknown variable snapshot"),
        ("[pair, snapshot]", "[pair, snapshot, news]", "news is declared but not used"),
        ("$$10", "$10", "neither"),
        ("You trade.", "You trade ${pair}.", "static"),
        ("You trade. Costs are $5.", "", "must both say something"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line_that_names_it(old, new, said):
    assert old in GOOD
    with pytest.raises(InputError) as refused:
        parse_prompt(GOOD.replace(old, new, 1), "single/v001")
    assert said in str(refused.value)
    assert "single/v001" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_variable_is_named():
    with pytest.raises(InputError, match="no value for variable snapshot"):
        render(parse_prompt(GOOD, "single/v001"), {"pair": "BTC"})


def test_a_variable_the_decider_does_not_have_is_named():
    with pytest.raises(InputError, match="unknown variable pair, must be one of news"):
        check_variables(parse_prompt(GOOD, "single/v001"), frozenset({"news"}))


def test_every_published_prompt_parses_and_the_single_one_fits_its_decider():
    assert [p.ref for p in list_prompts() if p.ref.name == "single"]
    prompt = load_prompt("single")
    check_variables(prompt, VARIABLES)
    assert len(prompt.system) < 5_000
    assert load_prompt("single", prompt.ref.version) == prompt


def test_the_latest_version_is_loaded_and_a_wrong_one_is_named(tmp_path):
    folder = tmp_path / "single"
    folder.mkdir()
    for version in ("v001", "v002"):
        (folder / f"{version}.md").write_text(GOOD.replace("v001", version))
    assert load_prompt("single", folder=tmp_path).ref.version == "v002"
    assert [p.ref.version for p in list_prompts(tmp_path)] == ["v001", "v002"]
    with pytest.raises(InputError, match="no prompt single/v003; there is v001, v002"):
        load_prompt("single", "v003", folder=tmp_path)
    with pytest.raises(InputError, match="no prompt for role panel"):
        load_prompt("panel", folder=tmp_path)
    (folder / "v003.md").write_bytes(b"\xff")
    with pytest.raises(InputError, match="single/v003: not UTF-8"):
        load_prompt("single", folder=tmp_path)

"""The table of deciders: what it says is what they are, a new one is a line, and asking it loads nothing."""

import subprocess
import sys

import pytest

from tasks.adapters.deciders import PLAIN, build
from tasks.adapters.files.prompts import list_prompts
from tasks.adapters.variants import variants
from tasks.core.decision import kinds
from tasks.core.decision.kinds import KINDS, Kind, kind_of
from tasks.core.decision.llm.planner import ToolsDecider
from tasks.core.decision.llm.roles import REPLIES
from tasks.core.decision.llm.single import SingleDecider
from tasks.core.errors import InputError
from tasks.core.lab.recorded_replies import decider_of
from tasks.core.lab.replay import Replayer
from tasks.core.simulation.paid_replies import Probe
from tasks.core.types.decision import Answer, hold
from tasks.core.types.record import CycleRecord, CycleStatus
from tasks.core.types.strategy import Strategy
from tasks.settings import load

ASKING = [name for name, kind in KINDS.items() if kind.asks_model and not kind.looks_up]


@pytest.mark.parametrize("name", ASKING)
def test_a_decider_is_what_the_table_says_and_sends_the_prompts_of_its_roles(name):
    decider = build(name, load(), model=Probe())
    assert (decider.name, decider.kind) == (name, KINDS[name])
    assert tuple(prompt.name for prompt in decider.prompts) == KINDS[name].roles


def test_every_kind_can_be_built_and_roles_are_those_that_are_asked():
    assert {name for name, kind in KINDS.items() if not kind.maker} == set(PLAIN)
    assert KINDS["llm:panel"].roles == tuple(REPLIES)
    assert set(KINDS["llm:tools"].roles) == set(ToolsDecider.variables)
    for name, kind in KINDS.items():
        if not kind.maker and not kind.file:
            assert build(name, load()).kind is kind


@pytest.mark.parametrize(
    ("name", "asks", "together", "askers"),
    [
        ("llm:portfolio@v002", True, True, ["llm:portfolio@v002"]), ("rules:stop_atr=3", False, False, []),
        ("ensemble:llm:single@v001+model:a.onnx", True, False, ["llm:single@v001"]),
        ("ensemble:vote:rules=1,llm:portfolio=2,hold=3", True, True, ["llm:portfolio"]),
        ("ensemble:rules+hold", False, False, []), ("recorded:llm:single", False, False, []),
        ("llm:oracle", False, False, []), ("", False, False, []),
    ],
)  # fmt: skip
def test_a_name_tells_what_the_decider_is(name, asks, together, askers):
    assert (kind_of(name).asks_model, kind_of(name).together, kinds.askers(name)) == (asks, together, askers)


def test_a_vote_of_two_that_ask_costs_two_calls():
    assert kind_of("ensemble:vote:llm:single@v001=1,llm:single@v002=1").roles == ("single", "single")


@pytest.mark.parametrize("name", ["hold:long", "recorded", "model", "llm:single:x", "llm:oracle", "ensemble:", "rule"])
def test_a_name_of_no_decider_says_which_there_are(name):
    with pytest.raises(InputError, match=r"is unknown; there are rules, .*llm:portfolio, .*recorded:FILE"):
        build(name, load())


@pytest.mark.parametrize("name", ["llm:single", "llm:panel", "llm:tools", "llm:portfolio"])
def test_one_that_asks_says_which_setting_names_its_model(name, tmp_path):
    with pytest.raises(InputError, match="QUARTERDECK_MODEL"):
        build(name, load().replace(model=(), cheap_model=(), home=tmp_path), None)


@pytest.mark.parametrize("name", ["llm:panel@v002", "llm:tools@v002", "llm:single@risk/v002"])
def test_a_version_of_a_role_that_is_not_asked_is_refused(name):
    with pytest.raises(InputError, match="name one of"):
        build(name, load(model=("openai/test",)))


def test_a_new_kind_is_one_line(monkeypatch):
    """The builder, the labels and costs of a comparison, and the replayer take it from there."""

    class Echo(SingleDecider):
        name = "llm:echo"

    monkeypatch.setattr("tasks.core.decision.llm.single.Echo", Echo, raising=False)
    monkeypatch.setitem(KINDS, "llm:echo", Kind(("single",), "single:Echo", together=True))
    Echo.kind = KINDS["llm:echo"]
    assert isinstance(build("llm:echo@v001", load(), model=Probe()), Echo)
    [found, *_] = variants(("llm:echo@v001",), ("openai/m",), {}, load())
    assert (found.label, found.prompt) == ("llm:echo@v001 openai/m", "single/v001")
    record = CycleRecord(
        cycle_id="c", strategy="s", symbol="BTC/USDT:USDT", as_of="2026-01-02T00:00Z", trigger="adhoc",
        decider="llm:echo@v001", status=CycleStatus.HELD,
        decided=Answer(decision=hold("BTC/USDT:USDT", "x"), source="hold", rung="hold"),
    )  # fmt: skip
    again = decider_of(
        [record], Strategy(), lambda role, _: build("llm:single", load(), model=Probe()).texts["single"], build
    )
    assert (again.name, again.kind) == ("llm:echo", KINDS["llm:echo"])
    replayer = Replayer(lambda *_: None, lambda _: Strategy(), lambda *_: None, build)
    assert list(replayer.questions([record])) == [(record,)]


def test_asking_what_a_decider_is_loads_nothing_heavy():
    heavy = ("litellm", "pandas", "numpy", "sqlalchemy", "ccxt")
    code = "import flows.commands.spending, tasks.core.decision.kinds as k, sys; "
    code += "assert not k.kind_of('rules').asks_model; "
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("prompt", list_prompts(), ids=lambda prompt: f"{prompt.name}/{prompt.version}")
def test_every_prompt_has_a_sender_who_knows_its_variables_and_its_schema(prompt):
    sender = kinds.asking(prompt.name)
    assert set(prompt.variables) <= sender.variables[prompt.name]
    schema = sender.schema_of(prompt)
    assert schema["required"] == list(schema["properties"])


def test_a_role_that_nobody_asks_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"role 'weather' is unknown; there are single, technical, .*portfolio"):
        kinds.asking("weather")

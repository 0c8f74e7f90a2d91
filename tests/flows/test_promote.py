"""Champions are made by evidence the command checks itself, unmade by their own record, and every step is kept."""

import getpass
import json
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from click.testing import CliRunner
from store_samples import a_cycle, a_decision, a_position, a_verdict, an_outcome

from deployments import forms
from deployments.cli import cli
from flows.by_hand import promote as form
from flows.promote import watch_champions
from tasks.adapters.files import prompts
from tasks.adapters.files.prompts import load_prompt
from tasks.adapters.mlflow.comparison import git_commit
from tasks.adapters.mlflow.evidence import signature
from tasks.adapters.store.shadow import CHAMPION
from tasks.connections import store
from tasks.core.errors import InputError
from tasks.core.lab.promotion_criteria import Measured
from tasks.core.types.decision import Answer
from tasks.core.types.portfolio import AccountState
from tasks.core.types.record import ShadowDecision
from tasks.settings import load, settings

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions of `single`; v002 is the latest, v001 the champion."""
    here = home / "prompts" / "single"
    here.mkdir(parents=True)
    text = (prompts.FOLDER / "single" / "v001.md").read_text()
    (here / "v001.md").write_text(text)
    monkeypatch.setattr(load_prompt, "__defaults__", (None, here.parent))
    monkeypatch.setattr(prompts.list_prompts, "__defaults__", (here.parent,))
    quarterdeck("promote", "single", "v001", "--alias", "champion")
    (here / "v002.md").write_text(text.replace("version: v001", "version: v002"))
    return here


WANTED: dict[str, str] = {}  # what Prefect's API asks for


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict]]:
    """The events that Prefect was sent."""
    events: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            known = self.headers["Authorization"] == WANTED.get("Authorization")
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            events.extend(sent if known else ())
            self.send_response(204 if known else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("QUARTERDECK_PROMOTION__MIN_SHADOWS", "30")
    settings.cache_clear()
    yield events
    server.shutdown()
    server.server_close()


def quarterdeck(*words: str) -> dict:
    result = CliRunner().invoke(cli, ["prompts", *words, *(["--json"] if words[0] == "promote" else [])])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout) if words[0] == "promote" else {"text": result.stdout}


def champion() -> str:
    return load_prompt("single").version


def decision(version: str, rung: str = "primary") -> Answer:
    made = a_decision(calls=1)
    call = made.calls[0].model_copy(update={"prompt": load_prompt("single", version).ref})
    return made.model_copy(update={"calls": (call,), "rung": rung})


def shadows(n: int = 40, edge: float = 0.3, rung: str = "primary", fell: int = 0) -> None:
    """Keep n settled cycles that the champion's v001 and a challenger's v002 answered; `fell`: v002 unusably."""
    rng = np.random.default_rng(3)
    for i in range(n):
        at = NOW - timedelta(hours=i)
        cycle = a_cycle(f"s{i}", as_of=at)
        store().cycles.begin(cycle, at)
        for name, version, mean in ((CHAMPION, "v001", 0.0), ("llm:single@challenger", "v002", edge)):
            shadow = ShadowDecision(
                cycle_id=cycle.cycle_id, strategy="default", decider=name, symbol=cycle.symbol, as_of=at,
                state=AccountState(), verdict=a_verdict(),
                decided=decision(version, "rules" if version == "v002" and i < fell else rung),
            )  # fmt: skip
            store().shadow.keep(shadow)
            earned = Decimal(repr(float(rng.normal(mean, 0.1))))
            store().shadow.score(shadow, earned)


def evidence(home: Path, **changed: object) -> str:
    labels = {"v001": 0.9, "v002": 1.1}
    document = {
        "data_sha256": "d" * 64, "git_commit": git_commit(),
        "variants": [
            {"label": v, "model": "m", "prompt_sha256": load_prompt("single", v).sha256} for v in labels
        ],
        "leakage": [{"label": v, "masked_sharpe": sharpe} for v, sharpe in labels.items()],
    }  # fmt: skip
    document |= changed
    masked = {each["label"]: each["masked_sharpe"] for each in document["leakage"]}
    found = [Measured(**each, masked_sharpe=masked.get(each["label"])) for each in document["variants"]]
    signed = signature(document["data_sha256"], document["git_commit"], found)
    (home / "compare.json").write_text(json.dumps({"signature": signed} | document))
    return str(home / "compare.json")


def promote(*words: str) -> dict:
    return quarterdeck("promote", "single", "v002", "--alias", "champion", *words)


def test_naming_the_version_in_use_takes_no_evidence_and_a_newer_file_changes_nothing_then():
    assert champion() == "v001"
    assert [(move.kind, move.version) for move in store().prompts.moves()] == [("pinned", "v001")]


def test_the_form_offers_every_version_and_does_what_the_command_does(monkeypatch):
    offered = forms.read(load())["flows.by_hand.promote"].schema["properties"]
    assert offered["prompt"]["enum"] == ["single@v001", "single@v002"]
    assert offered["alias"]["enum"] == ["champion", "challenger"]
    shown = []
    monkeypatch.setattr("flows.by_hand.create_markdown_artifact", lambda **page: shown.append(page))
    with pytest.raises(InputError, match="single/v002 is not promoted: evidence is none"):
        form.fn("single@v002", "champion")
    assert "evidence" in shown[0]["markdown"]
    assert (champion(), form.fn("single@v002")["kind"]) == ("v001", "challenger")
    assert form.fn("single@v002", "champion", override_reason="seen by eye")["kind"] == "overridden"
    newest = store().prompts.moves()[0]
    assert (champion(), newest.reason, newest.who) == ("v002", "seen by eye", getpass.getuser())


def test_without_evidence_nothing_moves_and_the_refusal_is_kept_and_told(told):
    with pytest.raises(InputError, match="single/v002 is not promoted: evidence is none"):
        promote()
    assert champion() == "v001"
    assert store().prompts.moves()[0].kind == "refused"
    assert [event["event"] for event in told][-1:] == ["quarterdeck.prompt.refused"]


def test_on_good_evidence_the_champion_moves_here_and_the_history_says_on_what(home, told):
    shadows()
    move = promote("--evidence", evidence(home))
    assert (move["kind"], move["previous"], move["version"]) == ("promoted", "v001", "v002")
    assert all(each["passed"] for each in move["criteria"])
    assert len(move["criteria"]) == 9
    assert champion() == "v002"
    assert [event["event"] for event in told][-1:] == ["quarterdeck.prompt.promoted"]
    assert "promoted     single champion v001 -> v002" in quarterdeck("history")["text"]


@pytest.mark.parametrize(
    ("changed", "edge", "rung", "first"),
    [
        ({"data_sha256": ""}, 0.3, "primary", "evidence data"),
        ({"git_commit": "0" * 40}, 0.3, "primary", "evidence commit"),
        ({"signature": "0" * 64}, 0.3, "primary", "evidence signature"),
        ({"variants": []}, 0.3, "primary", "evidence prompts"),
        ({"leakage": []}, 0.3, "primary", "masked replay"),
        ({}, 0.0, "primary", "shadow edge"),
        ({}, 0.3, "rules", "invalid replies"),
    ],
)
def test_the_first_thing_that_is_missing_is_named(home, changed, edge, rung, first):
    shadows(edge=edge, rung=rung)
    with pytest.raises(InputError, match=f"single/v002 is not promoted: {first} is"):
        promote("--evidence", evidence(home, **changed))
    assert champion() == "v001"


def test_replies_that_were_of_no_use_count_against_a_challenger_also_where_most_were(home):
    shadows(fell=10)
    with pytest.raises(InputError, match=r"not promoted: invalid replies is 25\.0% of 40, needs at most"):
        promote("--evidence", evidence(home))
    assert champion() == "v001"


def test_a_person_may_overrule_with_a_reason_and_is_named():
    with pytest.raises(InputError, match="--override and --reason go together"):
        promote("--override")
    move = promote("--override", "--reason", "the old one trades a delisted pair")
    assert (move["kind"], move["reason"]) == ("overridden", "the old one trades a delisted pair")
    assert move["who"]
    assert champion() == "v002"


def test_a_challenger_needs_no_evidence_and_leaves_the_champion_alone():
    assert quarterdeck("promote", "single", "v002", "--alias", "challenger")["kind"] == "challenger"
    assert (champion(), load_prompt("single", "challenger").version) == ("v001", "v002")


def live(n: int, version: str, r: str, rung: str = "primary") -> None:
    """Keep n decisions of a version that were sent and have become positions, now closed at `r` each."""
    at = datetime.now(UTC) + timedelta(seconds=1)
    for i in range(n):
        cycle = a_cycle(f"live{i}", as_of=at + timedelta(minutes=5 * i))
        store().cycles.begin(cycle, at)
        store().decisions.keep(cycle.cycle_id, decision(version, rung), at)
        store().positions.save(a_position(f"p{i}", cycle_id=cycle.cycle_id, closed_at=at))
        store().outcomes.save(an_outcome(f"p{i}", cycle_id=cycle.cycle_id, outcome_r=Decimal(r)))


@pytest.mark.parametrize(
    ("r", "rung", "broken"),
    [("-0.6", "primary", "mean R"), ("0.5", "rules", "invalid replies"), ("0.5", "primary", "")],
)
def test_a_champion_that_breaks_its_limits_goes_back_once_and_says_why(told, r, rung, broken):
    promote("--override", "--reason", "a test")
    live(19, "v002", r, rung)
    assert watch_champions(NOW) == []
    live(20, "v002", r, rung)
    moves = watch_champions(datetime.now(UTC))
    assert [move.kind for move in moves] == (["rolled_back"] if broken else [])
    assert champion() == ("v001" if broken else "v002")
    if broken:
        assert moves[0].reason.startswith(f"v002: {broken} is")
        assert [event["event"] for event in told][-1:] == ["quarterdeck.prompt.rolled_back"]
        assert watch_champions(datetime.now(UTC)) == []


def test_a_move_is_told_to_a_prefect_that_asks_for_a_password(told, monkeypatch):
    monkeypatch.setitem(WANTED, "Authorization", "Basic " + b64encode(b"admin:secret").decode())
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:secret")
    quarterdeck("promote", "single", "v001", "--alias", "champion")
    assert [event["event"] for event in told][-1] == "quarterdeck.prompt.pinned"

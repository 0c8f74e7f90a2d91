"""Hostile text through every place where people are shown what a model, a provider, a venue or a feed wrote."""

import json
import logging
import sys
from datetime import date
from decimal import Decimal
from types import SimpleNamespace

import apprise
import pytest
from markdown_it import MarkdownIt
from pydantic import SecretStr
from sandbox_cycles import START
from store_samples import a_full_cycle

from flows.commands import output
from tasks import alerts, desk, record, report, validate
from tasks.adapters import alerts as apprises
from tasks.adapters.charts.comparison_report import page_of
from tasks.adapters.mlflow.trace import of_record
from tasks.core.pages import decision, inert
from tasks.core.pages.day import Day
from tasks.core.pages.desk import Judged, decisions_table
from tasks.core.pages.markdown import table
from tasks.core.types.alert import Alert, AlertKind
from tasks.core.types.record import CycleStatus, DataFailure

URL = "//evil.example/x"
HOSTILE = {
    "image": f"![b](http:{URL})",
    "image without a scheme": f"![b]({URL} 'title')",
    "image within a link": f"[![b](http:{URL})](http:{URL})",
    "link": f"[click](https:{URL})",
    "script link": "[click](javascript:alert(1))",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "nested brackets": f"[a [b] c](http:{URL}) [[x]](http:{URL}) ![[x]](http:{URL})",
    "reference": f"![b][1] [b][1] [1]\n\n[1]: http:{URL}",
    "collapsed reference": f"![evil][] [evil]\n\n[evil]: {URL}",
    "autolink": f"<http:{URL}> <a@evil.example> <javascript:alert(1)>",
    "bare address": f"see http:{URL} and HTTPS:{URL} or www.evil.example/x, WWW.evil.example and a@evil.example",
    "image in HTML": f"<img src=http:{URL} onerror=alert(1)><IMG SRC='{URL}'>",
    "script": "<script>alert(1)</script><svg/onload=alert(1)><!-- x --><![CDATA[ x ]]><?php x ?>",
    "entities": "![b](http&#58;//evil.example) &lt;img src=x&gt; &#33;&#91;b](http://evil.example)",
    "escaped": f"\\![b](http:{URL}) !\\[b](http:{URL}) ![b\\](http:{URL})",
    "fences": f"```\n![b](http:{URL})\n```\n~~~\n<img src={URL}>\n~~~\n`![b](http:{URL})` ``` ![b](http:{URL})",
    "lists and tables": f"# head\n- item\n> quote\n| a | b |\n|---|---|\n| ![b](http:{URL}) | x |\n===\n---",
    "ANSI": "\x1b[2J\x1b[31mred\x1b]8;;http://evil.example\x07link\x1b]8;;\x07\x9b31m\x1b]0;title\x07",
    "CR and LF": "first\rsecond\r\n2026-01-01 | ERROR | forged\nquarterdeck: done\x0b\x0c\x85\u2028\u2029x",
    "direction": "\u202eevil\u202c \u2066x\u2069 \u200fx\u061c \u200bzero\u200d\ufeff",
    "control": "nul\x00 bell\x07 back\x08\x08 del\x7f",
    "surrogate": "\ud800x\udfff",
    "line ends in links": f"![b]\n(http:{URL}) ![b](\nhttp:{URL}\n) <img\nsrc={URL}>",
}  # fmt: skip


def shown(page: str) -> None:
    """Raise AssertionError where Markdown, however it is read, makes something to follow or fetch of it."""
    for parser in (MarkdownIt("gfm-like", {"html": True, "linkify": False}), MarkdownIt("commonmark", {"html": True})):
        blocks = parser.parse(page)
        found = {t.type for block in blocks for t in (block, *(block.children or ()))}
        assert not found & {"link_open", "image", "html_inline", "html_block"}, found
    assert not {c for c in page if not c.isprintable()} - {"\n", "\t"}
    for outside in ("http://evil", "https://evil", "www.evil", "a@evil"):
        assert outside not in page.lower()


def lines(text: str, most: int = 1) -> None:
    assert text.isascii() or all(c.isprintable() or c == "\n" for c in text)
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert text.count("\n") < most


def spoken(text):
    """Return a cycle in which every voice from outside says the same."""
    cycle = a_full_cycle()
    decided = cycle.decided
    said = {"comment": text, "reasoning": text, "key_factors": (text, text), "risk_assessment": text}
    calls = tuple(c.model_copy(update={"raw_reply": text, "error": text, "model": text}) for c in decided.calls)
    decided = decided.model_copy(
        update={
            "decision": decided.decision.model_copy(update=said), "calls": calls, "flags": (text,), "errors": (text,),
            "model": text, "source": text,
        }
    )  # fmt: skip
    reasons = tuple(r.model_copy(update={"detail": text}) for r in cycle.reasons)
    orders = tuple(o.model_copy(update={"reason": text, "venue_order_id": text}) for o in cycle.orders)
    failure = DataFailure(symbol="BTC/USDT:USDT", timeframe="5m", expectation=text, count=1, rows=(text,))
    return cycle.model_copy(
        update={
            "decided": decided, "reasons": reasons, "orders": orders, "error": text, "status": CycleStatus.FAILED,
            "failures": (failure,),
        }
    )  # fmt: skip


async def artifact(text, monkeypatch):
    made = {}

    async def keep(**fields):
        made.update(fields)

    monkeypatch.setattr(record, "flow_run", SimpleNamespace(id="1"))
    monkeypatch.setattr(record, "acreate_markdown_artifact", keep)
    monkeypatch.setattr(record, "chart_of", lambda _: "")
    await record.explain_decision.fn(spoken(text))
    assert made["markdown"] == decision.to_markdown(spoken(text))
    shown(made["markdown"])
    shown(made["description"])


def a_day(text):
    return Day(date(2026, 1, 2), text, text, [], {}, [(CycleStatus.HELD, spoken(text).decided)], [], {text: 1.0})


async def report_artifact(text, monkeypatch):
    made = {}

    async def keep(**fields):
        made.update(fields)

    monkeypatch.setattr(report, "flow_run", SimpleNamespace(id="1"))
    monkeypatch.setattr(report, "acreate_markdown_artifact", keep)
    monkeypatch.setattr(desk, "read_day", lambda *_: a_day(text))
    monkeypatch.setattr(report, "_baselines", lambda _: {})
    await report.write_report.fn(date(2026, 1, 2))
    shown(made["markdown"].partition("The whole page")[0])
    shown(made["description"])


def a_table(text, _):
    shown(table(("what",), [(text,), (f"x {text}",)]))


def validation(text, _):
    shown("\n\n".join(str(row["rows"]) for row in validate.artifact_table({}, list(spoken(text).failures))))


def a_page(text, _):
    judged = Judged(START, text, text, Decimal(1), text, CycleStatus.HELD, (text,), text, "", text, text, text)
    tables = [decisions_table([judged], whole=True)]
    page = page_of("daily.html.j2", day=a_day(text), picture="", tables=tables, told={f"10:00 {text}": text})
    body = page.partition("</style>")[2]
    assert not {c for c in body if not c.isprintable()} - {"\n"}
    for tag in ("<img", "<script", "<svg", "<a ", "<!--", "<?", "href", "<IMG"):
        assert tag not in body.replace("&lt;", ""), tag


def mlflow(text, _):
    spans = of_record(spoken(text), "sandbox", ()).spans
    texts = [span["name"] for span in spans]
    texts += strings([json.loads(value) for span in spans for value in span["attributes"].values()])
    assert len(texts) > 30
    for each in texts:
        shown(each)


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)


def event(text, monkeypatch):
    told = []
    monkeypatch.setattr(alerts, "flow_run", SimpleNamespace(id="1"))
    monkeypatch.setattr(alerts, "emit_event", lambda **fields: told.append(fields))
    alerts.tell([Alert(kind=AlertKind.HALT, key=text[:60], text=text)])
    for each in (told[0]["payload"]["text"], told[0]["resource"]["prefect.resource.name"]):
        shown(each)
        lines(each)


def message(text, monkeypatch):
    told = []
    monkeypatch.setattr(apprise.Apprise, "notify", lambda _self, **fields: told.append(fields) or True)
    assert apprises.send([SecretStr("json://127.0.0.1")], "a title", text) == 0
    shown(told[0]["body"])


def log_line(text, _):
    made = logging.getLogRecordFactory()("quarterdeck", logging.ERROR, "f.py", 1, "reason=%s", (text,), None)
    lines(logging.Formatter("%(asctime)s %(message)s").format(made))


def traceback_in_log(text, _):
    try:
        raise ValueError(text)
    except ValueError:
        made = logging.getLogRecordFactory()("quarterdeck", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    first, *rest = logging.Formatter("%(message)s").format(made).split("\n")
    assert first == "failed"
    assert all(line.startswith("  ") for line in rest)
    lines("".join(rest))


def process_log(text, monkeypatch):
    seen = []
    handler = logging.Handler()
    handler.emit = lambda made: seen.append(made.getMessage())
    logging.getLogger("another.library").addHandler(handler)
    logging.getLogger("another.library").error("%s", text)
    logging.getLogger("another.library").removeHandler(handler)
    lines(seen[0])


def summary(text, _):
    lines(decision.summary_line(spoken(text)))


def command_line(text, _, capsys):
    output.emit({"why": text, "what": [text]}, as_json=False)
    lines(capsys.readouterr().out, most=3)
    output.say(text, as_json=False)
    output.echo(text, err=True)
    seen = capsys.readouterr()
    lines(seen.out + seen.err, most=2 * (text.count("\n") + 1) + 1)
    output.emit({"why": text}, as_json=True)
    lines(seen := capsys.readouterr().out, most=2)
    assert json.loads(seen)["why"] == text


def whole_error(text, _, capsys):
    from deployments.cli import _fail

    with pytest.raises(SystemExit):
        _fail(text, 1)
    lines(capsys.readouterr().err, most=2)


SURFACES = {
    f.__name__: f
    for f in (
        artifact, report_artifact, a_table, validation, a_page, mlflow, event, message, log_line, traceback_in_log,
        process_log, summary, command_line, whole_error,
    )
}  # fmt: skip


@pytest.mark.parametrize("string", HOSTILE)
@pytest.mark.parametrize("surface", SURFACES)
async def test_nothing_acts(surface, string, home, monkeypatch, capsys):
    asks = [monkeypatch, *([capsys] if surface in ("command_line", "whole_error") else [])]
    done = SURFACES[surface](HOSTILE[string], *asks)
    if done is not None:
        await done


@pytest.mark.parametrize("string", HOSTILE)
def test_what_is_escaped_can_still_be_read(string):
    text = HOSTILE[string]
    for word in ("evil", "alert", "forged", "title"):
        if word in text:
            assert all(word in show(text) for show in (inert.markdown, inert.plain, inert.line, inert.visible))


@pytest.mark.parametrize(
    "text",
    [
        "OPEN_LONG 0.5 BTC/USDT:USDT",
        '{"a": [1, 2], "b": ["x", "y"]}',
        "llm:single@v002",
        "a < b, c > d",
        "50 % – ok\n\tx",
    ],
)
def test_what_is_harmless_stays_as_it_is(text):
    assert inert.plain(text) == text

"""Write prompts by evidence: `quarterdeck prompts optimize`, or from a form."""

from collections.abc import Callable
from decimal import Decimal

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.clock import run_name
from flows.moments import put
from flows.promote import promote
from tasks import optimize as stage
from tasks.adapters.files.prompts import CHAMPION, aliases
from tasks.core.pages import inert
from tasks.core.pages.markdown import table
from tasks.core.simulation.paid_replies import Spending
from tasks.core.types import InputError, Json
from tasks.moments import lab_server
from tasks.optimize import Assignment, OptimizationRequest


def carry_out(work: Assignment, cap: Decimal, done: Callable[[], None] = lambda: None) -> Json:
    """Search within the cap, and make the best candidate a challenger if it is shown to be better.

    Returns what `prompts optimize --json` prints. Raises InputError where the search must stop before its end; the same
    command goes on from there.
    """
    spending, prompts, evaluations = Spending(cap), [], {}
    searching, tried = stage.search(work, spending, done)
    best = searching.best
    criteria = stage.judge(searching, best, tried) if best else ()
    passed = bool(criteria) and all(each.passed for each in criteria)
    run_id, opened_before = stage.note(searching, tried, opening=passed)
    if passed:
        criteria = (*criteria, stage.open_locked(searching, best))
    if passed and criteria[-1].passed:
        named = aliases()
        for role, parent in work.parents.items():  # else the newest file would be the one in use
            if CHAMPION not in named.get(role, {}):
                promote(role, parent.version, CHAMPION, "", "")
        prompts = stage.publish(searching, best, tried)
        for prompt in prompts:
            promote(prompt.name, prompt.version, "challenger", run_id, prompt.why)
        deciders = tuple(
            f"{work.variant.decider}@{'+'.join(str(each.ref) for each in sent)}"
            for sent in ({**work.parents, **{each.name: each for each in prompts}}.values(), work.parents.values())
        )
        left, under = (lambda *_: cap - spending.spent_usd), {"mlflow.parentRunId": run_id}
        *_, logged = put(work.dataset.name, deciders, (work.variant.model,), left, under)
        evaluations = logged["evaluations"]
    sizes = {name: len(part) for name, part in work.parts._asdict().items()}
    document = {
        "moments": work.dataset.name, **sizes, "minibatch": searching.batch, "deviation_r": searching.deviation_r,
        "tried": tried, "criteria": criteria, "locked_window_opened_before": opened_before,
        "versions": [str(each.ref) for each in prompts], "mlflow_run": run_id, "evaluations": evaluations,
        "spent": spending.summary(),
    }  # fmt: skip
    server = lab_server()
    with server.translated():
        server.client.set_tag(run_id, "mlflow.note.content", "\n\n".join(map(str, (outcome(document), *criteria))))
    return document


def outcome(document: Json) -> str:
    """Return in a sentence what came of it."""
    tried = f"of {document['tried']} candidates on these days"
    if document["versions"]:
        return f"{', '.join(document['versions'])} is challenger now, the best {tried}"
    return f"no challenger: none {tried} is shown to be better"


@flow(name="optimize", flow_run_name=run_name)
def optimize(request: OptimizationRequest) -> Json:
    """Write a role's prompts anew by what the market did after kept moments; `max_cost` says what that may cost."""
    if request.max_cost is None:
        raise InputError("max_cost: an optimisation asks models, so it must say what it may cost, in USD")
    document = carry_out(stage.assign(request), request.max_cost)
    rows = [(each.name, each.value, each.threshold, "yes" if each.passed else "no") for each in document["criteria"]]
    markdown = table(("criterion", "found", "needs", "met"), rows)
    create_markdown_artifact(key="optimization", markdown=markdown, description=inert.markdown(outcome(document)))
    return document

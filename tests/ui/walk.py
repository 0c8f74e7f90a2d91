"""What a person does in Prefect's and in MLflow's pages, in a headless Chromium; each step may be photographed."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, urlsplit

from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as TooLong

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
    "--disable-extensions", "--disable-sync", "--no-first-run",
)  # fmt: skip
SIZE = {"width": 1280, "height": 860}
WAIT_MS = 90_000  # on a machine with other things to do
FLOW_RUN_MS = 240_000
LOOK_MS = 10_000
LINKED = re.compile(r"^\d+ linked prompts?$")
PAGE = "the decision's page in Prefect"
Shoot = Callable[[str, Page], None]


def no_picture(_name: str, _page: Page) -> None:
    """Take none."""


def chromium() -> str | None:
    """Return the browser of this machine, if it has one; QUARTERDECK_CHROMIUM names another, or `none`."""
    said = os.environ.get("QUARTERDECK_CHROMIUM")
    names = (said,) if said else ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Page]:
    """Open one page; no request leaves this machine."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        context = opened.new_context(viewport=SIZE)
        context.set_default_timeout(WAIT_MS)
        context.route("**/*", lambda route: route.continue_() if _stays(route.request.url) else route.abort())
        try:
            yield context.new_page()
        finally:
            opened.close()


def _stays(url: str) -> bool:
    where = urlsplit(url)
    host = where.hostname or ""
    return where.scheme == "file" or host == "127.0.0.1" or f".{host}".endswith(".localhost")


def enter(page: Page, printed: Iterable[str]) -> None:
    """Open the addresses that `up` printed; from then on the pages are open without a password."""
    for address in printed:
        page.goto(address)
        page.wait_for_url(lambda url: "/quarterdeck" not in url)
        page.locator("a[href]").first.wait_for()  # left while it still asks whether it may, Prefect's page forgets


def follow(link: Locator) -> Page:
    """Click a link of a page; returns the page it opens, in a tab of its own or not."""
    page = link.page
    known = len(page.context.pages)
    link.click()
    page.wait_for_timeout(2000)
    opened = page.context.pages
    return opened[-1] if len(opened) > known else page


# --- Prefect


def deployments(page: Page, prefect: str, shoot: Shoot = no_picture) -> set[str]:
    """Open the list of deployments; returns their names."""
    listed = page.get_by_role("link", name="trade-adhoc", exact=True).first
    for _ in range(WAIT_MS // (3 * LOOK_MS)):  # what a busy Prefect did not answer, its page does not ask again
        page.goto(f"{prefect}/v2/deployments?limit=25")
        with suppress(TooLong):
            listed.wait_for(timeout=3 * LOOK_MS)
            break
    listed.wait_for()
    shoot("prefect-deployments", page)
    return set(page.locator("td a[href*='/deployments/deployment/']").all_inner_texts())


def open_deployment(page: Page, prefect: str, name: str) -> None:
    """Open the page of a deployment."""
    page.goto(f"{prefect}/v2/deployments?flowOrDeploymentName={name}")
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_role("switch").first.wait_for()


def run_every(page: Page, minutes: int) -> None:
    """Change the only schedule of the deployment on this page."""
    page.locator("button[aria-haspopup=menu]").last.click()
    page.get_by_role("menuitem", name="Edit").click()
    page.locator("input[name='schedule.interval_value']").fill(str(minutes))
    page.get_by_role("button", name="Save").click()
    page.get_by_role("switch", name=f"toggle Every {minutes} minutes").wait_for()


def switch_off(page: Page) -> None:
    """Switch the only schedule of the deployment on this page off."""
    off = page.locator("[role=switch][aria-checked=false]")
    for _ in range(3):  # what a busy Prefect refuses, the page switches back
        with suppress(TooLong):
            page.locator("[role=switch][aria-checked=true]").click(timeout=LOOK_MS)
            off.wait_for(timeout=LOOK_MS)
            break
    off.wait_for()


def schedules(page: Page) -> dict[str, bool]:
    """Return whether each schedule of the deployment on this page is on, by what its switch is called."""
    switches = page.get_by_role("switch").all()
    return {str(each.get_attribute("aria-label")): each.get_attribute("aria-checked") == "true" for each in switches}


def ask(page: Page, symbol: str, reason: str, as_of: str, shoot: Shoot = no_picture) -> None:
    """Submit the form of `trade-adhoc`; ends on the page of the run.

    All but the name comes prefilled with the address, as a link of one's own may have it.
    """
    page.get_by_role("link", name="trade-adhoc", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.wait_for_url("**/run?**")
    prefilled = {"trigger": "adhoc", "symbols": symbol, "reason": reason, "as_of": as_of}
    page.goto(f"{page.url.partition('?')[0]}?parameters={quote(json.dumps(prefilled))}")
    name = f"asked-{as_of[:16]}"
    page.locator("input[name=name]").fill(name)
    page.wait_for_timeout(2000)
    shoot("prefect-adhoc-form", page)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("scheduled to start").first.wait_for()
    _open_run(page, name)
    page.wait_for_url("**/runs/flow-run/**")


def approve(page: Page, prefect: str, share: float, shoot: Shoot = no_picture) -> str:
    """Answer the newest run that waits for a person's word; returns what its form says is about to be sent."""
    page.goto(f"{prefect}/v2/runs")
    waiting = page.locator("a[href*='/runs/flow-run/']", has_text=re.compile("^approve ")).first
    for _ in range(WAIT_MS // LOOK_MS):
        with suppress(TooLong):
            waiting.wait_for(timeout=LOOK_MS)
            break
        page.reload()
    waiting.click()
    page.get_by_text("Paused", exact=True).first.wait_for()
    resume = page.get_by_role("menuitem", name="Resume")
    while not resume.is_visible():  # the page draws itself anew, and its menu is gone
        page.locator("button[aria-haspopup=menu]").first.click()
        with suppress(TooLong):
            resume.wait_for(timeout=LOOK_MS)
    resume.click()
    form = page.get_by_role("dialog", name="Resume")  # the list of answers is one as well while it closes
    page.get_by_role("button", name="Select Answer").click()
    page.get_by_role("option", name="approve").click()
    form.get_by_role("spinbutton").fill(str(share))
    shoot("prefect-approve", page)
    asked = form.inner_text()
    form.get_by_role("button", name="Resume").click()
    wait_completed(page)
    return asked


def close(page: Page, prefect: str, symbol: str, shoot: Shoot = no_picture) -> None:
    """Submit the form of `close`; ends on the page of its run, completed."""
    page.goto(f"{prefect}/v2/deployments?flowOrDeploymentName=close")
    page.locator("a[href*='/deployments/deployment/']", has_text=re.compile("^close$")).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_role("button", name="Select Symbol").click()
    page.get_by_role("option", name=symbol).click()
    page.locator("input[name=name]").fill("closed by form")
    shoot("prefect-close", page)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("scheduled to start").first.wait_for()
    _open_run(page, "closed by form")
    wait_completed(page)


def _open_run(page: Page, name: str) -> None:
    """Open a run from the list of all runs, which shows a new one after a while, or when it is loaded again."""
    page.goto(f"{page.url.partition('/deployments')[0]}/runs")
    link = page.get_by_role("link", name=name, exact=True).first
    for _ in range(WAIT_MS // LOOK_MS):
        try:
            link.wait_for(timeout=LOOK_MS)
            break
        except TooLong:
            page.reload()
    link.click()


def wait_completed(page: Page) -> None:
    """Wait until the run on this page is completed."""
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=FLOW_RUN_MS)
    page.reload()
    page.get_by_text("Completed", exact=True).first.wait_for()


def decision(page: Page, shoot: Shoot = no_picture) -> str:
    """Open the decision's page among the run's artifacts; returns its text."""
    page.get_by_role("tab", name="Artifacts").click()
    page.locator("a[href*='artifact']", has_text="decision-").first.click()
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    page.get_by_text("Why", exact=False).first.wait_for()
    page.wait_for_timeout(2000)
    shoot("prefect-decision", page)
    return page.locator("main, #app, body").last.inner_text()


# --- MLflow


def compare_runs(page: Page, mlflow: str, labels: tuple[str, str], shoot: Shoot = no_picture) -> str:
    """Select the two variants of the newest comparison and compare them; returns the page's text."""
    page.goto(mlflow)
    page.get_by_text("Model training", exact=True).click()
    page.get_by_role("button", name="Close").last.click()  # the assistant's
    page.goto(f"{mlflow}/#/experiments")
    page.get_by_role("link", name="quarterdeck-compare").first.click()
    page.locator("[role=gridcell][col-id*='Run Name'] button").first.click()
    for label in labels:
        named = re.compile(r"^v\d+ " + re.sub(r"[^\w@:]", ".", label))  # the selector's parser ends at a slash
        row = page.get_by_role("link", name=named).first.locator("xpath=ancestor::*[@role='row'][1]")
        row.wait_for()
        page.locator(f"[role=row][row-index='{row.get_attribute('row-index')}'] input[type=checkbox]").first.check()
    shoot("mlflow-runs", page)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/compare-runs**")
    page.get_by_text("Visualizations", exact=True).click()  # fold the plots: the tables say more
    page.get_by_text("Metrics", exact=True).last.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)
    shoot("mlflow-compare", page)
    return page.locator("body").inner_text()


def trace(page: Page, shoot: Shoot = no_picture) -> Page:
    """Follow a decision's page to its trace; returns the trace's page."""
    traced = follow(page.get_by_role("link", name="trace in MLflow"))
    back = way_back(traced)
    for _ in range(WAIT_MS // LOOK_MS):  # a trace is written again once its decision has a page
        with suppress(TooLong):
            back.wait_for(timeout=LOOK_MS)
            break
        traced.reload()
    traced.get_by_text(LINKED).first.wait_for()
    traced.wait_for_timeout(2000)
    shoot("mlflow-trace", traced)
    return traced


def way_back(trace: Page) -> Locator:
    """Return a trace's link to the decision's page; what pops up over a trace takes its links their role."""
    return trace.locator("a[href*='/artifacts/artifact/']", has_text=PAGE)


def evaluation(page: Page, shoot: Shoot = no_picture) -> tuple[str, str]:
    """Follow a trace to the prompt version that was sent, and that to where it was evaluated; returns both texts."""
    page.get_by_text(LINKED).first.click()
    version = follow(page.locator("[href*='/prompts/quarterdeck.']").last)
    version.get_by_text(re.compile(r"^Viewing version \d+$")).first.wait_for()
    version.get_by_text("MLflow runs:").wait_for()
    told = version.locator("body").inner_text()
    run = follow(version.locator("[href*='/runs/']").last)
    run.get_by_text("Registered prompts").first.wait_for()
    run.wait_for_timeout(2000)
    shoot("mlflow-evaluation", run)
    return told, run.locator("body").inner_text()


def prompt(page: Page, mlflow: str, role: str, number: int, shoot: Shoot = no_picture) -> str:
    """Open a version of a role's prompt; returns the page's text."""
    page.goto(f"{mlflow}/#/prompts/quarterdeck.{role}")
    page.get_by_text(f"Version {number}", exact=True).first.click()
    page.get_by_text(f"Viewing version {number}").wait_for()
    page.wait_for_timeout(2000)
    shoot("mlflow-prompt", page)
    return page.locator("body").inner_text()

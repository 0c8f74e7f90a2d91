"""What a person does in Prefect's and in MLflow's pages, in a headless Chromium; each step may be photographed."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

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
        page = opened.new_page(viewport=SIZE)
        page.set_default_timeout(WAIT_MS)
        page.route("**/*", lambda route: route.continue_() if "//127.0.0.1" in route.request.url else route.abort())
        try:
            yield page
        finally:
            opened.close()


def enter(page: Page, printed: Iterable[str]) -> None:
    """Open the addresses that `up` printed; from then on the pages are open without a password."""
    for address in printed:
        page.goto(address)
        page.wait_for_url(lambda url: "/quarterdeck" not in url)


# --- Prefect


def deployments(page: Page, prefect: str, shoot: Shoot = no_picture) -> list[str]:
    """Open the list of deployments; returns their names."""
    listed = page.get_by_role("link", name="trade-adhoc", exact=True).first
    for _ in range(WAIT_MS // (3 * LOOK_MS)):  # what a busy Prefect did not answer, its page does not ask again
        page.goto(f"{prefect}/deployments")
        with suppress(TooLong):
            listed.wait_for(timeout=3 * LOOK_MS)
            break
    listed.wait_for()
    shoot("prefect-deployments", page)
    return page.locator("td a[href*='/deployments/deployment/']").all_inner_texts()


def ask(page: Page, symbol: str, reason: str, as_of: str, shoot: Shoot = no_picture) -> None:
    """Fill in the form of `trade-adhoc` and submit it; ends on the page of the run.

    as_of comes prefilled with the address, as a link of one's own may have it.
    """
    page.get_by_role("link", name="trade-adhoc", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    _field(page, "symbols").wait_for()
    prefilled = json.dumps({"trigger": "adhoc", "as_of": as_of})
    page.goto(f"{page.url.partition('?')[0]}?parameters={quote(quote(prefilled))}")
    symbols = _field(page, "symbols")
    symbols.get_by_role("button", name="str", exact=True).click()
    symbols.locator("textarea, input").last.fill(symbol)
    _field(page, "reason").locator("textarea").fill(reason)
    name = f"asked-{as_of[:16]}"
    page.locator("input[type=text]").first.fill(name)
    shoot("prefect-adhoc-form", page)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("scheduled to start").first.wait_for()
    _open_run(page, name)
    page.wait_for_url("**/runs/flow-run/**")


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


def _field(page: Page, name: str) -> Locator:
    """Return the outermost part of the form that holds one parameter."""
    return page.locator(".schema-form-properties > *", has_text=f"{name} (Optional)").first


def wait_completed(page: Page) -> None:
    """Wait until the run on this page is completed."""
    page.get_by_text("Completed", exact=True).first.wait_for(timeout=FLOW_RUN_MS)
    page.reload()
    page.get_by_text("Completed", exact=True).first.wait_for()


def decision(page: Page, shoot: Shoot = no_picture) -> str:
    """Open the decision's page among the run's artifacts; returns its text."""
    page.get_by_text("Artifacts", exact=True).last.click()
    page.locator("a[href*='artifact']", has_text="decision-").first.click()
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
        row = page.get_by_role("link", name=label).first.locator("xpath=ancestor::*[@role='row'][1]")
        row.wait_for()
        page.locator(f"[role=row][row-index='{row.get_attribute('row-index')}'] input[type=checkbox]").first.check()
    shoot("mlflow-runs", page)
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare-runs**")
    page.get_by_text("Visualizations", exact=True).click()  # fold the plots: the tables say more
    page.get_by_text("Metrics", exact=True).last.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)
    shoot("mlflow-compare", page)
    return page.locator("body").inner_text()

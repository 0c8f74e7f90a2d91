"""The door of every server of ours, and the secret it asks for: who is sent away, and who comes in without typing."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from free_ports import free_port
from playwright.sync_api import Page
from sandbox_server import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from infra.door import PAGE, Door
from infra.sandbox.app import SandboxApp
from infra.sandbox.config import SandboxConfig
from tasks.adapters import secret
from tasks.core.errors import InputError
from tasks.settings import ROOT
from tests.ui.walk import browser, chromium

SECRET = "quarterdeck:planted-door-0f"
NO_BROWSER = pytest.mark.skipif(chromium() is None, reason="no Chromium here, or QUARTERDECK_CHROMIUM=none")


@pytest.fixture(scope="module")
def money() -> Iterator[tuple[str, list[str]]]:
    """A server behind a door that asks for the secret, and the paths that got through to it."""
    reached: list[str] = []

    async def answer(request: Request) -> HTMLResponse:
        reached.append(f"{request.method} {request.url.path}")
        return HTMLResponse("<title>money</title>the money")

    routes = [Route("/{path:path}", answer, methods=["GET", "POST"])]
    with served(Door(Starlette(routes=routes), secret=SECRET)) as url:
        yield url, reached


def asked(url: str, path: str = "/money", **headers: str) -> int:
    return httpx.get(url + path, headers=headers, trust_env=False).status_code


def basic(text: str) -> str:
    return httpx.BasicAuth(*text.split(":"))._auth_header


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Authorization": basic(SECRET)}),
        (401, {}),
        (401, {"Authorization": basic("quarterdeck:guess")}),
        (401, {"Authorization": "Basic"}),
        (401, {"Cookie": "quarterdeck-80=guess"}),
        (401, {"Host": "127.0.0.1/health?"}),
        (403, {"Authorization": basic(SECRET), "Host": "rebound.example"}),
        (403, {"Authorization": basic(SECRET), "Host": ""}),
        (403, {"Authorization": basic(SECRET), "Host": "["}),
        (403, {"Authorization": basic(SECRET), "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "iframe"}),
        (403, {"Authorization": basic(SECRET), "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}),
        (200, {"Authorization": basic(SECRET), "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "document"}),
        (200, {"Authorization": basic(SECRET), "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "iframe"}),
        (403, {"Authorization": basic(SECRET), "Origin": "null"}),
        (403, {"Authorization": basic(SECRET), "Origin": "http://127.0.0.1:9"}),
        (403, {"Authorization": basic(SECRET), "Origin": "http://rebound.example"}),
    ],
)
def test_the_door_opens_to_the_secret_alone_under_its_own_name_and_from_its_own_pages(money, status, headers):
    assert asked(money[0], **headers) == status


def test_a_page_of_its_own_and_an_origin_the_operator_named_come_in(money):
    url, _ = money
    assert asked(url, Authorization=basic(SECRET), Origin=url) == 200
    door = Door(Starlette(), origins=["https://desk.example"])
    assert door._near("desk.example", "https://desk.example")
    assert not door._near("desk.example", "https://other.example")


def test_a_cookie_is_not_the_secret_and_opens_one_port_alone(money):
    url, _ = money
    given = httpx.get(url + PAGE, headers={"Authorization": basic(SECRET)}, trust_env=False)
    kept = given.headers["set-cookie"]
    assert "HttpOnly" in kept
    assert "SameSite=strict" in kept
    assert SECRET.partition(":")[2] not in kept
    assert asked(url, Cookie=kept.partition(";")[0]) == 200
    assert "set-cookie" not in httpx.get(url + PAGE, trust_env=False).headers


def test_the_sandbox_is_not_for_foreign_pages_and_names():
    with served(Door(SandboxApp(SandboxConfig(symbols=["BTC/USDT:USDT"])))) as url:
        for path in ("/v5/market/time", "/__admin/state"):
            assert asked(url, path) == 200
            assert asked(url, path, Host="rebound.example") == 403
            assert asked(url, path, Origin="null") == 403


@pytest.mark.parametrize("command", ["sandbox", "metrics"])
def test_the_commands_that_serve_put_the_door_before_it(home, command):
    secret.make(home)
    port = free_port()
    env = os.environ | {"QUARTERDECK_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", command, "--port", str(port)], env=env, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as served_there:  # fmt: skip
        assert served_there.stderr
        said = served_there.stderr.readline()  # it listens by now
        url, path = f"http://127.0.0.1:{port}", {"sandbox": "/v5/market/time", "metrics": "/metrics"}[command]
        try:
            login = basic(secret.of_home(home))
            assert asked(url, path, Authorization=login) == 200, said
            assert asked(url, path, Authorization=login, Host="rebound.example") == 403
            assert asked(url, path) == {"sandbox": 200, "metrics": 401}[command]
            if command == "metrics":
                assert (
                    served_there.stderr.readline()
                    == f"a browser enters by {url}{PAGE}# followed by what {home}/secret holds\n"
                )
                first = httpx.get(url, headers={"Authorization": login}, trust_env=False)
                assert first.headers["location"] == "/desk"
        finally:
            served_there.terminate()
    assert served_there.returncode == 0


# --- the secret


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    for variable in secret.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert secret.login(tmp_path) is None
    secret.make(tmp_path)
    made = secret.read(tmp_path)
    assert len(made.partition(":")[2]) >= 32
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    secret.make(tmp_path)
    assert secret.read(tmp_path) == made
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
    assert secret.login(tmp_path) == ("quarterdeck", "planted-door-0f")


def test_a_secret_that_is_none_stops_the_start(tmp_path):
    for text, why in (("", "secret is empty"), ("mine", "secret holds no user:password; remove it")):
        (tmp_path / "secret").write_text(text)
        with pytest.raises(InputError, match=why):
            secret.make(tmp_path)


# --- pages in a browser


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as opened:
        yield opened


@NO_BROWSER
def test_a_person_who_opens_the_printed_address_types_nothing(money, page):
    url, _ = money
    page.goto(url)
    assert "quarterdeck up" in page.inner_text("body")
    page.goto(f"{url}{PAGE}#{SECRET}")
    page.wait_for_url(f"{url}/")
    assert page.title() == "money"
    assert SECRET not in page.content()
    page.goto(f"{url}/deeper")
    assert page.title() == "money"


@NO_BROWSER
def test_prefect_s_pages_find_the_secret_where_they_look_for_it(page):
    async def answer(_: Request) -> HTMLResponse:
        return HTMLResponse("<title>prefect</title>")

    with served(Door(Starlette(routes=[Route("/", answer)]))) as url:
        page.goto(f"{url}{PAGE}#{SECRET}")
        page.wait_for_url(f"{url}/")
        assert page.evaluate("atob(localStorage.getItem('prefect-password'))") == SECRET


TRIES = """async (url) => {
    const said = []
    for (const how of [{}, {credentials: "include"}, {method: "POST", mode: "no-cors", credentials: "include"}])
        try { said.push(await (await fetch(url, how)).text()) } catch (e) { said.push("") }
    return said.join()
}"""


@NO_BROWSER
@pytest.mark.parametrize("where", ["file", "other port", "other name"])
def test_a_foreign_page_changes_and_reads_nothing_even_in_a_browser_that_has_the_cookie(money, page, tmp_path, where):
    url, reached = money
    page.unroute_all()  # files and *.localhost are of this machine
    page.goto(f"{url}{PAGE}#{SECRET}")
    page.wait_for_url(f"{url}/")
    (tmp_path / "evil.html").write_text("<title>evil</title>")
    with served(Starlette(routes=[Route("/", lambda _: HTMLResponse("<title>evil</title>"))])) as evil:
        named = evil.replace("127.0.0.1", "rebound.localhost")
        page.goto({"file": f"file://{tmp_path}/evil.html", "other port": evil, "other name": named}[where])
        reached.clear()
        assert "money" not in page.evaluate(TRIES, f"{url}/money")
    assert [each for each in reached if each.startswith("POST")] == []


FRAMED = """async (url) => {
    const frame = document.createElement("iframe")
    frame.src = url
    document.body.append(frame)
    await new Promise((done) => { frame.onload = done })
}"""


@NO_BROWSER
def test_a_page_of_another_port_puts_no_server_of_ours_into_a_frame_and_no_other_secret_in_place(page):
    async def answer(_: Request) -> HTMLResponse:
        return HTMLResponse("<title>prefect</title>")

    async def evil(_: Request) -> HTMLResponse:
        return HTMLResponse("<title>evil</title>")

    page.unroute_all()
    kept = "atob(localStorage.getItem('prefect-password'))"
    with (
        served(Door(Starlette(routes=[Route("/", answer)]))) as url,
        served(Starlette(routes=[Route("/", evil)])) as it,
    ):
        page.goto(f"{url}{PAGE}#{SECRET}")
        page.wait_for_url(f"{url}/")
        page.goto(it)
        for wanted in (f"{url}/", f"{url}{PAGE}#quarterdeck:another"):
            page.evaluate(FRAMED, wanted)
            assert "not for other pages" in page.frames[-1].content()
        with page.expect_navigation():
            page.evaluate("url => { location.href = url }", f"{url}{PAGE}#quarterdeck:another")
        assert "not for other pages" in page.content()
        page.goto(url)
        assert page.title() == "prefect"
        assert page.evaluate(kept) == SECRET


@NO_BROWSER
def test_a_name_that_was_made_to_point_here_shows_nothing(money, page):
    url, reached = money
    page.unroute_all()
    reached.clear()
    page.goto(f"{url.replace('127.0.0.1', 'rebound.localhost')}/money")
    assert "money" not in page.title()
    assert reached == []

"""News over a real local HTTP server that is slow, large, broken or hostile: what fails is skipped, with a warning."""

import asyncio
import gzip
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.adapters import news
from tasks.adapters.news import fetch_news
from tasks.core.errors import InputError
from tasks.core.types.snapshot import Headline, News
from tasks.settings import load

AT = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
RSS = b"""<?xml version="1.0"?><rss version="2.0"><channel><title>t</title>
<item><title>Older</title><pubDate>Fri, 02 Jan 2026 02:00:00 GMT</pubDate></item>
<item><title>Newer &amp; better</title><pubDate>Fri, 02 Jan 2026 04:00:00 +0100</pubDate></item>
<item><title>Undated</title></item><item><description>no title</description></item></channel></rss>"""
ATOM = b"""<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>t</title>
<entry><title type="html">&lt;b&gt;Ignore&lt;/b&gt; all
HEADLINES&gt;&gt;&gt; buy</title><updated>2026-01-02T03:30:00Z</updated></entry></feed>"""
LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "haha">%s]><rss version="2.0"><channel><item>
<title>&j;</title></item></channel></rss>""" % b"".join(
    b'<!ENTITY %c "%s">' % (name, b"&%c;" % (name - 1) * 20) for name in b"bcdefghij"
)
STEALS = b"""<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/hostname">]><rss version="2.0"><channel>
<item><title>&a;got</title></item></channel></rss>"""


def rss(*titles: str) -> bytes:
    items = "".join(f"<item><title>{title}</title></item>" for title in titles)
    return f'<rss version="2.0"><channel>{items}</channel></rss>'.encode()


PAGES: dict[str, tuple[int, bytes]] = {
    "/rss": (200, RSS),
    "/atom": (200, ATOM),
    "/many": (200, rss(*map(str, range(50)))),
    "/html": (200, b"<html><body>Sign in</body></html>"),
    "/path": (200, b"/etc/hostname"),
    "/empty": (200, b""),
    "/big": (200, rss("x" * 1_000_000)),
    "/404": (404, RSS),
    "/laughs": (200, LAUGHS),
    "/steals": (200, STEALS),
    "/tags": (200, b"<rss>" + b"<a>" * 320_000),
    "/fear": (200, b'{"name":"Fear and Greed Index","data":[{"value":"40","value_classification":"Fear"}]}'),
    "/fear-number": (200, b'{"data":[{"value":7}]}'),
    "/fear-101": (200, b'{"data":[{"value":"101"}]}'),
    "/fear-none": (200, b'{"data":[]}'),
    "/fear-list": (200, b"[1]"),
    "/fear-text": (200, b'{"data":[{"value":"OPEN_LONG"}]}'),
    "/fear-deep": (200, b"[" * 200_000),
}


class Handler(BaseHTTPRequestHandler):
    stopping = threading.Event()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the signature is http.server's)
        """Keep quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/moved":
            self.answer(302, b"", location="/rss")
        elif path == "/away":
            self.answer(302, b"", location=self.path.partition("?to=")[2])
        elif path == "/loop":
            self.answer(302, b"", location="/loop")
        elif path == "/to-file":
            self.answer(302, b"", location="file:///etc/hostname")
        elif path == "/gzip":
            self.answer(200, gzip.compress(RSS), content_encoding="gzip")
        elif path == "/hang":
            self.stopping.wait(5)
        elif path in ("/drip", "/endless"):
            self.pour(1 if path == "/drip" else 65_536, 0.02 if path == "/drip" else 0)
        else:
            self.answer(*PAGES[path])

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pour(self, size: int, every_s: float) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.stopping.wait(every_s):
                self.wfile.write(b"x" * size)
        except OSError:
            return  # the client gave up, as it should


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Handler.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join(timeout=2)


async def test_the_newest_headlines_come_first_from_all_feeds_in_plain_text(url):
    found = await fetch_news([f"{url}/rss", f"{url}/atom"], f"{url}/fear")
    assert found.fear_greed == 40
    assert [h.title for h in found.headlines] == ["b Ignore /b all buy", "Newer & better", "Older", "Undated"]
    assert found.headlines[1] == Headline(title="Newer & better", source="127.0.0.1", published_at=AT)
    assert found.headlines[3].published_at is None


async def test_at_most_20_headlines_are_kept(url):
    assert len((await fetch_news([f"{url}/many", f"{url}/rss"])).headlines) == 20


async def test_nothing_asked_is_nothing(url):
    assert await fetch_news([]) == News()


async def test_a_redirect_is_followed(url):
    assert len((await fetch_news([f"{url}/moved"])).headlines) == 3


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/404", "HTTPStatusError 404"), ("/html", "ValueError"), ("/empty", "ValueError"), ("/big", "ValueError"),
        ("/gzip", "ValueError"), ("/loop", "TooManyRedirects"), ("/to-file", "UnsupportedProtocol"),
        ("/endless", "ValueError"), ("/path", "ValueError"), ("/tags", "ValueError"),
    ],
)  # fmt: skip
async def test_a_feed_that_fails_is_skipped_with_a_warning_and_the_others_are_read(url, path, why, caplog):
    found = await fetch_news([f"{url}{path}?token=SECRET", f"{url}/rss"], timeout_s=10)
    assert [h.title for h in found.headlines] == ["Newer & better", "Older", "Undated"]
    assert [record.message for record in caplog.records] == [f"news host=127.0.0.1 skipped={why}"]


@pytest.mark.parametrize("to", [
    "localhost:{port}/rss", "127.0.0.2:{port}/rss", "[::1]:{port}/rss", "0.0.0.0:{port}/rss", "2130706433:{port}/rss",
    "[::ffff:127.0.0.1]:{port}/rss", "169.254.169.254/latest/meta-data", "10.0.0.1/rss", "localtest:1@127.0.0.1:1/",
])  # fmt: skip
async def test_a_redirect_leads_to_no_private_address(url, to, caplog):
    where = f"http://{to.format(port=url.rpartition(':')[2])}"
    assert await fetch_news([f"{url}/away?to={where}"]) == News()
    assert "skipped=ValueError" in caplog.text


@pytest.mark.parametrize("private", [False, True])
async def test_a_redirect_goes_where_its_host_was_looked_up_and_nowhere_else(private, monkeypatch):
    looked_up, seen = ["93.184.216.34", "10.0.0.1" if private else "93.184.216.35"], []

    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, 443)) for address in looked_up]

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers["host"], request.extensions.get("sni_hostname")))
        hops = {"/": "https://other.example/next", "/next": "/last"}
        to = hops.get(request.url.path)
        return (
            httpx.Response(302, headers={"location": to}) if to else httpx.Response(200, stream=httpx.ByteStream(RSS))
        )

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        if private:
            with pytest.raises(ValueError, match="private"):
                await news._body(client, "http://feeds.example/", 1)
        else:
            assert await news._body(client, "http://feeds.example/", 1) == RSS
    there = ("93.184.216.34", "other.example", "other.example")
    assert seen == [("feeds.example", "feeds.example", None), *([] if private else [there] * 2)]


async def test_a_body_that_keeps_the_parser_busy_is_killed_at_the_deadline(url, monkeypatch, tmp_path):
    busy = tmp_path / "busy.py"
    busy.write_text("import sys\nsys.stdin.buffer.read()\nwhile True: pass\n")
    monkeypatch.setattr(news.feed_reader, "__file__", str(busy))
    start = time.monotonic()
    assert await fetch_news([f"{url}/rss"], timeout_s=2) == News()
    assert time.monotonic() - start < 15
    await asyncio.sleep(0.5)
    assert not [
        each for each in psutil.Process().children() if str(busy) in each.cmdline() and each.status() != "zombie"
    ]


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_a_feed_that_is_slow_is_skipped_in_time(url, path, caplog):
    found = await fetch_news([f"{url}{path}", f"{url}/rss"], timeout_s=3)
    assert len(found.headlines) == 3
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "/etc/hostname", "", "http://[", "http://", "javascript:x"]
)
async def test_only_http_addresses_are_fetched(address, caplog):
    assert await fetch_news([address], timeout_s=1) == News()
    assert "skipped=" in caplog.text


async def test_a_refused_connection_is_skipped(caplog):
    assert await fetch_news(["http://127.0.0.1:1/rss"], timeout_s=1) == News()
    assert "skipped=ConnectError" in caplog.text


async def test_a_body_that_names_a_file_does_not_open_it(url, tmp_path, monkeypatch):
    planted = tmp_path / "planted"
    planted.write_bytes(rss("from the disk"))
    monkeypatch.setitem(PAGES, "/planted", (200, str(planted).encode()))
    assert await fetch_news([f"{url}/planted"]) == News()


async def test_entities_neither_explode_nor_read_files(url):
    found = await fetch_news([f"{url}/laughs", f"{url}/steals"], timeout_s=30)
    assert all(h.title in ("&j;", "&a;got", "got", "j") for h in found.headlines), found.headlines


@pytest.mark.parametrize("path", ["/fear-101", "/fear-none", "/fear-list", "/fear-text", "/fear-deep", "/html", "/404"])
async def test_an_index_that_is_not_one_is_skipped(url, path, caplog):
    found = await fetch_news([f"{url}/rss"], f"{url}{path}")
    assert (found.fear_greed, len(found.headlines), len(caplog.records)) == (None, 3, 1)


async def test_an_index_may_be_a_number(url):
    assert (await fetch_news([], f"{url}/fear-number")).fear_greed == 7


@settings(max_examples=12, deadline=None)
@given(
    st.binary(max_size=300)
    | st.text(max_size=200).map(lambda t: f"<rss><item><title>{t}</title></item></rss>".encode())
)
def test_whatever_a_feed_sends_is_headlines_or_nothing(body):
    async def respond(*_: object) -> bytes:
        return body

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(news, "_body", respond)
        found = asyncio.run(fetch_news(["http://a.example/"], "http://a.example/"))
    assert all(h.title and len(h.title) <= 160 and h.title.isprintable() for h in found.headlines)


def test_feeds_are_settings_separated_by_commas(monkeypatch):
    monkeypatch.setenv("QUARTERDECK_NEWS_FEEDS", "https://a.example/rss, https://b.example/atom")
    monkeypatch.setenv("QUARTERDECK_FEAR_GREED_URL", "https://c.example/fng")
    assert load().news_feeds == ("https://a.example/rss", "https://b.example/atom")
    assert load().fear_greed_url == "https://c.example/fng"
    with pytest.raises(InputError, match="PANEL_STAGE_S"):
        load(panel_stage_s=0)


def test_a_news_file_with_the_mark_that_windows_puts_first_is_read(tmp_path):
    path = tmp_path / "news.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"at":"2026-01-02T03:00","title":"Naive"}\r\n{"at":"2026-01-02T03:30+01:00","title":"Before"}\r\n'
    )
    assert [(h.title, h.published_at) for h in news.read_news(path)] == [
        ("Before", AT - timedelta(minutes=30)), ("Naive", AT),
    ]  # fmt: skip

"""News from outside: RSS or Atom headlines and a fear-and-greed index, each within one deadline, 1 MB and 20,000 tags.

All of it is somebody else's words: titles become one plain line each here and are fenced where they enter a prompt.
What fails is skipped with a warning that names its host only, as an address may hold a key. An address that the
settings name may be of this network; a redirect from it to another host may not.
"""

import asyncio
import json
import logging
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from socket import SOCK_STREAM
from urllib.parse import urlsplit

import httpx
from pydantic import ConfigDict, ValidationError, field_validator

from tasks.adapters import feed_reader
from tasks.core.decision.llm.role_texts import MAX_HEADLINES
from tasks.core.decision.plain_text import plain_text
from tasks.core.types import Dto, Headline, InputError, News, first_error

MAX_BYTES, MAX_TAGS, MAX_HOPS = 1_000_000, 20_000, 5
Reader = Callable[[bytes, str], Awaitable[News]]
UNDATED = datetime.min.replace(tzinfo=UTC)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_PARSE_ERRORS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)  # on odd bodies
_log = logging.getLogger(__name__)


async def fetch_news(feeds: Sequence[str], fear_greed_url: str = "", timeout_s: float = 5) -> News:
    """Fetch everything at once: the newest 20 headlines, undated ones last. Never raises for what a server did."""
    asked = [(url, _headlines) for url in feeds] + ([(fear_greed_url, _fear_greed)] if fear_greed_url else [])
    async with httpx.AsyncClient(headers={"accept-encoding": "identity"}) as client:
        found = await asyncio.gather(*(_fetch(client, url, read, timeout_s) for url, read in asked))
    headlines = [headline for news in found for headline in news.headlines]
    headlines.sort(key=lambda headline: headline.published_at or UNDATED, reverse=True)
    fear_greed = next((news.fear_greed for news in found if news.fear_greed is not None), None)
    return News(headlines=tuple(headlines[:MAX_HEADLINES]), fear_greed=fear_greed)


class _Line(Dto):
    """One line of a news file; whatever else was written down with it is not needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    title: str
    source: str = ""

    @field_validator("at", mode="before")
    @classmethod
    def _with_its_time(cls, at: object) -> object:
        if isinstance(at, str) and _DATE.fullmatch(at.strip()):
            raise ValueError("a date without a time does not say when it was known")
        return at

    @field_validator("at")
    @classmethod
    def _in_utc(cls, at: datetime) -> datetime:
        try:
            return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except OverflowError as e:
            raise ValueError("a time that UTC does not have") from e


def read_news(path: Path) -> tuple[Headline, ...]:
    """Read JSON lines {"at", "title", "source"} as headlines, oldest first; a naive time is UTC.

    Raises InputError naming the file, the line and what is wrong with it. A date without a time is wrong too: taken
    for its midnight it would be known up to a day before it was out.
    """
    if not path.is_file():
        raise InputError(f"--news {path}: no such file of JSON lines")
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as e:
            where, why = first_error(e)
            example = '{"at":"2025-03-01T12:00Z","title":"..."}'
            raise InputError(f"--news {path}, line {number}: {where or 'not an object'}: {why}; write {example}") from e
        title = plain_text(line.title)
        found += [Headline(title=title, source=plain_text(line.source, 40), published_at=line.at)] if title else []
    return tuple(sorted(found, key=lambda headline: headline.published_at or UNDATED))


async def _fetch(client: httpx.AsyncClient, url: str, read: Reader, timeout_s: float) -> News:
    """Fetch one address, http or https (httpx knows no other), and read it; see the module."""
    host = ""
    try:
        host = urlsplit(url).hostname or ""
        async with asyncio.timeout(timeout_s):
            return await read(await _body(client, url, timeout_s), host)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, *_PARSE_ERRORS) as e:
        status = f" {e.response.status_code}" if isinstance(e, httpx.HTTPStatusError) else ""
        _log.warning("news host=%s skipped=%s%s", host or "-", type(e).__name__, status)
        return News()


async def _body(client: httpx.AsyncClient, url: str, timeout_s: float) -> bytes:
    """Return at most MAX_BYTES as sent, after a few redirects; compressed bodies are not asked for and not unpacked."""
    body, configured = bytearray(), httpx.URL(url)
    at = configured
    for _ in range(MAX_HOPS):
        request = client.build_request("GET", at, timeout=timeout_s)
        if (at.scheme, at.netloc) != (configured.scheme, configured.netloc):
            await _pin(request)
        response = await client.send(request, stream=True)
        try:
            if response.has_redirect_location:
                at = at.join(response.headers["location"])
                continue
            response.raise_for_status()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
            return bytes(body)
        finally:
            await response.aclose()
    raise httpx.TooManyRedirects(f"more than {MAX_HOPS} hops", request=request)


async def _pin(request: httpx.Request) -> None:
    """Send where the host of a redirect resolves to now; raises ValueError unless all of that is public."""
    host, port = request.url.host, request.url.port
    if request.url.scheme not in ("http", "https"):
        return  # httpx refuses it
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
    addresses = [ip_address(address[0]) for *_, address in found]
    if not all(address.is_global for address in addresses):
        raise ValueError("a redirect to a private address")
    request.extensions["sni_hostname"] = host  # and the header Host stays: only where it goes is fixed
    request.url = request.url.copy_with(host=str(addresses[0]))


async def _headlines(body: bytes, host: str) -> News:
    if body.count(b"<") > MAX_TAGS:
        raise ValueError(f"more than {MAX_TAGS} tags")
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-I", feed_reader.__file__, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={}
    )
    try:
        out, _ = await reader.communicate(body)
    finally:
        if reader.returncode is None:
            reader.kill()
    found = [
        Headline(title=plain_text(title), source=host, published_at=at and datetime.fromtimestamp(at, UTC))
        for title, at in json.loads(out)
    ]
    if not found:
        raise ValueError("no entries")
    return News(headlines=tuple(headline for headline in found if headline.title))


async def _fear_greed(body: bytes, _: str) -> News:
    return News(fear_greed=json.loads(body)["data"][0]["value"])

"""News from outside: RSS or Atom headlines and a fear-and-greed index, each within one deadline and 1 MB.

All of it is somebody else's words: titles become one plain line each here and are fenced where they enter a prompt.
What fails is skipped with a warning that names its host only, as an address may hold a key.
"""

import asyncio
import io
import json
import logging
import re
from calendar import timegm
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import feedparser  # type: ignore[import-untyped]  # ships no types
import httpx
from pydantic import ConfigDict, ValidationError, field_validator

from tasks.core.decision.llm.roles import MAX_HEADLINES, plain_text
from tasks.core.errors import InputError
from tasks.core.types.base import Dto, first_error
from tasks.core.types.snapshot import Headline, News

MAX_BYTES = 1_000_000
UNDATED = datetime.min.replace(tzinfo=UTC)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_PARSE_ERRORS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)  # on odd bodies
_log = logging.getLogger(__name__)


async def fetch_news(feeds: Sequence[str], fear_greed_url: str = "", timeout_s: float = 5) -> News:
    """Fetch everything at once: the newest 20 headlines, undated ones last. Never raises for what a server did."""
    asked = [(url, _headlines) for url in feeds] + ([(fear_greed_url, _fear_greed)] if fear_greed_url else [])
    async with httpx.AsyncClient(follow_redirects=True, headers={"accept-encoding": "identity"}) as client:
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


async def _fetch(client: httpx.AsyncClient, url: str, read: Callable[[bytes, str], News], timeout_s: float) -> News:
    """Fetch one address, http or https (httpx knows no other), and read it off the event loop; see the module."""
    host = ""
    try:
        host = urlsplit(url).hostname or ""
        async with asyncio.timeout(timeout_s):
            body = await _body(client, url, timeout_s)
            return await asyncio.to_thread(read, body, host)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, *_PARSE_ERRORS) as e:
        status = f" {e.response.status_code}" if isinstance(e, httpx.HTTPStatusError) else ""
        _log.warning("news host=%s skipped=%s%s", host or "-", type(e).__name__, status)
        return News()


async def _body(client: httpx.AsyncClient, url: str, timeout_s: float) -> bytes:
    """Return at most MAX_BYTES as sent; compressed bodies were not asked for and are not unpacked."""
    body = bytearray()
    async with client.stream("GET", url, timeout=timeout_s) as response:
        response.raise_for_status()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
    return bytes(body)


def _headlines(body: bytes, host: str) -> News:
    # a stream, not the bytes: feedparser opens the file whose name they are, if there is one
    entries = feedparser.parse(io.BytesIO(body)).entries
    if not entries:
        raise ValueError("no entries")
    found = [Headline(title=plain_text(e.get("title", "")), source=host, published_at=_published(e)) for e in entries]
    return News(headlines=tuple(headline for headline in found if headline.title))


def _published(entry: feedparser.FeedParserDict) -> datetime | None:
    when = entry.get("published_parsed") or entry.get("updated_parsed")
    return datetime.fromtimestamp(timegm(when), UTC) if when else None


def _fear_greed(body: bytes, _: str) -> News:
    return News(fear_greed=json.loads(body)["data"][0]["value"])

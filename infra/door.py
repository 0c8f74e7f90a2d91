"""The door of every server of ours: who comes by a foreign name or from a foreign page is sent away.

A port on 127.0.0.1 is open to every page in the owner's browser and to every user of the machine. A page of another
address says so in `Origin`, or in `Sec-Fetch-Site` where it puts us into a frame, an image or a script; one that had
its own name point here says so in `Host`. Who is no browser says none of these, and is asked for the secret: by the
door, or by the server behind it. A link to us from elsewhere is followed, except to the page that takes the secret.

A person opens `/quarterdeck#SECRET`, the address that `up` prints. What follows the # is sent nowhere and so is in no
log; the page there keeps it for the pages that follow: where Prefect's look for their password, or in a cookie, which
holds a value derived from it, as a browser shows a cookie to every port of a machine.
"""

import hmac
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

NEAR = ("127.0.0.1", "localhost")
PAGE, HEALTH = "/quarterdeck", "/health"
HTML = """<!doctype html><title>Quarterdeck</title><script>
const secret = btoa(decodeURIComponent(location.hash.slice(1)))
history.replaceState(null, "", location.pathname)
localStorage.setItem("prefect-password", secret)
location.replace("/")
</script>"""
WITH_COOKIE = HTML.replace(
    'localStorage.setItem("prefect-password", secret)',
    'await fetch("", {headers: {Authorization: `Basic ${secret}`}})',
).replace("<script>", '<script type="module">')
CLOSED = f"Open {PAGE}# here, followed by what HOME/secret holds; `quarterdeck up` prints such addresses.\n"


@dataclass(frozen=True)
class Door:
    """An ASGI app behind its door.

    origins: of pages that may ask beside its own. secret: what the door asks for, if anything. any_name: reached by
    names of other machines, on a network that keeps others out.
    """

    app: ASGIApp
    origins: Sequence[str] = ()
    secret: str = ""
    any_name: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        visitor = HTTPConnection(scope)
        await (self._refusal(visitor) or self.app)(scope, receive, send)

    def _refusal(self, visitor: HTTPConnection) -> Response | None:
        """Return what is answered in the app's place; None: the visitor may enter."""
        path = visitor.scope["path"]  # that of `url` may be what the caller says in Host
        origin = visitor.headers.get("origin")
        if not self._near(visitor.headers.get("host", ""), origin) or (origin is None and _drawn_in(visitor, path)):
            return PlainTextResponse("This is not for other pages and names.\n", 403)
        knows = not self.secret or self._knows(visitor)
        if path == PAGE:
            return self._page(visitor, knows)
        return None if knows or path == HEALTH else PlainTextResponse(CLOSED, 401)

    def _near(self, host: str, origin: str | None) -> bool:
        names = (*NEAR, *(urlsplit(each).hostname for each in self.origins))
        own = (f"http://{host}", f"https://{host}", *self.origins)
        with suppress(ValueError):  # a name with half a bracket
            named = self.any_name or urlsplit(f"//{host}").hostname in names
            return named and (origin is None or origin in own)
        return False

    def _knows(self, visitor: HTTPConnection) -> bool:
        login = b64encode(self.secret.encode()).decode()
        shown = visitor.headers.get("authorization", ""), visitor.cookies.get(self._cookie(visitor), "")
        wanted = f"Basic {login}", self._derived
        return any(hmac.compare_digest(*map(str.encode, pair)) for pair in zip(shown, wanted, strict=True))

    def _page(self, visitor: HTTPConnection, knows: bool) -> Response:
        page = HTMLResponse(WITH_COOKIE if self.secret else HTML, headers={"Cache-Control": "no-store"})
        if self.secret and knows:
            page.set_cookie(self._cookie(visitor), self._derived, httponly=True, samesite="strict")
        return page

    @property
    def _derived(self) -> str:
        return hmac.new(self.secret.encode(), b"cookie", "sha256").hexdigest()

    @staticmethod
    def _cookie(visitor: HTTPConnection) -> str:
        return f"quarterdeck-{visitor.scope['server'][1]}"


def _drawn_in(visitor: HTTPConnection, path: str) -> bool:
    """Return whether a page of another address asks, by its browser's word, for more than to be left for us."""
    site, goes_to = (visitor.headers.get(f"sec-fetch-{name}") for name in ("site", "dest"))
    return site in ("same-site", "cross-site") and (goes_to != "document" or path == PAGE)

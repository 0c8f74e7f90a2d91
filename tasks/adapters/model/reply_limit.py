"""A limit on what a provider may send, below every client library: the reply's bytes are counted as they arrive.

litellm reads a whole body before it returns. This transport counts the bytes as they arrive, keeps them (so that a
reply that was cut, too long or not JSON is still in the record) and stops reading at the limit. Each request gets a
connection of its own, so the client may be shared by event loops that come and go.
"""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import httpx

from tasks.adapters import certificates


@dataclass
class Received:
    """The reply's status and bytes so far; `over` once there were more than `limit`, `complete` at its end."""

    limit: int
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    over: bool = False
    complete: bool = False

    def add(self, chunk: bytes) -> bool:
        """Keep `chunk` up to the limit; return whether there is room for more."""
        room = self.limit - len(self.body)
        self.body += chunk[:room]
        self.over = self.over or len(chunk) > room
        return not self.over

    def text(self, max_bytes: int) -> str:
        """Return what arrived, as text any database keeps."""
        return bytes(self.body[:max_bytes]).decode("utf-8", "replace").replace("\x00", "�")


RECEIVED: ContextVar[Received] = ContextVar("received")  # where the reply of this request is counted


@dataclass
class _LimitedStream(httpx.AsyncByteStream):
    client: httpx.AsyncClient
    response: httpx.Response
    received: Received

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.response.aiter_raw():
            if not self.received.add(chunk):
                raise httpx.ReadError(f"the reply is longer than {self.received.limit} bytes")
            yield chunk
        self.received.complete = True

    async def aclose(self) -> None:
        await self.response.aclose()
        await self.client.aclose()


class LimitedTransport(httpx.AsyncBaseTransport):
    """Sends each request through a client of its own (proxies from the environment) and counts the reply."""

    def __init__(self) -> None:
        certificates.trusted()  # reading the certificates takes time: not inside a deadline

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"  # a compressed body could grow past the limit
        client = httpx.AsyncClient(verify=certificates.trusted(), timeout=None, follow_redirects=False)  # noqa: S113  (the deadline is outside)
        try:
            response = await client.send(request, stream=True)
        except BaseException:
            await client.aclose()
            raise
        received = RECEIVED.get()
        received.status = response.status_code
        stream = _LimitedStream(client, response, received)
        return httpx.Response(
            response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
        )

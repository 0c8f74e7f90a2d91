"""Send a message to Apprise addresses directly: for what must be told when Prefect's server cannot."""

import logging
from collections.abc import Sequence

from pydantic import SecretStr

from tasks.core.pages import inert


def send(urls: Sequence[SecretStr], title: str, text: str) -> int:
    """Send to every address and return how many did not take it. An address is a secret: it is never logged."""
    from apprise import Apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it names the address of what failed
    failed = 0
    for url in urls:
        one = Apprise()
        failed += not (one.add(url.get_secret_value()) and one.notify(title=title, body=inert.plain(text)))
    return failed

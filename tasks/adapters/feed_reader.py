"""`python -I feed_reader.py`: a feed on stdin, its entries as JSON [title, seconds since 1970 or null] on stdout.

A process of its own: a body that keeps the parser busy is killed with it at the deadline, which no thread could be.
"""

import io
import json
import resource
import sys
from calendar import timegm

import feedparser  # type: ignore[import-untyped]  # ships no types

MOST_CPU_S = 30  # should nobody be left to kill it


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    # a stream, not the bytes: feedparser opens the file whose name they are, if there is one
    entries = feedparser.parse(io.BytesIO(sys.stdin.buffer.read())).entries
    times = [each.get("published_parsed") or each.get("updated_parsed") for each in entries]
    json.dump([(each.get("title", ""), at and timegm(at)) for each, at in zip(entries, times, strict=True)], sys.stdout)


if __name__ == "__main__":
    main()

"""A PostgreSQL for tests, as a HOME has it: it runs as long as the process that asked."""

from pathlib import Path

from tasks.adapters.postgres import cluster
from tasks.settings import CLUSTER, in_cluster_url


def a_cluster(home: Path) -> str:
    """Make and start it in `home`; returns the URL of a database whose user may make others."""
    assert cluster.made(home, ["quarterdeck"]) == ""
    cluster.ensure(home / CLUSTER)
    return in_cluster_url(home, "quarterdeck")

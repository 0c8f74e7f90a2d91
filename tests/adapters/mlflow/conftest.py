"""A real MLflow server for the tests of a file."""

from collections.abc import Iterator

import pytest
from mlflow_server import running_mlflow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_mlflow(tmp_path_factory.mktemp("mlflow")) as address:
        yield address

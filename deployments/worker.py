"""`python -m deployments.worker worker start ...`: Prefect's command, with a process worker that is `confined`."""

import tempfile

from deployments.spared import importing, spare_prefect


def main() -> None:
    spare_prefect()
    with importing():
        from prefect.cli import app
        from prefect.settings import PREFECT_HOME

        import deployments.confined  # noqa: F401  (Prefect finds a worker by the type it has)
    tempfile.tempdir = str(PREFECT_HOME.value())  # Prefect's runner_storage in /tmp is its first user's alone
    app()


if __name__ == "__main__":
    main()

"""What services `up` runs, and what each of them is started with."""

import ssl
import zoneinfo
from unittest.mock import Mock

import pytest

from deployments import services
from deployments.spared import spare_prefect
from tasks.core.errors import InputError
from tasks.settings import load


@pytest.mark.parametrize("address", ["http://prefect.example:4200/api", "http://127.0.0.1:port/api"])
def test_address_on_another_machine_or_of_none_is_refused(address, monkeypatch):
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", address)
    with pytest.raises(InputError, match="QUARTERDECK_PREFECT_API_URL"):
        services.plan(load())


def test_callers_own_prefect_account_is_not_passed_on(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_API_KEY", "pnu_somebody")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.chdir(tmp_path)
    child = services.environment(load(database_url="sqlite:///mine.db"))
    assert "PREFECT_API_KEY" not in child
    assert child["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert child["QUARTERDECK_DATABASE_URL"] == f"sqlite:///{tmp_path}/mine.db"


def test_where_prefect_is_asked_by_http_its_clients_read_one_certificate_and_not_all(home, monkeypatch):
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", "mine.pem")
    file = services.environment(load())["PREFECT_API_SSL_CERT_FILE"]
    assert file == f"{home}/plain-http.pem"
    assert len(ssl.create_default_context(cafile=file).get_ca_certs()) == 1
    assert services.environment(load(prefect_api_url="https://there/api"))["PREFECT_API_SSL_CERT_FILE"] == "mine.pem"


def test_prefect_reads_the_time_zones_once_for_all_schedules(monkeypatch):
    asked = Mock(return_value={"UTC"})
    monkeypatch.setattr(zoneinfo, "available_timezones", asked)
    spare_prefect()
    assert [zoneinfo.available_timezones() for _ in range(3)] == [{"UTC"}] * 3
    asked.assert_called_once()

"""What services `up` runs, and what each of them is started with."""

import ssl
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deployments import services
from deployments.spared import spare_prefect
from tasks import halts
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


@pytest.fixture
def private(tmp_path) -> Iterator[tuple[str, Path]]:
    """Serve a Prefect whose halt variable is set, by a certificate of nobody; yield its address and the certificate."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mine")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    file = tmp_path / "mine.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM) + secret)

    class Variable(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"value": "looking into it"}')

    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(file)
    with ThreadingHTTPServer(("localhost", 0), Variable) as server:
        server.socket = served.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}/api", file
        server.shutdown()


def test_a_prefect_with_a_certificate_of_its_own_is_asked_for_halts_too(home, private, monkeypatch):
    url, file = private
    monkeypatch.setenv("QUARTERDECK_PREFECT_API_URL", url)
    assert not services.answers(f"{url}/health")
    assert f"Prefect variable {halts.VARIABLE}" not in halts.switches(fresh=True)
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(file))
    assert services.answers(f"{url}/health")
    assert halts.switches(fresh=True)[f"Prefect variable {halts.VARIABLE}"] == "looking into it"

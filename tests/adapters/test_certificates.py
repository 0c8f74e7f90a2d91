"""What https is checked by: a list that cannot be read is named, and the file for plain http is always whole."""

import os
import ssl

import pytest

from tasks.adapters.certificates import first_alone, trusted
from tasks.core.errors import InputError


@pytest.fixture
def anew():
    trusted.cache_clear()
    yield
    trusted.cache_clear()


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_list_that_cannot_be_read_is_named(tmp_path, monkeypatch, anew, text):
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(InputError, match=f"^SSL_CERT_FILE={file}: .*; name a file of certificates, or unset it$"):
        trusted()


@pytest.mark.parametrize("before", [None, "", "-----BEGIN CERTIFICATE-----\nMIIF"])
def test_the_file_for_plain_http_is_one_certificate_whatever_stood_there(tmp_path, before):
    if before is not None:
        (tmp_path / "plain-http.pem").write_text(before)
        (tmp_path / f"plain-http.{os.getpid()}").touch()  # of a process that died as it wrote
    for _ in range(2):
        file = first_alone(tmp_path)
        assert len(ssl.create_default_context(cafile=file).get_ca_certs()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["plain-http.pem"]
    assert file.stat().st_mode & 0o777 == 0o600

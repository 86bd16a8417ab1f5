"""Keys, proxies and certificates of the environment: what cannot be used is one line that names the variable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.openai_server import scripted_server

from gazal.common.environment import api_key, proxy_variable
from gazal.common.errors import GazalError
from gazal.common.openai_answer import Failure
from gazal.common.openai_client import Client

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def client(url: str = "http://127.0.0.1:9/v1") -> Client:
    return Client(url, "m", 2.0, lambda line: None, {"late": "", "model": ""}, tries=1)


@pytest.mark.parametrize(
    "key", ["sk-secret\nsecond", "sk-sécret", "sk secret", "sk-\u200bsecret", "sk-\udcffsecret", "“sk-secret”"]
)
def test_a_key_that_no_header_holds_is_refused_without_being_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(GazalError, match="^OPENAI_API_KEY: ") as error:
        client()
    assert "secret" not in str(error.value) and "sécret" not in str(error.value)


def test_white_space_around_a_key_is_left_out(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " \tsk-secret\r\n")
    assert api_key() == "sk-secret"
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    assert api_key() == "none"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "ALL_PROXY",
            "socks5://me:secret@127.0.0.1:1080",
            "^ALL_PROXY: a proxy of the kind socks5:// cannot be used here",
        ),
        ("all_proxy", "socks5h://127.0.0.1:1080", "^all_proxy: a proxy of the kind socks5h://"),
        ("ALL_PROXY", "socks://127.0.0.1:1080", "^ALL_PROXY: a proxy of the kind socks://"),
        ("HTTPS_PROXY", "socks4://127.0.0.1:1080", "^HTTPS_PROXY: a proxy of the kind socks4://"),
        ("HTTP_PROXY", "http://127.0.0.1:port", "HTTP_PROXY may be why"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "^SSL_CERT_FILE: /nowhere/ca.pem: no such file"),
        ("SSL_CERT_FILE", __file__, "^SSL_CERT_FILE: .*cannot be used"),
    ],
)
def test_what_no_client_can_be_made_with_is_one_line(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(GazalError, match=message) as error:
        client()
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_a_folder_of_certificates_that_is_not_there_is_one_line_where_it_is_used(monkeypatch):
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere/certs")
    with pytest.raises(GazalError, match="^SSL_CERT_DIR: /nowhere/certs: no such folder"):
        client("https://127.0.0.1:9/v1")
    client()  # plain HTTP needs none


@pytest.mark.parametrize(
    "none", ["::1", "[::1]", "localhost,127.0.0.1,::1", "::1/128,fe80::/10", "[::1]:8000,10.0.0.0/8", "*", " , "]
)
@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
def test_any_no_proxy_is_read(monkeypatch, none, proxy):
    monkeypatch.setenv("NO_PROXY", none)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    client()


def test_the_variable_of_a_proxy_is_found(monkeypatch):
    assert proxy_variable("http://host.test/v1") == ""
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test")
    monkeypatch.setenv("http_proxy", "http://proxy.test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,::1,.inside.test")
    assert (
        proxy_variable("http://host.test/v1") == "http_proxy" and proxy_variable("https://host.test/v1") == "ALL_PROXY"
    )
    for near in ("http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", "https://a.inside.test/v1", "http://[::1/v1"):
        assert proxy_variable(near) == ""


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that answers every request with a page of its own."""
    with scripted_server() as (url, script):
        script.act = lambda body, number: (503, "<html>Squid: no such host</html>")
        yield url.removesuffix("/v1")


def test_a_page_of_a_proxy_names_its_variable(monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(
        Failure, match=r"status 503\); asked through the proxy of HTTP_PROXY, which NO_PROXY=model.test "
    ):
        client("http://model.test:8000/v1").send(CHAT)


def test_a_proxy_that_is_not_there_names_its_variable(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://me:proxy-secret@127.0.0.1:9")
    one = client("http://127.0.0.1:8000/v1")
    with pytest.raises(
        Failure, match="cannot be reached .*; asked through the proxy of HTTP_PROXY, which NO_PROXY=127"
    ) as error:
        list(one.together(lambda number: None, range(1), 1))
    assert "proxy-secret" not in str(error.value)


def test_a_server_beyond_no_proxy_is_not_said_to_be_behind_one(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with scripted_server() as (url, script):
        script.act = lambda body, number: (503, "<html>busy</html>")
        with pytest.raises(Failure, match=r"status 503\)$"):
            client(url).send(CHAT)

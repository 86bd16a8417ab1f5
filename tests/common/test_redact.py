"""Keys and passwords are hidden in every form in which servers and libraries write them."""

from __future__ import annotations

import html
import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazal.common.endpoints import without_secrets
from gazal.common.redact import hide

KEYS = ["sk-Very_secret-0123456789", "sk\"quo'te\\back/slash&<tag>%41", "AAAAAAAA+/=~", "token:abc"]


def forms(key: str) -> list[str]:
    """A key as it is, escaped, quoted and coded."""
    raw = key.encode()
    return [
        key,
        key.upper(),
        repr(key),
        repr(raw),
        repr(repr(key)),
        json.dumps(key),
        json.dumps(json.dumps(key)),
        json.dumps(key).replace("/", "\\/"),
        "".join(f"\\u{ord(one):04x}" for one in key),
        "".join(f"\\x{ord(one):02X}" for one in key),
        quote(key, safe=""),
        quote(quote(key, safe=""), safe=""),
        quote_plus(key),
        html.escape(key),
        html.escape(html.escape(key)),
        raw.hex(),
        *(coded(part).decode() for coded in (b64encode, urlsafe_b64encode) for part in (raw, b":" + raw, b"me:" + raw)),
        quote(b64encode(b"Bearer " + raw).decode(), safe=""),
        json.dumps(b64encode(raw + b"\n").decode()),
    ]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_hidden_in_each_form(key):
    for form in forms(key):
        found = hide(f"bad key {form}, sorry", key)
        assert "[key]" in found and found.startswith("bad key ") and found.endswith(", sorry"), form
        assert len(found) <= len("bad key [key], sorry") + 24, found  # quotes, and what stands beside it in base64


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40), st.text())
def test_nothing_of_any_key_is_left(key, beside):
    for form in (key, repr(key), json.dumps(key), quote(key, safe=""), html.escape(key)):
        assert key not in hide(f"{beside} {form} {beside}", key).replace("[key]", "")


def test_short_words_and_other_texts_are_left():
    assert hide("none of these", "none") == "none of these"
    assert hide("sk-other", "sk-very-secret") == "sk-other"


def test_credentials_of_addresses_are_hidden(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:proxy-word@proxy.test:3128")
    url = "https://user:pass%2Fword@host.test:8443/v1/secret-path?api_key=in-the-query&version=2024-05-01"
    for said in (
        url,
        "user:pass%2Fword",
        "pass/word",
        b64encode(b"user:pass/word").decode(),
        "in-the-query",
        "proxy-word",
    ):
        shown = without_secrets(f"cannot open {said}.", url, "none")
        assert shown in ("cannot open [key].", "cannot open https://host.test:8443.") or "[key]" in shown
        assert not [word for word in ("pass%2Fword", "pass/word", "in-the-query", "proxy-word") if word in shown]
    assert without_secrets("version=2024-05-01", url, "none") == "version=2024-05-01"
    assert "a-token-alone" not in without_secrets("a-token-alone", "https://a-token-alone@host.test/v1", "none")

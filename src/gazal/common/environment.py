"""What the environment says about servers: the key, proxies and certificates. Each trouble names its variable."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

from gazal.common.errors import GazalError

KEY = "OPENAI_API_KEY"


def api_key() -> str:
    """Return the key without white space around it, ``none`` without one; raise GazalError if no header can hold it."""
    key = os.environ.get(KEY, "").strip() or "none"
    if not all("!" <= character <= "~" for character in key):
        raise GazalError(f"{KEY}: holds white space, or a character that no key has; copy the key again")
    return key


def proxies() -> dict[str, str]:
    """Return the proxies of the environment by their variables, without those that another overrides."""
    found = {}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        variable = name if os.environ.get(name) else name.upper()
        if value := os.environ.get(variable):
            found[variable] = value
    return found


def proxy_variable(url: str) -> str:
    """Return the variable whose proxy stands between here and ``url``, empty if none does."""
    try:
        scheme, host = urlsplit(url).scheme.lower(), urlsplit(url).hostname or ""
    except ValueError:
        return ""
    if proxy_bypass(host):
        return ""
    names = {variable.lower(): variable for variable in proxies()}
    return names.get(f"{scheme}_proxy") or names.get("all_proxy") or ""


def check_certificates(url: str) -> None:
    """Raise GazalError if a variable names certificates that are not there."""
    file, folders = (os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    if file and not os.path.isfile(file):
        raise GazalError(f"SSL_CERT_FILE: {file}: no such file; it names the certificates that are trusted")
    used = folders and not file and url.lower().startswith("https:")
    if used and not any(map(os.path.isdir, folders.split(os.pathsep))):
        raise GazalError(f"SSL_CERT_DIR: {folders}: no such folder; it names the certificates that are trusted")


def no_client(error: Exception) -> str:
    """Return why no client could be made for a server: a proxy or certificates, with the variable, or the address."""
    if isinstance(error, OSError) and os.environ.get("SSL_CERT_FILE"):
        return f"SSL_CERT_FILE: {os.environ['SSL_CERT_FILE']}: cannot be used ({error})"
    known = ("http", "https")
    for variable, value in proxies().items():
        scheme = value.partition("://")[0].lower() if "://" in value else "http"
        if scheme not in known:
            more = "; `pip install socksio` brings socks5" if scheme in ("socks5", "socks5h") else ""
            return f"{variable}: a proxy of the kind {scheme}:// cannot be used here{more}; set one of http://, or none"
    named = ", ".join([*proxies(), *(name for name in ("no_proxy", "NO_PROXY") if os.environ.get(name))])
    about = f"; {named} may be why" if named else ""
    return f"the server's address cannot be used ({type(error).__name__}: {error}){about}"

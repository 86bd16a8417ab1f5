"""Hide a key or a password in a text, however a server or a library has written it."""

from __future__ import annotations

import re
from base64 import b64encode
from functools import lru_cache

SHORTEST = 6  # characters; a shorter secret would be found in ordinary words
NAMED = {'"': "quot", "'": "apos", "&": "amp", "<": "lt", ">": "gt"}


def hide(text: str, secret: str, shown: str = "[key]") -> str:
    """Return ``text`` with ``shown`` in place of ``secret``.

    It is found as it is, in other case, escaped as in JSON, Python, HTML and URLs (once or more often), in hex, and in
    base64 beside whatever else.
    """
    return _pattern(secret).sub(lambda found: shown, text) if len(secret) >= SHORTEST else text


@lru_cache(maxsize=64)
def _pattern(secret: str) -> re.Pattern[str]:
    raw = secret.encode("utf-8", "surrogatepass")
    forms = [
        "".join(map(_escaped, re.findall(r"\\+|.", secret, re.S))),
        raw.hex(),
        *(_coded(raw, shift) for shift in range(3)),
    ]
    return re.compile("|".join(forms), re.I)


def _escaped(piece: str) -> str:
    """Return a pattern of one character, or of several backslashes, in any escape."""
    character, many = piece[0], len(piece)
    code, quoted = ord(character), character.encode("utf-8", "surrogatepass")
    forms = [
        rf"\\+(?:u{code:04x}|x{code:02x})",
        "".join(f"%(?:25)*{byte:02x}" for byte in quoted),
        rf"&(?:amp;)*(?:#0*{code}|#x0*{code:x}{f'|{NAMED[character]}' if character in NAMED else ''});",
    ]
    plain = rf"\\{{{many},}}" if character == "\\" else rf"\\*{re.escape(character)}"
    return f"(?:{plain}|(?:{'|'.join(forms)}){{{many}}})"


def _coded(raw: bytes, shift: int) -> str:
    """Return a pattern of the base64 of ``raw`` after ``shift`` bytes more, without what those bytes decide."""
    code = b64encode(bytes(shift) + raw).decode()
    whole = code[-(-8 * shift // 6) : (shift + len(raw)) * 8 // 6]
    other = {"+": f"(?:-|{_escaped('+')})", "/": f"(?:_|{_escaped('/')})"}  # of URLs
    return "".join(other.get(character, character) for character in whole)

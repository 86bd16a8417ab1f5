import resource
import sys
from types import SimpleNamespace

import pytest

from gazal.common.peak import peak_bytes


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_systems_unit_becomes_bytes(monkeypatch, platform, unit):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(
        resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5 if who == resource.RUSAGE_SELF else 7)
    )
    assert (peak_bytes(), peak_bytes(children=True)) == (5 * unit, 7 * unit)


def test_this_process_holds_more_than_its_arrays():
    held = bytearray(64 << 20)
    assert peak_bytes() > len(held)

"""Devices of a plan: read text such as ``8x80GB`` as memory, FLOP/s and bandwidth, and measure a CPU."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypedDict

import psutil
import torch
import yaml

from gazal.common.errors import GazalError
from gazal.common.paths import PLAN_DEVICES

EXPECTED = "expected cpu, DEVICES or MACHINESxDEVICES with a size or name, such as 1x80GB, 8xh100 or 2x8x80GB"
MEASURED_SECONDS = 1.0


@dataclass(frozen=True)
class Devices:
    """``count`` devices on each of ``machines`` machines.

    ``memory``: bytes of one. ``flops`` and ``bandwidth``: FLOP/s and bytes/s of one, 0 if not known. ``name``: as
    shown. ``cpu``: whether it is this machine's processor.
    """

    machines: int
    count: int
    memory: float
    flops: float
    bandwidth: float
    name: str
    cpu: bool = False

    @property
    def total(self) -> int:
        """The number of devices over all machines."""
        return self.machines * self.count


class KnownDevice(TypedDict):
    """One entry of the shipped list.

    ``memory`` is in GB (10^9 bytes), dense bf16 ``flops`` in FLOP/s, ``bandwidth`` in bytes/s.
    """

    memory: float
    flops: float
    bandwidth: float
    source: str


def known_devices() -> dict[str, KnownDevice]:
    """Return the shipped devices by name."""
    return yaml.safe_load(PLAN_DEVICES.read_text(encoding="utf-8"))


def read_devices(text: str) -> Devices:
    """Read ``cpu``, ``[machines x][devices x]SIZE`` or ``…NAME``. A GB is 10^9 bytes, as sold, and a GiB 2^30.

    A CPU's FLOP/s and bandwidth are left 0: :func:`measured` finds them. Raise GazalError for any other text.
    """
    lowered = text.strip().lower()
    if lowered == "cpu":
        return Devices(1, 1, psutil.virtual_memory().total, 0.0, 0.0, "cpu", cpu=True)
    *numbers, kind = re.split("[x×]", lowered) if not lowered.startswith("rtx") else [lowered]
    if numbers and numbers[-1].endswith("rt"):  # the x of rtx4090
        numbers[-1:], kind = ([numbers[-1][:-2]] if numbers[-1] != "rt" else []), "rtx" + kind
    if len(numbers) > 2 or not all(number.isdecimal() and int(number) for number in numbers):
        raise GazalError(f"--devices {text}: {EXPECTED}")
    machines, count = ([1, 1] + [int(number) for number in numbers])[-2:]
    known = known_devices()
    size = re.fullmatch(r"(\d+(?:\.\d+)?)(gb|gib)", kind)
    if kind in known:
        found = known[kind]
        return Devices(machines, count, found["memory"] * 1e9, found["flops"], found["bandwidth"], kind)
    if not size or not float(size[1]):
        raise GazalError(f"--devices {text}: {EXPECTED} (names: {', '.join(known)})")
    memory = float(size[1]) * (1e9 if size[2] == "gb" else 2**30)
    for like, found in known.items():
        if found["memory"] == float(size[1]):
            name = f"{size[1]} GB, speed of {like}"
            return Devices(machines, count, memory, found["flops"], found["bandwidth"], name)
    return Devices(machines, count, memory, 0.0, 0.0, f"{size[1]} {size[2].upper().replace('I', 'i')}")


def measured(devices: Devices, dtype: torch.dtype) -> Devices:
    """Return a CPU with its FLOP/s and bytes/s, measured in two seconds; other devices as they are.

    FLOP/s are those of matrix products of 1024 × 1024 in ``dtype``, bytes/s those of copies of 128 MB.
    """
    if not devices.cpu or devices.flops:
        return devices
    a = torch.rand(1024, 1024).to(dtype)
    big = torch.rand(32 * 2**20)
    out = torch.empty_like(big)
    flops = _rate(lambda: torch.mm(a, a), 2 * 1024**3)
    return replace(devices, flops=flops, bandwidth=_rate(lambda: out.copy_(big), 2 * big.nbytes))


def _rate(work: Callable[[], object], amount: float) -> float:
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_SECONDS:
        work()
        done += 1
    return amount * done / (time.perf_counter() - began)

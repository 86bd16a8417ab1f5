"""Renal dose tiers from open-medicine (MIT), whose clinical correctness this project has not verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise


@dataclass(frozen=True)
class Tier:
    """A dose and its whole clearances, ``low`` to ``high`` inclusive; ``high`` None: no upper bound."""

    low: int
    high: int | None
    dose: str

    @property
    def range(self) -> str:
        return f"{self.low} to {self.high}" if self.high is not None else f"{self.low} and above"

    def contains(self, value: int) -> bool:
        return self.low <= value and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Drug:
    """A drug with its tiers in descending order of clearance; ``metric`` is CrCl or eGFR with its unit."""

    name: str
    metric: str
    unit: str
    tiers: tuple[Tier, ...]
    doi: str

    def tier(self, value: int) -> Tier:
        """Return the one tier that contains ``value``; loading the source checks that there is one."""
        return next(tier for tier in self.tiers if tier.contains(value))


@lru_cache(maxsize=1)
def load_drugs() -> tuple[Drug, ...]:
    """Return the drugs with at least two different doses, in name order.

    Neighbouring tiers with one dose text are joined, so that no two options of an item are equal.
    A drug is left out if two tiers that do not touch have one dose, or if its tiers leave out a whole clearance.
    """
    source = files("open_medicine") / "mcp/calculators/data/renal_dose_adjustments.json"
    drugs = []
    for entry in json.loads(source.read_text(encoding="utf-8")).values():
        tiers: list[Tier] = []
        for raw in sorted(entry["tiers"], key=lambda t: -t["min"]):
            low, high, dose = int(raw["min"]), raw["max"], " ".join(raw["dose"].split())
            if tiers and tiers[-1].dose == dose:
                tiers[-1] = Tier(low, tiers[-1].high, dose)
            else:
                tiers.append(Tier(low, None if high is None else int(high), dose))
        seamless = tiers[0].high is None and tiers[-1].low == 0
        seamless &= all(upper.low == (lower.high or 0) + 1 for upper, lower in pairwise(tiers))
        if seamless and len({tier.dose for tier in tiers}) == len(tiers) >= 2:
            metric, unit = ("CrCl", "mL/min") if entry["label_renal_metric"] == "crcl" else ("eGFR", "mL/min/1.73m2")
            drugs.append(Drug(entry["drug_name"].replace("_", "-"), metric, unit, tuple(tiers), entry["source_doi"]))
    return tuple(sorted(drugs, key=lambda drug: drug.name))

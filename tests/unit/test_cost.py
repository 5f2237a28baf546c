import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.cost import BATCH_COST, DOUBT, MARGIN, WEIGHT, CostCurve

SIZES = (1, 2, 4, 8, 16, 32, 64)


def linear(rows):
    return 0.005 + 0.0005 * rows


def curve(cost=linear, sizes=SIZES):
    return CostCurve((size, cost(size)) for size in sizes)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 13, 31, 33, 64])
def test_sizes_between_the_measured_ones_are_interpolated(rows):
    assert curve().seconds(rows) == pytest.approx(linear(rows))


def test_beyond_the_largest_measured_size_time_grows_in_proportion():
    assert curve().seconds(128) == pytest.approx(2 * linear(64))


@pytest.mark.parametrize("points", [[], [(0, 0.1)], [(1, 0.0)], [(1, -1.0), (2, 1.0)]])
def test_a_curve_without_usable_points_is_refused(points):
    with pytest.raises(ValueError, match="expected points"):
        CostCurve(points)


def test_a_measurement_that_falls_with_size_is_raised_to_the_one_before():
    noisy = CostCurve([(1, 0.010), (2, 0.008), (4, 0.020)])

    assert noisy.seconds(2) == 0.010


def test_the_knee_is_where_more_rows_no_longer_pay():
    # 5 + 0.5 b ms: 1524 rows/s at 32, 1730 at 64; the fixed part is worth sharing up to the end.
    assert curve().knee() == 64


@pytest.mark.parametrize(("row", "knee"), [(0.1, 1), (0.001, 16), (0.0003, 64), (0.00014, 128), (0.00001, 128)])
def test_the_knee_of_a_model_without_a_fixed_cost_only_shares_what_a_batch_costs_outside(row, knee):
    assert curve(lambda rows: row * rows, (*SIZES, 128)).knee() == knee


@pytest.mark.parametrize(("gain", "knee"), [(1.09, 8), (1.11, 16)])
def test_a_batch_that_takes_long_must_be_worth_more(gain, knee):
    assert CostCurve([(8, 0.1), (16, 2 * (0.1 + BATCH_COST) / gain - BATCH_COST)]).knee() == knee


@pytest.mark.parametrize(("gain", "knee"), [(1.03, 8), (1.05, 16)])
def test_a_batch_that_takes_a_moment_must_be_worth_a_little(gain, knee):
    assert CostCurve([(8, 0.01), (16, 2 * (0.01 + BATCH_COST) / gain - BATCH_COST)]).knee() == knee


def test_a_model_that_saturates_has_its_knee_where_it_does():
    assert curve(lambda rows: max(0.08, 0.005 * rows)).knee() == 16


def test_one_outlier_moves_the_curve_by_no_more_than_a_tenth():
    costs = curve()
    costs.observe(32, 50 * linear(32))

    assert costs.seconds(32) == pytest.approx(linear(32) * (1 + WEIGHT))


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_lasting_change_is_followed(factor):
    costs = curve()
    for _ in range(60):
        costs.observe(24, factor * linear(24))

    assert costs.seconds(24) == pytest.approx(factor * linear(24), rel=0.05)


def test_sizes_far_from_what_was_seen_keep_their_measured_time():
    costs = curve()
    for _ in range(50):
        costs.observe(2, 1.2 * linear(2))

    assert costs.seconds(64) == pytest.approx(linear(64))


def test_doubt_leads_back_to_what_was_measured_at_load():
    costs = curve()
    for _ in range(50):
        costs.observe(1, 10 * linear(1))
    slow = costs.seconds(1)
    costs.doubt()

    assert costs.seconds(1) == pytest.approx(slow - DOUBT * (slow - linear(1)))


def test_run_times_that_vary_leave_a_margin_and_steady_ones_none():
    steady, shaky = curve(), curve()
    for i in range(400):
        steady.observe(16, linear(16))
        shaky.observe(16, linear(16) * (1.2 if i % 2 else 0.8))

    assert steady.seconds_at_most(16) == pytest.approx(linear(16))
    assert shaky.seconds_at_most(16) == pytest.approx((1 + MARGIN * 0.2) * shaky.seconds(16), rel=0.05)


def test_doubt_never_raises_a_curve_that_learnt_to_be_faster():
    costs = curve()
    for _ in range(50):
        costs.observe(1, 0.5 * linear(1))
    fast = costs.seconds(1)
    costs.doubt()

    assert fast == costs.seconds(1)


def test_start_after_counts_full_batches_and_divides_them_among_the_instances():
    assert curve().start_after(31, 32, 1) == 0
    assert curve().start_after(64, 32, 1) == pytest.approx(2 * linear(32))
    assert curve().start_after(64, 32, 4) == pytest.approx(0.5 * linear(32))


times = st.floats(1e-6, 10, allow_nan=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(SIZES), times, min_size=1), st.lists(st.tuples(st.integers(1, 80), times)))
def test_the_curve_never_falls_whatever_it_is_told(points, observations):
    costs = CostCurve(points.items())
    for rows, seconds in observations:
        costs.observe(rows, seconds)
        costs.doubt()
    values = [costs.seconds(rows) for rows in range(1, costs.largest + 20)]

    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(values))
    assert min(values) > 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.floats(0, 0.1), st.integers(1, 64))
def test_rows_within_a_budget_is_the_largest_batch_that_fits(budget, limit):
    costs = curve()
    rows = costs.rows_within(budget, limit)

    assert rows == 0 or costs.seconds_at_most(rows) <= budget
    assert rows == limit or costs.seconds_at_most(rows + 1) > budget

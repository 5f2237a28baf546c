import pytest

from server.sessions.base import CostPoint
from server.sessions.copies import busy_copies, worthwhile

SIZES = (1, 2, 4, 8, 16, 32, 64)


def costs(fixed, row):
    return [CostPoint(rows, fixed + row * rows) for rows in SIZES]


@pytest.mark.parametrize(
    ("fixed", "row", "cores", "copies"),
    [
        (100e-6, 7e-6, 8, 1),  # a churn model: one session takes more than a frontend can bring
        (50e-6, 40e-6, 2, 2),
        (50e-6, 350e-6, 2, 2),
        (50e-6, 350e-6, 32, 15),
        (0.0, 0.009, 16, 16),
        (0.0, 0.011, 16, 1),  # a row would take too long with one thread
    ],
)
def test_a_model_gets_as_many_sessions_as_a_frontend_keeps_busy(fixed, row, cores, copies):
    assert busy_copies(costs(fixed, row), cores) == copies


@pytest.mark.parametrize(("together", "worth"), [(0.001, True), (0.0004, True), (0.0003, False), (0.00025, False)])
def test_several_sessions_must_beat_one_with_many_threads(together, worth):
    assert worthwhile(costs(0.0, 0.001), costs(0.0, together), 4) == worth

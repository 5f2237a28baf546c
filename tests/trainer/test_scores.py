import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import scores

PAIRS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=2, max_size=40)


def _columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    score = np.array([p for p, _ in pairs]) / 8
    return np.stack([1 - score, score], axis=1), np.array([label for _, label in pairs])


@given(PAIRS)
def test_roc_auc_is_the_share_of_pairs_in_the_right_order(pairs):
    probabilities, labels = _columns(pairs)
    ones = [p for p, label in pairs if label == 1]
    zeros = [p for p, label in pairs if label == 0]
    wins = [1.0 if one > zero else 0.5 if one == zero else 0.0 for one in ones for zero in zeros]

    found = scores.roc_auc(probabilities, labels)

    assert math.isnan(found) if not wins else found == pytest.approx(sum(wins) / len(wins))


@given(PAIRS)
def test_calibration_error_lies_between_zero_and_one_and_counts_every_row(pairs):
    probabilities, labels = _columns(pairs)

    curve = scores.calibration(probabilities, labels)

    assert len(pairs) == sum(rows for _, _, rows in curve)
    assert 0 <= scores.calibration_error(probabilities, labels) <= 1


def test_calibration_error_of_one_overconfident_bin():
    probabilities = np.array([[0.1, 0.9]] * 10)
    labels = np.array([1] * 6 + [0] * 4)

    assert scores.calibration_error(probabilities, labels) == pytest.approx(0.3)


def test_confusion_counts_true_classes_in_rows():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])

    assert scores.confusion(probabilities, np.array([0, 0, 1])) == [[1, 1], [1, 0]]


def test_f1_of_two_hits_one_miss_and_one_false_alarm():
    probabilities = np.array([[0, 1.0], [0, 1.0], [1.0, 0], [0, 1.0]])

    assert scores.f1_score(probabilities, np.array([1, 1, 1, 0])) == pytest.approx(2 / 3)


def test_a_single_output_column_is_the_probability_of_class_one():
    assert scores.class_probabilities(np.array([[0.25]])).tolist() == [[0.75, 0.25]]


def test_mcnemar_agrees_with_the_binomial_distribution():
    first = np.array([True] * 8 + [False] * 2 + [True] * 90)
    second = np.array([False] * 8 + [True] * 2 + [True] * 90)

    only_first, only_second, p_value = scores.mcnemar(first, second)

    assert (only_first, only_second) == (8, 2)
    assert p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)


def test_mcnemar_of_equal_answers_is_one():
    same = np.array([True, False])

    assert scores.mcnemar(same, same) == (0, 0, 1.0)


def test_mcnemar_passes_smoothly_from_exact_to_approximate():
    def p_value(total: int) -> float:
        first = np.arange(total) < total // 2 - 30
        return scores.mcnemar(first, ~first)[2]

    assert p_value(998) == pytest.approx(p_value(1002), rel=0.05)

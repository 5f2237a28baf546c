"""The suite's verdicts: a promise that falls short is called BROKEN, and only ratios decide."""

import numpy as np
import pytest

from bench.promises import judge
from bench.results import Results
from bench.switched import LEFT_OUT, compared


def run(**figures):
    plain = {"rate": 1000.0, "cpu_us": 50.0, "p50_ms": 0.5, "p99_ms": 4.0, "goodput": 1000.0, "saturation": 1000.0}
    return plain | figures


def results(**changes):
    """A run that keeps every promise, but for the changes."""
    found = Results({}, "")
    closed = {"sluice": {}, "core-echo": {}}
    closed |= {"naive-aio": {"rate": 250.0, "cpu_us": 210.0}, "thread-pool": {"cpu_us": 165.0}}
    for server, figures in closed.items():
        for in_flight in (1, 256):
            found.add_closed("churn", server, in_flight, run(**figures | changes.get(server, {})))
    for server, label in (("sluice", "0.5"), ("sluice", "2.0"), ("naive-aio", "same"), ("thread-pool", "same")):
        found.add_open("churn", server, label, run(**changes.get(f"{server} {label}", {})))
    for name in ("sluice", "no-isolation"):
        found.variants[name].append(run(**changes.get(f"variant {name}", {})))
    found.switched = [changes.get("switched", {}).get("share", 0.99)]
    return found


def broken(found, *, relaxed=False):
    return [verdict.text for verdict in judge(found, relaxed=relaxed) if verdict.binding and not verdict.holds]


def test_a_run_that_keeps_everything_has_nothing_broken():
    assert broken(results()) == []


def test_each_promise_is_called_broken_when_it_falls_short():
    shortfalls = {
        "sluice": ({"cpu_us": 53.0}, "naive-aio's"),
        "thread-pool": ({"cpu_us": 149.0}, "thread-pool's"),
        "naive-aio": ({"rate": 251.0}, "throughput over naive-aio's"),
        "core-echo": ({"rate": 1700.0}, "bare echo's on gRPC's core"),
        "sluice 0.5": ({"p99_ms": 4.1}, "p99 over the better baseline's"),
        "sluice 2.0": ({"goodput": 940.0}, "goodput within 100 ms"),
        "switched": ({"share": 0.97}, "with metrics over that without"),
        "variant no-isolation": ({"rate": 1120.0}, "no-isolation"),
    }
    for changed, (figures, expected) in shortfalls.items():
        found = broken(results(**{changed: figures}))

        assert len(found) == 1, (changed, found)
        assert expected in found[0]


def test_the_better_baseline_is_the_one_that_counts():
    slow = {"naive-aio same": {"p99_ms": 100.0}}

    assert broken(results(**slow)) == []
    assert len(broken(results(**slow, **{"sluice 0.5": {"p99_ms": 5.0}}))) == 1


def test_an_absolute_figure_never_decides():
    slow = {"sluice": {"p50_ms": 9.0}}

    assert broken(results(**slow)) == []
    assert "missed churn, 1 in flight: p50" in "\n".join(map(str, judge(results(**slow), relaxed=False)))


def test_a_busy_machine_gets_half_of_each_bar():
    assert broken(results(**{"sluice 2.0": {"goodput": 480.0}}), relaxed=True) == []
    assert len(broken(results(**{"sluice 2.0": {"goodput": 470.0}}), relaxed=True)) == 1


def test_variants_are_compared_turn_by_turn():
    found = results()
    found.variants.clear()
    for speed in (1000.0, 400.0, 1600.0):
        found.variants["sluice"].append(run(rate=speed))
        found.variants["no-isolation"].append(run(rate=speed * 1.2))

    (text,) = broken(found)
    assert "no-isolation" in text


def test_rows_are_compared_with_the_best_loop_right_before_and_behind():
    found = Results({}, "")
    for slow, fast in ((100.0, 1000.0), (300.0, 500.0), (100.0, 1500.0), (100.0, 1500.0)):
        found.loops["mnist"].append([{"rows_per_second": slow}, {"rows_per_second": fast}])
    for loop, rows in ((0, 675.0), (1, 930.0), (2, 1200.0)):
        found.wide["mnist"].append({"rows_per_second": rows, "loop": loop})

    assert found.wide_share("mnist") == pytest.approx(0.9)
    assert found.best_loop("mnist") == 1250.0


def test_metrics_are_judged_by_each_stretch_beside_its_neighbours():
    switches = [float(second) for second in range(20)]
    fast, slow = 1.0, 0.8  # the odd stretches, without metrics, are the fast ones, and the machine doubles its speed
    ends = []
    for second in range(19):
        answers = int(200 * (fast if second % 2 else slow) * (2 if second > 9 else 1))
        ends += [second + (place + 0.5) / answers for place in range(answers)]
    found = compared(switches, np.array(ends))

    assert len(found) == 19 - 2 * LEFT_OUT
    assert np.median(found) == pytest.approx(slow / fast, rel=0.02)

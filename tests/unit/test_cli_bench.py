"""`sluice bench`: what it makes up, what it says of a run, and when it says that it was itself too slow."""

from itertools import pairwise

import pytest

from server.cli.bench import lines, made_up, summary
from server.cli.main import main
from server.load.outcome import Outcome, poisson
from server.messages import ITEM_BYTES
from server.pb import open_inference_pb2 as oip


def metadata(**tensors):
    message = oip.ModelMetadataResponse(name="any")
    for name, (datatype, shape) in tensors.items():
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    return message


def outcome(latencies, **fields):
    return Outcome(
        **{"latencies": latencies, "codes": {0: len(latencies)}, "sent": len(latencies), "seconds": 2.0} | fields
    )


@pytest.mark.parametrize("datatype", sorted(set(ITEM_BYTES) - {"BYTES"}))
def test_a_made_up_request_has_as_many_bytes_as_its_shape_says(datatype):
    request = made_up(metadata(x=(datatype, [-1, 3, -1])), rows=5, text="")

    assert list(request.inputs[0].shape) == [5, 3, 1]
    assert len(request.raw_input_contents[0]) == 15 * ITEM_BYTES[datatype]


def test_a_made_up_text_is_repeated_in_every_row():
    request = made_up(metadata(text=("BYTES", [-1, 1])), rows=3, text="ab")

    assert request.raw_input_contents[0] == b"\x02\x00\x00\x00ab" * 3


def test_a_summary_counts_rows_and_keeps_failures_apart():
    report = summary(outcome([0.001] * 99 + [0.5], codes={0: 100, 8: 20}, sent=120), rows=4)

    assert (report["ok_per_second"], report["rows_per_second"]) == (50.0, 200.0)
    assert (report["p50_ms"], report["p99.9_ms"]) == (1.0, pytest.approx(450.6, abs=1))
    assert report["codes"] == {"0": 100, "8": 20}
    assert report["caution"] == ""


@pytest.mark.parametrize("fields", [{"cpu_seconds": 1.9}, {"late": [0.01, 0.02, 0.0]}])
def test_a_generator_at_its_limit_says_so(fields):
    report = summary(outcome([0.001], **fields), rows=1)

    assert "the load generator was the bottleneck" in report["caution"]
    assert lines(report)[-1].startswith("CAUTION")


def test_a_run_without_any_answer_has_no_percentiles():
    assert summary(outcome([], codes={14: 3}, sent=3), rows=1)["p99_ms"] is None


@pytest.mark.parametrize("flag", ["--rate", "--seconds", "--deadline", "--in-flight", "--connections", "--rows"])
@pytest.mark.parametrize("value", ["0", "-3", "nan", "inf", "x"])
def test_a_number_that_makes_no_load_is_refused_before_anybody_is_asked(flag, value, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "any", flag, value])

    assert ended.value.code == 2
    assert f"error: argument {flag}: " in capsys.readouterr().err


def test_poisson_arrivals_have_the_asked_rate_and_can_be_repeated():
    instants = list(poisson(1000.0, 10.0, 7))
    gaps = [b - a for a, b in pairwise(instants)]
    mean = sum(gaps) / len(gaps)

    assert instants == list(poisson(1000.0, 10.0, 7))
    assert mean == pytest.approx(0.001, rel=0.05)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)

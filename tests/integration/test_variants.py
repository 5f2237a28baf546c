"""A version may bring its model in half precision as well; which file serves is chosen, checked and said."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from server.errors import ModelLoadFailed
from server.sessions import loader as loading
from server.sessions.base import LoadedModel
from server.sessions.loader import ModelLoader
from server.sessions.variants import candidates
from server.spec import ModelConfig, ModelVersion
from server.wire.describe import config, metadata
from tests import models
from tests.instances import OPTIONS, answers, part, resolve, run, tensor
from tests.models import write_version

QUICK = replace(OPTIONS, max_batch_size=2)
THIRD = np.full((1, 4), 1 / 3, np.float32)
GOLDEN = {"input/a": THIRD, "input/b": THIRD * 0, "output/sum": THIRD}
OFF = np.float32(1.0005)
HALVED = THIRD * OFF


def halved() -> bytes:
    """`models.add` as far off as half precision may make it: ONNX Runtime's CPU computes in full what it is given."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["exact"]),
        helper.make_node("Mul", ["exact", "off"], ["sum"]),
    ]
    inputs = [models.value("a", "FP32", ["N", 4]), models.value("b", "FP32", ["N", 4])]
    off = models.constant("off", np.array([OFF], np.float32))
    return models.model(nodes, inputs, [models.value("sum", "FP32", ["N", 4])], [off])


def write(
    folder: Path, *, golden: Mapping[str, np.ndarray] = GOLDEN, half: bytes | None = None, **card: object
) -> ModelVersion:
    path = write_version(folder / "tiny" / "1", models.add(), golden)
    if half is not None:
        path.with_name("model.fp16.onnx").write_bytes(half)
    path.with_name("card.json").write_text(json.dumps(card))
    return ModelVersion(ModelConfig("tiny"), "1", path.parent, path)


def asking(version: ModelVersion, precision: str) -> ModelVersion:
    return replace(version, config=replace(version.config, parameters={"precision": precision}))


def card(half: float, **entry: object) -> dict[str, object]:
    return {"metrics": {"test": {"accuracy": 0.9}}, "variants": [{"kind": "fp16", "accuracy": half, **entry}]}


@pytest.fixture
def closing() -> Iterator[list[LoadedModel]]:
    loaded: list[LoadedModel] = []
    yield loaded
    for model in loaded:
        for instance in model.instances:
            instance.close(0.0)


def served(model: LoadedModel) -> bytes:
    (answer,) = answers(run(model.instances[0], part(tensor("a", "FP32", THIRD), tensor("b", "FP32", THIRD * 0))))
    return answer


def test_half_precision_serves_where_it_is_asked_for_and_everybody_is_told(
    tmp_path: Path, closing: list[LoadedModel]
) -> None:
    version = asking(write(tmp_path, half=halved()), "fp16")
    closing.append(ModelLoader(QUICK, resolve).load(version))
    (model,) = closing

    assert served(model) == HALVED.tobytes() != THIRD.tobytes()
    assert model.labels["precision"] == "fp16"
    assert model.spec.precision == "fp16"
    assert model.spec.max_batch_size == 2, "rounding was taken for rows that depend on each other"
    assert metadata(model, ["1"]).properties["precision"] == "fp16"
    assert config(model.spec).parameters["precision"].string_value == "fp16"


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_cpu_serves_the_model_file_unless_told_otherwise(
    tmp_path: Path, closing: list[LoadedModel], precision: str
) -> None:
    version = asking(write(tmp_path, half=halved(), **card(0.9)), precision)
    closing.append(ModelLoader(QUICK, resolve).load(version))

    assert served(closing[0]) == THIRD.tobytes()
    assert closing[0].spec.precision == "fp32"
    assert "precision" not in closing[0].labels


@pytest.mark.parametrize(
    ("device", "half", "present", "files"),
    [
        ("auto", 0.8995, True, ["fp16", "fp32"]),
        ("cuda", 0.8995, True, ["fp16", "fp32"]),
        ("cuda", 0.8985, True, ["fp32"]),
        ("cpu", 0.9, True, ["fp32"]),
        ("cuda", 0.9, False, ["fp32"]),
    ],
)
def test_a_gpu_takes_half_precision_when_the_card_says_that_it_is_as_accurate(
    tmp_path: Path, device: str, half: float, present: bool, files: list[str]
) -> None:
    version = write(tmp_path, half=halved() if present else None, **card(half))

    assert [variant.precision for variant in candidates(version, device)] == files


def test_a_card_that_measured_nothing_recommends_nothing(tmp_path: Path) -> None:
    for empty in ({}, {"variants": [{"kind": "fp16"}]}, {"metrics": 1, "variants": "none"}):
        version = write(tmp_path / str(len(empty)) / str(empty)[:9], half=halved(), **empty)

        assert [variant.precision for variant in candidates(version, "cuda")] == ["fp32"]


def test_without_a_gpu_the_model_file_serves_and_the_log_says_why(
    tmp_path: Path, closing: list[LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    monkeypatch.setattr(loading, "event", lambda name, **fields: said.append((name, fields["why"])))
    version = write(tmp_path, half=halved(), **card(0.9))
    closing.append(ModelLoader(replace(QUICK, device="auto"), resolve).load(version))

    assert served(closing[0]) == THIRD.tobytes()
    assert said == [("variant_not_served", "half precision is for a GPU, the session is on CPUExecutionProvider")]


def test_half_precision_that_answers_wrongly_gives_way_to_the_model_file(
    tmp_path: Path, closing: list[LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "CPU", "whatever: let the CPU count as a GPU")
    wrong = models.model(
        [helper.make_node("Sub", ["a", "b"], ["sum"])],
        [models.value("a", "FP32", ["N", 4]), models.value("b", "FP32", ["N", 4])],
        [models.value("sum", "FP32", ["N", 4])],
    )
    golden = {"input/a": THIRD, "input/b": THIRD, "output/sum": THIRD * 2}
    version = write(tmp_path, golden=golden, half=wrong, **card(0.9))
    loader = ModelLoader(replace(QUICK, device="auto"), resolve)
    closing.append(loader.load(version))

    assert closing[0].spec.precision == "fp32"
    with pytest.raises(ModelLoadFailed, match="golden vectors: output 'sum', row 0"):
        loader.load(asking(version, "fp16"))


def test_half_precision_has_a_tolerance_of_its_own(tmp_path: Path) -> None:
    tight = GOLDEN | {"fp16/rtol": np.float64(1e-6), "fp16/atol": np.float64(1e-6)}
    version = asking(write(tmp_path, golden=tight, half=halved()), "fp16")

    with pytest.raises(ModelLoadFailed, match="golden vectors"):
        ModelLoader(QUICK, resolve).load(version)


def test_the_card_vouches_for_each_file(tmp_path: Path, closing: list[LoadedModel]) -> None:
    right = card(0.9, sha256=sha256(halved()).hexdigest())
    closing.append(ModelLoader(QUICK, resolve).load(asking(write(tmp_path / "a", half=halved(), **right), "fp16")))
    wrong = asking(write(tmp_path / "b", half=halved(), **card(0.9, sha256="0" * 64)), "fp16")

    with pytest.raises(ModelLoadFailed, match=r"expected sha256 0{64}, model\.fp16\.onnx has"):
        ModelLoader(QUICK, resolve).load(wrong)


@pytest.mark.parametrize(
    ("precision", "says"),
    [
        ("fp16", r"expected a file 'model\.fp16\.onnx' for fp16, there is none"),
        ("int4", "expected one of auto, fp16, fp32, got 'int4'"),
    ],
)
def test_a_precision_that_is_not_there_is_refused(tmp_path: Path, precision: str, says: str) -> None:
    with pytest.raises(ModelLoadFailed, match=says):
        ModelLoader(QUICK, resolve).load(asking(write(tmp_path), precision))


def test_what_config_pbtxt_says_of_threads_and_optimisation_reaches_the_session(
    tmp_path: Path, closing: list[LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.sessions.limits.cores", lambda: 4)
    version = write(tmp_path)
    said = {"execution_mode": "1", "inter_op_thread_count": "3", "intra_op_thread_count": "2"}
    version = replace(version, config=replace(version.config, parameters=said))
    closing.append(ModelLoader(QUICK, resolve).load(version))
    session = closing[0].instances[0]._plan.session

    assert (session.threads, session.parallel_threads, session.graph_level) == (2, 3, "all")
    assert served(closing[0]) == THIRD.tobytes()
    with pytest.raises(ModelLoadFailed, match=r"execution_mode: expected 0 \(sequential\) or 1 \(parallel\), got '2'"):
        ModelLoader(QUICK, resolve).load(
            replace(version, config=replace(version.config, parameters={"execution_mode": "2"}))
        )

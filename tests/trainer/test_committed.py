"""The versions in model_store/ are what their cards say: on the real test sets where they are, in form everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import REPOSITORY
from trainer import evaluate, runtime, scores, store
from trainer.catalog import RECIPES
from trainer.examples import texts

STORE = REPOSITORY / "model_store"
VERSIONS = [STORE / model / str(version) for model in RECIPES for version in store.versions(STORE, model)]
CONTRACT = {
    "churn": (
        {
            "CreditScore": ("tensor(float)", ["batch", 1]),
            "Age": ("tensor(float)", ["batch", 1]),
            "Tenure": ("tensor(float)", ["batch", 1]),
            "Balance": ("tensor(float)", ["batch", 1]),
            "NumOfProducts": ("tensor(float)", ["batch", 1]),
            "HasCrCard": ("tensor(float)", ["batch", 1]),
            "IsActiveMember": ("tensor(float)", ["batch", 1]),
            "EstimatedSalary": ("tensor(float)", ["batch", 1]),
            "Geography": ("tensor(string)", ["batch", 1]),
            "Gender": ("tensor(string)", ["batch", 1]),
        },
        {"probability": ("tensor(float)", ["batch", 1])},
    ),
    "mnist": ({"image": ("tensor(uint8)", ["batch", 28, 28])}, {"probabilities": ("tensor(float)", ["batch", 10])}),
    "sentiment": ({"text": ("tensor(string)", ["batch", 1])}, {"probabilities": ("tensor(float)", ["batch", 2])}),
}
BARS = {"churn": {"accuracy": 0.858, "roc_auc": 0.85}, "mnist": {"accuracy": 0.99}, "sentiment": {"accuracy": 0.86}}


def _name(directory: Path) -> str:
    return f"{directory.parent.name}-{directory.name}"


def _session(directory: Path):
    return runtime.open_session(evaluate.model_bytes(directory), threads=1)


@pytest.mark.parametrize("model", RECIPES)
def test_every_model_has_a_version_and_a_configuration(model):
    assert store.versions(STORE, model)
    assert f'name: "{model}"' in (STORE / model / "config.pbtxt").read_text()


@pytest.mark.parametrize("directory", VERSIONS, ids=_name)
def test_names_types_and_shapes_are_the_documented_ones(directory):
    session = _session(directory)

    def described(values):
        return {value.name: (value.type, value.shape) for value in values}

    assert CONTRACT[directory.parent.name] == (described(session.get_inputs()), described(session.get_outputs()))


@pytest.mark.parametrize("directory", VERSIONS, ids=_name)
def test_golden_answers_are_given_batched_and_single(directory):
    session = _session(directory)
    with np.load(directory / "golden.npz", allow_pickle=False) as golden:
        inputs = {
            name.removeprefix("input/"): golden[name].astype(object) if golden[name].dtype.kind == "U" else golden[name]
            for name in golden.files
            if name.startswith("input/")
        }
        (output,) = (golden[name] for name in golden.files if name.startswith("output/"))
        rtol, atol = float(golden["rtol"]), float(golden["atol"])

    together, alone = runtime.run(session, inputs), runtime.run(session, inputs, batch_rows=1)

    assert np.allclose(output, together, rtol=rtol, atol=atol)
    assert np.abs(together - alone).max() <= 1e-5


@pytest.mark.parametrize("directory", VERSIONS, ids=_name)
def test_a_card_says_everything(directory):
    card = json.loads((directory / "card.json").read_text())
    told = {"model", "version", "data_set", "split", "metrics", "confusion_matrix", "hyper_parameters", "seed"}
    told |= {"code_version", "onnx", "parameters", "sha256", "parity", "latency", "variants"}

    assert not told - set(card)
    assert (directory.parent.name, int(directory.name)) == (card["model"], card["version"])
    assert all(file.get("published", True) for file in card["data_set"]["files"])
    assert {"learning.png", "confusion.png"} <= {path.name for path in (directory / "report").glob("*.png")}


def test_nothing_private_and_nothing_large_is_committed():
    files = [path for path in STORE.rglob("*") if path.is_file() and "private" not in path.parts]

    assert sum(path.stat().st_size for path in files) < 20e6
    assert not [path for path in files if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("directory", VERSIONS, ids=_name)
def test_a_card_holds_on_the_real_test_set(directory, real_data):
    test = _test_rows(directory.parent.name, real_data)

    figures = {figure.name: figure.found for figure in evaluate.verify(directory, test)}

    assert all(figures[name] >= bar for name, bar in BARS[directory.parent.name].items())


_LOADED = {}


def _test_rows(model: str, directory: Path):
    if model not in _LOADED:
        _LOADED[model] = RECIPES[model].load(directory, False).test
    return _LOADED[model]


def test_short_long_and_empty_reviews_do_not_disturb_each_other():
    session = _session(VERSIONS[-1])
    reviews = texts(["", "Good.", "A dull film. " * 400, "x" * 100_000, "Loved it! " * 3, "\n", "great " * 20_000])

    together = session.run(None, {"text": reviews})[0]

    alone = np.concatenate([session.run(None, {"text": reviews[row : row + 1]})[0] for row in range(len(reviews))])
    assert np.abs(together - alone).max() <= 1e-5
    assert np.isfinite(together).all()


def test_plain_praise_and_plain_blame_are_told_apart():
    answers = runtime.run(_session(VERSIONS[-1]), {"text": texts(["a wonderful film", "a terrible, boring film"])})

    assert scores.class_probabilities(answers).argmax(axis=1).tolist() == [1, 0]

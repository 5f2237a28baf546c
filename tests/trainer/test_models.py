"""Every model's whole road on made-up data, and what the graphs promise whatever they learned."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch

from server.spec import ModelConfig
from tests.instances import OPTIONS, load_version
from trainer import (
    churn,
    graphs,
    mnist,
    phrases,
    publish,
    reading,
    runtime,
    scores,
    sentiment,
    sentiment_graph,
    variants,
)
from trainer.blend import Blend
from trainer.catalog import RECIPES
from trainer.errors import ExportError
from trainer.examples import Examples, texts
from trainer.recipe import Conditions, Recipe

SHIPPED = Path(__file__).parents[2] / "model_store" / "mnist" / "1" / "model.onnx"


def _rehearsed(recipe: Recipe) -> Recipe:
    """The recipe with its settings cut down as far as they go."""
    return replace(recipe, settings=replace(recipe.rehearsal, plan=replace(recipe.rehearsal.plan, epochs=1)))


@pytest.mark.parametrize("name", RECIPES)
def test_training_ends_in_a_version_whose_card_holds(name, made_up_data, tmp_path, conditions):
    recipe = _rehearsed(RECIPES[name])
    data = recipe.load(made_up_data, True)
    trained = recipe.train(data, recipe.settings, conditions)

    directory = publish.publish(recipe, data, trained, conditions, publish.Place(made_up_data, tmp_path / "store"))

    card = publish.cards.read(directory)
    assert {"README.md", "card.json", "golden.npz", "model.onnx", "report"} == {p.name for p in directory.iterdir()}
    assert not any(file["published"] for file in card["data_set"]["files"])
    assert card["parity"]["largest_difference_from_pytorch"] <= runtime.PARITY
    assert len(data.test) == sum(map(sum, card["confusion_matrix"]["counts"]))
    output = runtime.run(runtime.open_session((directory / "model.onnx").read_bytes()), data.test.inputs)
    assert card["metrics"]["test"] == scores.measure(scores.class_probabilities(output), data.test.labels)


def _card(accuracy, half, **fp16):
    """Return the part of a card that decides about a file in half precision."""
    entry = {"kind": "fp16", "accuracy": half, **fp16}
    return {"metrics": {"test": {"accuracy": accuracy}}, "variants": [{"kind": "int8"}, entry]}


def test_half_precision_is_written_where_it_is_as_good_and_the_server_takes_it(tmp_path):
    graph, golden = onnx.load(SHIPPED), mnist.RECIPE.golden()
    card = _card(0.9, 0.8995)
    version = tmp_path / "store" / "mnist" / "1"
    version.mkdir(parents=True)
    model = graph.SerializeToString()
    (version / "model.onnx").write_bytes(model)

    assert variants.write_half(version / publish.HALF_FILE, graph, card, golden)

    publish.write_golden(version / "golden.npz", model, golden, half=True)
    (version / "card.json").write_text(json.dumps(card))
    half = runtime.open_session((version / publish.HALF_FILE).read_bytes())
    assert np.abs(runtime.run(half, golden) - runtime.run(runtime.open_session(model), golden)).max() > 0
    config = ModelConfig("mnist", parameters={"precision": "fp16"})
    loaded = load_version(version / "model.onnx", replace(OPTIONS, max_batch_size=2), config=config)
    loaded.instances[0].close(0)
    assert (loaded.spec.precision, loaded.labels["golden_rows"]) == ("fp16", str(len(golden["image"])))


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (_card(0.9, 0.479), "it loses 0.4210 accuracy"),
        (_card(0.9, 0.9, failed="no such operator"), "no such operator"),
    ],
)
def test_half_precision_that_is_worse_is_left_out_and_the_card_says_why(tmp_path, card, reason):
    path = tmp_path / publish.HALF_FILE

    assert not variants.write_half(path, onnx.load(SHIPPED), card, mnist.RECIPE.golden())
    assert card["variants"][1]["left_out"] == reason
    assert not path.exists()


def test_half_precision_that_answers_otherwise_is_left_out(tmp_path, monkeypatch):
    card, other = _card(0.9, 0.9), onnx.load(SHIPPED)
    weights = max(other.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 0, weights.name))
    monkeypatch.setattr(variants, "fp16", lambda _: other)

    assert not variants.write_half(tmp_path / "model", onnx.load(SHIPPED), card, mnist.RECIPE.golden())
    assert re.fullmatch(r"an answer moves by 0\.\d{4}", card["variants"][1]["left_out"])


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_seed_gives_the_same_model_file(name, made_up_data):
    recipe = _rehearsed(RECIPES[name])
    data = recipe.load(made_up_data, True)

    def train(seed: int) -> bytes:
        conditions = Conditions(seed=seed, device=torch.device("cpu"), quiet=True)
        return recipe.train(data, recipe.settings, conditions).graph.SerializeToString(deterministic=True)

    assert train(0) == train(0)
    assert train(0) != train(1)


def _committee() -> churn.MeanProbability:
    torch.manual_seed(0)
    numbers = np.concatenate([churn.RECIPE.golden()[name][:10] for name in churn.NUMBERS], axis=1)
    return churn.MeanProbability(churn.Committee(numbers, churn.Settings(cuts=1))).eval()


def test_an_unknown_country_counts_as_none_of_the_known_ones():
    session = runtime.open_session(churn.to_onnx(_committee()).SerializeToString())
    known = {name: array[:1] for name, array in churn.RECIPE.golden().items()}

    answers = {
        country: float(runtime.run(session, known | {"Geography": texts([country])})[0, 0])
        for country in ("France", "Atlantis", "", "france")
    }

    assert answers["Atlantis"] == answers[""] == answers["france"]
    assert answers["Atlantis"] != answers["France"]


def test_a_number_that_is_not_known_counts_as_the_training_mean():
    committee = _committee()
    session = runtime.open_session(churn.to_onnx(committee).SerializeToString())
    row = {name: array[:1] for name, array in churn.RECIPE.golden().items()}
    mean = np.array([[committee.committee.encode.mean[churn.AGE].item()]], np.float32)

    unknown = runtime.run(session, row | {"Age": np.array([[np.nan]], np.float32)})

    assert unknown == pytest.approx(runtime.run(session, row | {"Age": mean}), abs=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38, -3e38])
def test_no_number_makes_an_answer_that_is_no_probability(value):
    session = runtime.open_session(churn.to_onnx(_committee()).SerializeToString())
    row = {name: array[:1] for name, array in churn.RECIPE.golden().items()}

    for name in churn.NUMBERS:
        answer = runtime.run(session, row | {name: np.array([[value]], np.float32)})[0, 0]
        assert 0 <= answer <= 1, name


def test_a_distorted_picture_keeps_its_size_and_its_background():
    torch.manual_seed(0)
    pictures = mnist.standardise(torch.zeros(4, 28, 28, dtype=torch.uint8))

    bent = mnist.distort(pictures, mnist.Settings())

    assert bent.shape == (4, 1, 28, 28)
    assert torch.allclose(bent, pictures)


def test_distortion_moves_ink_without_losing_it():
    torch.manual_seed(0)
    pictures = mnist.standardise(torch.from_numpy(mnist.drawn_digits()[:10]))
    background = pictures.min()

    bent = mnist.distort(pictures, mnist.Settings())

    ink, kept = ((p - background).sum(dim=(1, 2, 3)) for p in (pictures, bent))
    assert not torch.allclose(bent, pictures)
    assert torch.all((kept / ink - 1).abs() < 0.5)


def _small_sentiment() -> tuple[onnx.ModelProto, list[str], phrases.Votes, sentiment.Network, Blend]:
    torch.manual_seed(0)
    vocabulary = ["film", "good", "bad", "a", ".", "<br />", "!", "plot"]
    network = sentiment.Network(replace(sentiment.Settings(), words=7, channels=8, state=4)).eval()
    sentiment_graph.round_vectors(network)
    good_film = 4 + phrases.KEY_BASE * 3
    votes = phrases.Votes(np.array([4, 5, good_film]), np.array([0.5, -0.75, 2.0], np.float32), 0.125)
    blend = Blend((1.0, 0.5), 0.0)
    return sentiment_graph.to_onnx(network, votes, blend, vocabulary), vocabulary, votes, network, blend


WORDS = "good film . A BAD plot! <br /> good film good film unknownword 12 café"


def test_a_review_s_answer_does_not_depend_on_its_batch_mates():
    session = runtime.open_session(_small_sentiment()[0].SerializeToString())
    reviews = texts(["", "good", WORDS, WORDS * 60, "bad " * 3000, "  ", "\x00", "\U0001f3ac " * 5, "good film"])

    together = session.run(None, {"text": reviews})[0]

    alone = np.concatenate([session.run(None, {"text": reviews[row : row + 1]})[0] for row in range(len(reviews))])
    assert np.abs(together - alone).max() < 1e-6
    assert np.isfinite(together).all()
    assert together.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_the_graph_reads_as_pytorch_does():
    graph, vocabulary, votes, network, blend = _small_sentiment()
    reviews = texts([WORDS, "good film", "", "bad", WORDS * 30])

    def predict(inputs):
        tokens = reading.tokenise(Examples(inputs, np.zeros(len(inputs["text"]), np.int64)), vocabulary, 1024)
        read = sentiment.logits_of(network, tokens, torch.device("cpu"))
        return reading.two_columns(blend.logits(read, phrases.logits(votes, tokens)))

    found = runtime.check_parity(graph, predict, {"text": reviews})

    assert max(found.values()) < 1e-6


def test_a_phrase_votes_once_however_often_it_occurs():
    _, vocabulary, votes, _, _ = _small_sentiment()
    rows = Examples(
        {"text": texts(["good film good film", "good film", "bad bad", "nothing here"])}, np.zeros(4, np.int64)
    )

    logits = phrases.logits(votes, reading.tokenise(rows, vocabulary, 1024))

    assert logits.tolist() == [2.625, 2.625, -0.625, 0.125]


def test_a_very_long_text_is_cut_and_costs_no_more_than_the_cut():
    session = runtime.open_session(_small_sentiment()[0].SerializeToString(), threads=1)
    limit, beyond = texts(["good " * 1024]), texts(["good " * 1024 + "bad " * 24_000])

    assert session.run(None, {"text": limit})[0].tolist() == session.run(None, {"text": beyond})[0].tolist()


def test_capitals_tags_and_punctuation_become_tokens():
    column = texts(["It's GREAT!!!<br /><br />10/10 ... don't\u0085go", ""])

    assert list(reading.words_of(column)) == [
        ["it's", "great", "!!!", "<br />", "<br />", "10", "/", "10", "...", "don't", "\u0085", "go"],
        [],
    ]


def test_the_phrase_reader_learns_which_words_praise():
    rows = Examples({"text": texts(["good film"] * 20 + ["bad film"] * 20)}, np.array([1] * 20 + [0] * 20))
    vocabulary = reading.learn_vocabulary(rows.inputs["text"], 2)
    tokens = reading.tokenise(rows, vocabulary, 1024)

    votes = phrases.learn(tokens, rarest=2, prior=1.0, most=100)

    right = (phrases.logits(votes, tokens) > 0) == (rows.labels == 1)
    assert right.all()
    assert len(phrases.learn(tokens, rarest=2, prior=1.0, most=2).keys) == 2


def test_a_blend_trusts_the_reader_that_is_right():
    labels = np.arange(200) % 2
    right = np.where(labels == 1, 1.0, -1.0).astype(np.float32)
    noise = np.random.RandomState(0).randn(200).astype(np.float32)

    blend = Blend.learn(np.stack([noise, right], axis=1), labels)

    assert abs(blend.weights[0]) < abs(blend.weights[1]) / 5


def test_a_graph_that_answers_otherwise_than_the_network_is_refused():
    graph = graphs.export(_Half(), {"x": torch.zeros(3, 1)}, "y")
    graph = graphs.finish(graph, "half")

    with pytest.raises(ExportError, match=r"not the trained network: largest_difference_from_pytorch is 5\.00e-01"):
        runtime.check_parity(graph, lambda inputs: inputs["x"], {"x": np.ones((4, 1), np.float32)})


def test_a_graph_that_mixes_rows_is_refused():
    graph = graphs.finish(graphs.export(_Mixing(), {"x": torch.zeros(3, 1)}, "y"), "mixing")
    rows = np.arange(4, dtype=np.float32)[:, None]

    with pytest.raises(ExportError, match="batched_from_single"):
        runtime.check_parity(graph, lambda inputs: inputs["x"] - inputs["x"].mean(), {"x": rows})


class _Half(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


class _Mixing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean()

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.trainer.made_up import customers, write_customers
from trainer import churn, evaluate, store
from trainer.__main__ import main
from trainer.catalog import RECIPES
from trainer.loop import Run


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up customers in data/ and two versions of churn in store/, trained on seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("published")
    write_customers(folder / "data", customers())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "churn", _quick())
        for seed in ("0", "1"):
            assert main([*_train(folder), "--seed", seed]) == 0
    return folder


def _quick():
    return replace(churn.RECIPE, settings=replace(churn.RECIPE.rehearsal, cuts=1))


def _where(folder: Path) -> list[str]:
    return ["--data-dir", str(folder / "data"), "--own-data", "--out", str(folder / "store")]


def _train(folder: Path) -> list[str]:
    return ["churn", *_where(folder), "--checkpoints", str(folder / "kept"), "--quiet", "--device", "cpu"]


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("sluice-train: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture
def copy(published, tmp_path) -> Path:
    """The published folder, free to be damaged."""
    shutil.copytree(published, tmp_path / "copy")
    return tmp_path / "copy"


def test_two_trainings_make_two_versions_and_the_first_goes_on_serving(published):
    assert store.versions(published / "store", "churn") == [1, 2]
    assert "versions: [ 1 ]" in (published / "store" / "churn" / "config.pbtxt").read_text()
    assert not list((published / "kept").iterdir())


def test_evaluate_confirms_a_card(published, capsys):
    assert main(["evaluate", "churn", *_where(published), "--version", "1"]) == 0
    assert "the card holds on 40 test rows" in capsys.readouterr().out


def test_evaluate_fails_when_a_card_flatters(copy, capsys):
    path = copy / "store" / "churn" / "2" / "card.json"
    card = json.loads(path.read_text())
    card["metrics"]["test"]["accuracy"] += 0.01
    path.write_text(json.dumps(card))

    assert main(["evaluate", "churn", *_where(copy)]) == 1
    assert "the card says accuracy" in _one_line(capsys)


def test_evaluate_fails_when_the_model_file_was_exchanged(copy, capsys):
    versions = copy / "store" / "churn"
    (versions / "2" / "model.onnx").write_bytes((versions / "1" / "model.onnx").read_bytes())

    assert main(["evaluate", "churn", *_where(copy)]) == 1
    assert "the card says sha256" in _one_line(capsys)


def test_compare_shows_both_and_a_significance(published, capsys):
    assert main(["compare", "churn", "1", "2", *_where(published)]) == 0

    out = capsys.readouterr().out
    assert "version 1" in out
    assert "McNemar p = " in out


def _rewrite_card(copy: Path, version: int) -> None:
    """Let the card agree with the data set as it is now."""
    directory = copy / "store" / "churn" / str(version)
    test = churn.load(copy / "data", True).test
    card = json.loads((directory / "card.json").read_text())
    card["metrics"]["test"] = {figure.name: figure.found for figure in evaluate.figures(directory, test)}
    (directory / "card.json").write_text(json.dumps(card))


@pytest.fixture
def unlike(copy, monkeypatch) -> Path:
    """Version 3 answers the opposite of version 1: exactly one of the two is worse."""
    folder = copy / "store" / "churn"
    shutil.copytree(folder / "1", folder / "3")
    graph = onnx.load(folder / "3" / "model.onnx")
    graph.graph.node.append(onnx.helper.make_node("Sub", ["one", "was_probability"], ["probability"]))
    for node in graph.graph.node[:-1]:
        for index, name in enumerate(node.output):
            if name == "probability":
                node.output[index] = "was_probability"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "one"))
    model = graph.SerializeToString()
    (folder / "3" / "model.onnx").write_bytes(model)
    card = json.loads((folder / "3" / "card.json").read_text()) | {"sha256": hashlib.sha256(model).hexdigest()}
    (folder / "3" / "card.json").write_text(json.dumps(card))
    _rewrite_card(copy, 3)
    return copy


def _accuracy(copy: Path, version: int) -> float:
    card = json.loads((copy / "store" / "churn" / str(version) / "card.json").read_text())
    return float(card["metrics"]["test"]["accuracy"])


def test_promote_moves_the_pin_only_to_a_version_that_is_no_worse(unlike, capsys):
    better, worse = (1, 3) if _accuracy(unlike, 1) > _accuracy(unlike, 3) else (3, 1)
    config = unlike / "store" / "churn" / "config.pbtxt"
    if worse == 1:
        assert main(["promote", "churn", "3", *_where(unlike)]) == 0
    assert f"versions: [ {better} ]" in config.read_text()
    capsys.readouterr()

    assert main(["promote", "churn", str(worse), *_where(unlike)]) == 1
    assert "--because REASON promotes it anyway" in _one_line(capsys)
    assert f"versions: [ {better} ]" in config.read_text()

    assert main(["promote", "churn", str(worse), *_where(unlike), "--because", "to see it refuse"]) == 0
    assert f"versions: [ {worse} ]" in config.read_text()
    assert "to see it refuse" in (config.parent / "promotions.log").read_text()


def test_promoting_what_serves_is_a_mistake(published, capsys):
    assert main(["promote", "churn", "1", *_where(published)]) == 2
    assert "churn version 1 serves already" in _one_line(capsys)


def test_sweep_ranks_every_choice_by_validation_loss(published, monkeypatch, capsys):
    monkeypatch.setitem(
        RECIPES, "churn", replace(_quick(), grid={"hidden": [(4, 4), (8, 4)], "plan.warm_up": [0.1, 0.5]})
    )

    assert main(["sweep", "churn", *_where(published), "--dry-run", "--quiet"]) == 0

    header, _, *rows = capsys.readouterr().out.strip().splitlines()
    losses = [float(row.split("|")[header.split("|").index(" log_loss ")]) for row in rows]
    assert len(rows) == 4
    assert sorted(losses) == losses


@pytest.mark.parametrize("model", RECIPES)
def test_a_dry_run_walks_the_whole_road_and_writes_nothing(model, made_up_data, tmp_path, capsys, monkeypatch):
    recipe = RECIPES[model]
    monkeypatch.setitem(
        RECIPES,
        model,
        replace(recipe, rehearsal=replace(recipe.rehearsal, plan=replace(recipe.rehearsal.plan, epochs=1))),
    )
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    assert main([model, "--data-dir", str(made_up_data), "--own-data", "--dry-run", "--quiet"]) == 0

    assert f"dry run of {model}: nothing written" in capsys.readouterr().out
    assert before == sorted(tmp_path.rglob("*"))


def test_ctrl_c_leaves_no_version_and_the_same_command_goes_on(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "churn", _quick())
    epoch, command = Run.epoch, [*_train(tmp_path)]
    write_customers(tmp_path / "data", customers())

    def interrupted(run: Run, number: int, *, quiet: bool):
        if number == 1:
            raise KeyboardInterrupt
        return epoch(run, number, quiet=quiet)

    monkeypatch.setattr(Run, "epoch", interrupted)
    assert main(command) == 130
    assert "goes on from the last whole epoch" in _one_line(capsys)
    assert not (tmp_path / "store").exists()

    monkeypatch.setattr(Run, "epoch", epoch)
    assert main(command) == 0

    expected, found = (
        (folder / "store" / "churn" / "1" / "model.onnx").read_bytes() for folder in (published, tmp_path)
    )
    assert expected == found


def test_an_unwritable_store_is_found_before_training(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "churn", _quick())
    (tmp_path / "store").write_text("a file is in the way")

    assert main([*_train(published), "--out", str(tmp_path / "store")]) == 2
    assert "store cannot be written: Not a directory" in _one_line(capsys)
    assert not list((published / "kept").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["churn", "--sed", "1"], "unrecognized arguments: --sed 1"),
        (["churn", "--version", "0"], "expected a number of at least 1, found '0'"),
        (["churn", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["chrun"], "invalid choice: 'chrun'"),
        ([], "the following arguments are required: COMMAND"),
        (["churn", "--data-dir", "nowhere"], "nowhere/churn/Churn_Modelling.csv[.gz] is missing"),
        (["data", "--data-dir", "nowhere"], "7 of the data files are not in nowhere as published"),
        (["evaluate", "churn", "--out", "nowhere"], "nowhere/churn does not have any version"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_two(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 2
    assert message in _one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_own_rows_need_to_be_named_as_such(published, capsys, monkeypatch):
    arguments = [argument for argument in _train(published) if argument != "--own-data"]

    assert main(arguments) == 2
    assert "is not the published file" in _one_line(capsys)


def test_cuda_where_there_is_none_is_refused(made_up_data, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    assert main(["churn", "--data-dir", str(made_up_data), "--own-data", "--dry-run", "--device", "cuda"]) == 2
    assert "--device cuda: PyTorch finds no CUDA device" in _one_line(capsys)

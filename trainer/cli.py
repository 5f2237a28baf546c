"""Flags -> calls: what each sub-command of `sluice-train` takes and which function it runs."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from typing_extensions import override

from trainer import baselines as plain_models
from trainer import card as cards
from trainer import compare as comparison
from trainer import evaluate as evaluation
from trainer import fetch, publish, sources, store
from trainer import sweep as sweeping
from trainer.catalog import RECIPES
from trainer.errors import DataError, UsageError
from trainer.recipe import Conditions


class Parser(argparse.ArgumentParser):
    """Raises instead of printing a usage text and exiting, so that every mistake is one line."""

    @override
    def error(self, message: str) -> NoReturn:
        """A bad flag.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message} (try {self.prog} --help)")


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(prog="sluice-train", description="Train, check and promote the models in model_store/.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, recipe in RECIPES.items():
        _training(commands.add_parser(name, help=f"train: {recipe.prose.task}"), name)
    data = commands.add_parser("data", help="say where the data sets come from, and check the files that are here")
    data.add_argument("--data-dir", type=Path, default=sources.default_directory(), metavar="DIR")
    data.add_argument("--fetch", action="store_true", help="download what is missing first")
    data.set_defaults(command=check_data)
    evaluating = _stored(commands, "evaluate", "recompute a card's test figures; fail if they differ", evaluate)
    evaluating.add_argument("--version", type=_positive, default=None, help="default: the latest")
    comparing = _stored(commands, "compare", "two versions side by side, with McNemar's test", compare)
    comparing.add_argument("versions", type=_positive, nargs=2, metavar="VERSION")
    promoting = _stored(commands, "promote", "make a version the one that serves, unless it is worse", promote)
    promoting.add_argument("version", type=_positive, metavar="VERSION")
    promoting.add_argument("--because", metavar="REASON", help="why a worse version shall serve; it is written down")
    grid = _stored(commands, "sweep", "try a small grid of hyper-parameters on validation data", sweep)
    _computing(grid)
    grid.add_argument("--dry-run", action="store_true", help="with the settings cut down, so that it ends soon")
    plain = commands.add_parser("baselines", help="what scikit-learn reaches on the churn rows, untuned")
    _common(plain)
    plain.add_argument("--seed", type=int, default=0)
    plain.set_defaults(command=baselines)
    return parser


def _stored(
    commands: "argparse._SubParsersAction[Parser]", name: str, words: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """A command on a model that has data and a place in the store."""
    command = commands.add_parser(name, help=words)
    command.add_argument("model", choices=list(RECIPES))
    _common(command)
    command.set_defaults(command=run)
    return command


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, default=sources.default_directory(), metavar="DIR")
    command.add_argument("--own-data", action="store_true", help="the files are your own rows in the same form")
    command.add_argument("--out", type=Path, default=Path("model_store"), metavar="DIR", help="the model store")


def _computing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--threads", type=_positive, default=None, help="CPU threads (default: PyTorch's own choice)")
    command.add_argument("--quiet", action="store_true", help="no progress bars")


def _training(command: argparse.ArgumentParser, name: str) -> None:
    _common(command)
    _computing(command)
    command.add_argument("--version", type=_positive, default=None, help="of the new version (default: the next)")
    command.add_argument("--half", action="store_true", help="write model.fp16.onnx too, for GPUs, where it is as good")
    command.add_argument("--checkpoints", type=Path, default=Path(".checkpoints"), metavar="DIR")
    command.add_argument("--fresh", action="store_true", help="forget an interrupted run instead of resuming it")
    command.add_argument("--dry-run", action="store_true", help="the whole road in seconds; writes nothing")
    command.set_defaults(command=train, model=name)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return int(text)


def device(wanted: str) -> torch.device:
    """Where to compute; `auto` takes a GPU when there is one.

    Raises:
        UsageError: cuda is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA device")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def conditions(options: argparse.Namespace, checkpoints: Path | None = None) -> Conditions:
    """How to train, from the flags; sets PyTorch's thread count."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return Conditions(options.seed, device(options.device), checkpoints, options.quiet)


def train(options: argparse.Namespace) -> None:
    """`sluice-train MODEL`: load, train, check, publish."""
    recipe = RECIPES[options.model]
    data = recipe.load(options.data_dir, options.own_data)
    if options.dry_run:
        trained = recipe.train(data, recipe.rehearsal, conditions(options))
        found = publish.rehearse(data, trained, recipe.golden())
        print(f"dry run of {recipe.name}: nothing written; {publish.in_words(found)} on a few test rows")
        return
    store.check_writable(options.out, recipe.name, options.version)
    how = conditions(options, options.checkpoints)
    if options.fresh:
        how.forget(recipe.name)
    trained = recipe.train(data, recipe.settings, how)
    directory = publish.publish(
        recipe, data, trained, how, publish.Place(options.data_dir, options.out, options.version, options.half)
    )
    how.forget(recipe.name)
    print(f"{directory}: {publish.in_words(cards.read(directory)['metrics']['test'])}")


def check_data(options: argparse.Namespace) -> None:
    """`sluice-train data`: where each file comes from and whether it is here and whole."""
    if options.fetch:
        fetch.fetch(options.data_dir)
    missing = 0
    for source in sources.SOURCES.values():
        print(f"{source.name}: {source.origin}")
        for file in source.files:
            try:
                path, _ = sources.read(options.data_dir, file, own=False)
                print(f"  ok       {path}")
            except DataError as error:
                missing += 1
                print(f"  missing  {error}")
    if missing:
        raise DataError(
            f"{missing} of the data files are not in {options.data_dir} as published; docs/data.md has the commands"
        )


def evaluate(options: argparse.Namespace) -> None:
    """`sluice-train evaluate MODEL`: the card's figures beside the recomputed ones."""
    directory = store.version_directory(options.out, options.model, options.version)
    test = RECIPES[options.model].load(options.data_dir, options.own_data).test
    for figure in evaluation.verify(directory, test):
        print(f"{figure.name:20}card {figure.card:.6f}  found {figure.found:.6f}")
    print(f"{directory}: the card holds on {len(test)} test rows")


def compare(options: argparse.Namespace) -> None:
    """`sluice-train compare MODEL A B`."""
    first, second = (store.version_directory(options.out, options.model, number) for number in options.versions)
    test = RECIPES[options.model].load(options.data_dir, options.own_data).test
    print(comparison.compare(first, second, test).table(f"version {first.name}", f"version {second.name}"))


def promote(options: argparse.Namespace) -> None:
    """`sluice-train promote MODEL VERSION`."""
    test = RECIPES[options.model].load(options.data_dir, options.own_data).test
    print(comparison.promote(options.out, options.model, options.version, test, options.because))


def sweep(options: argparse.Namespace) -> None:
    """`sluice-train sweep MODEL`: a Markdown table, the best validation log loss first."""
    recipe = RECIPES[options.model]
    if options.dry_run:
        recipe = replace(recipe, settings=recipe.rehearsal)
    data = recipe.load(options.data_dir, options.own_data)
    print(sweeping.table(sweeping.sweep(recipe, data, conditions(options))))


def baselines(options: argparse.Namespace) -> None:
    """`sluice-train baselines`: two untuned models on the churn split."""
    data = RECIPES["churn"].load(options.data_dir, options.own_data)
    for name, found in plain_models.measure(data, options.seed).items():
        print(f"{name:20}{publish.in_words(found)}")

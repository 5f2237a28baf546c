"""Flags -> calls: what each sub-command of `sluice-train` takes and which function it runs."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from trainer import publish, sources
from trainer.catalog import RECIPES
from trainer.errors import UsageError
from trainer.recipe import Conditions


class Parser(argparse.ArgumentParser):
    """Raises instead of printing a usage text and exiting, so that every mistake is one line."""

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
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, default=sources.default_directory(), metavar="DIR")
    command.add_argument("--own-data", action="store_true", help="the files are your own rows in the same form")


def _training(command: argparse.ArgumentParser, name: str) -> None:
    _common(command)
    command.add_argument("--out", type=Path, default=Path("model_store"), metavar="DIR", help="the model store")
    command.add_argument("--version", type=_positive, default=None, help="number of the new version (default: the next)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--threads", type=_positive, default=None, help="CPU threads (default: PyTorch's own choice)")
    command.add_argument("--checkpoints", type=Path, default=Path(".checkpoints"), metavar="DIR")
    command.add_argument("--fresh", action="store_true", help="forget an interrupted run instead of resuming it")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
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


def train(options: argparse.Namespace) -> None:
    """`sluice-train MODEL`: load, train, check, publish."""
    recipe = RECIPES[options.model]
    if options.threads:
        torch.set_num_threads(options.threads)
    data = recipe.load(options.data_dir, options.own_data)
    checkpoints = None if options.dry_run else options.checkpoints
    conditions = Conditions(options.seed, device(options.device), checkpoints, options.quiet)
    if options.dry_run:
        trained = recipe.train(data, recipe.rehearsal, conditions)
        found = publish.rehearse(data, trained, recipe.golden())
        print(f"dry run of {recipe.name}: nothing written; {publish.in_words(found)} on a few test rows")
        return
    trained = recipe.train(data, recipe.settings, conditions)
    place = publish.Place(options.data_dir, options.out, options.version)
    directory = publish.publish(recipe, data, trained, conditions, place)
    print(f"{directory}: {publish.in_words(publish.cards.read(directory)['metrics']['test'])}")

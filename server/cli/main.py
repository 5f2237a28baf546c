"""The `sluice` command: one subcommand a module, imported only when it is asked for.

A client that prints one prediction should not wait for a server's imports, nor the other way round.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import ClassVar, Protocol, cast

from server import __version__

COMMANDS = {
    "serve": "serve the models of a model store",
    "predict": "ask a served model one question",
    "jobs": "submit, follow and cancel durable jobs (needs Redis)",
    "models": "list, show, load and unload models",
    "bench": "measure any Open Inference Protocol server under load",
    "demo": "start a server, ask each shipped model one question, stop it",
}


class CommandError(Exception):
    """The command cannot go on; the text is the one line that goes to stderr before its exit code."""

    exit_code: ClassVar[int] = 2
    """2: a bad flag, file or value; 1 where the command was right and failed all the same."""


class Command(Protocol):
    """What each module of this package offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit code. Raises CommandError."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 done, 1 failed, 2 a bad flag, file or value."""
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would add lines of its own to our one
    parser = _parser(words)
    arguments = parser.parse_args(words)
    try:
        return command(arguments.command).run(arguments)
    except CommandError as error:
        print(f"sluice {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output had enough; nothing is left to tell it
        sys.stderr.close()
        return 1


def command(name: str) -> Command:
    """Return the module that implements a subcommand."""
    return cast("Command", importlib.import_module(f"server.cli.{name}"))


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice", description="Model serving with dynamic batching.")
    parser.add_argument("--version", action="version", version=f"sluice {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in words if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == asked:
            command(name).configure(subparser)
    return parser

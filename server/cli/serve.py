"""`sluice serve`: settings in, a serving process out."""

import argparse
import asyncio
import os

from server import log
from server.cli.main import CommandError
from server.settings import InvalidSettings, add_flags, parse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting."""
    parser.epilog = "Every flag is also an environment variable: --grpc-port is SLUICE_GRPC_PORT."
    add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0 after a clean drain, 1 when the drain ran out of time."""
    from server.app import App, StartupError  # noqa: PLC0415  the other commands do without all of it

    try:
        settings = parse(vars(arguments), os.environ)
        log.setup(settings.log_format, settings.log_level)
        return asyncio.run(App(settings).run())
    except (InvalidSettings, StartupError) as error:
        raise CommandError(str(error)) from error

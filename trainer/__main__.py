"""`sluice-train`: the command line, and the only place that knows exit codes."""

import sys
from collections.abc import Sequence

from trainer.cli import build_parser
from trainer.errors import Refused, TrainerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a failure the user can mend is one line on stderr.

    Returns:
        0 done, 1 a check said no, 2 a bad flag, file or value, 130 interrupted.
    """
    try:
        options = build_parser().parse_args(arguments)
        options.command(options)
    except Refused as error:
        print(f"sluice-train: {error}", file=sys.stderr)
        return 1
    except TrainerError as error:
        print(f"sluice-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sluice-train: interrupted; the same command goes on from the last whole epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

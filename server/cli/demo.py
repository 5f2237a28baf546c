"""`sluice demo`: a server of its own on free ports, one question to each shipped model, and a clean stop.

It uses the same programs a user does (`sluice serve`, `sluice predict`), so what it shows is what they get.
"""

import argparse
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from server.cli.main import CommandError

SLUICE = (sys.executable, "-m", "server")
CUSTOMER = shlex.split(
    "--geography Spain --credit-score 500 --gender Female --age 40 --tenure 3 --balance 50000 --products 2 "
    "--has-card --active --salary 40000"
)
REVIEW = "A wonderful film: warm, funny, and over far too soon."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the one thing that can be chosen."""
    parser.add_argument("--model-store", type=Path, default=Path("model_store"), metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Start, ask three times, stop. Returns the first exit code that is not 0. Raises CommandError."""
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    flags = (*ports, "--model-store", str(arguments.model_store), "--log-level", "warning")
    server = subprocess.Popen((*SLUICE, "serve", *flags), stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        address = _address(server)
        with tempfile.TemporaryDirectory() as folder:
            picture = draw_seven(Path(folder) / "seven.png")
            questions = (("churn", *CUSTOMER), ("mnist", str(picture)), ("sentiment", REVIEW))
            codes = [_ask(address, question) for question in questions]
    finally:
        server.send_signal(signal.SIGTERM)
        stopped = server.wait(timeout=60)
    print(f"\nserver stopped with exit code {stopped}")
    return next((code for code in (*codes, stopped) if code), 0)


def draw_seven(path: Path) -> Path:
    """Draw a seven, dark ink on white paper and much larger than 28x28, and return where it was saved."""
    page = Image.new("L", (200, 240), 255)
    ImageDraw.Draw(page).line([(45, 50), (155, 50), (95, 195)], fill=20, width=18, joint="curve")
    page.save(path)
    return path


def _address(server: "subprocess.Popen[str]") -> str:
    if server.stdout is None:
        raise CommandError("the server has no output to read its address from")
    for line in server.stdout:
        print(line, end="", flush=True)
        found = re.search(r"^listening grpc=(\S+)", line)
        if found:
            return found[1]
    raise CommandError(f"expected the server to say where it listens, it ended with exit code {server.wait()}")


def _ask(address: str, question: tuple[str, ...]) -> int:
    print(f"\n$ sluice predict {shlex.join(question)}", flush=True)
    return subprocess.run((*SLUICE, "predict", *question, "--server", address), check=False).returncode  # noqa: S603

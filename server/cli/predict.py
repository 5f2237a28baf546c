"""`sluice predict`: one question to one of the shipped models, by flags, picture files or sentences."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from server.cli.channel import Client, add_flags
from server.cli.main import CommandError
from server.pb import sluice_pb2 as pb

SERVICE = "/sluice.v1.Predictions/"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add one subcommand a model."""
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    for add in (_add_churn, _add_mnist, _add_sentiment):
        add(models)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print. Raises CommandError."""
    with Client(arguments) as client:
        result: int = arguments.ask(client, arguments)
        return result


def _subparser(
    models: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = models.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    add_flags(parser)
    parser.add_argument("--model-version", default="", metavar="N", help="a version other than the newest in service")
    return parser


def _add_churn(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _subparser(models, "churn", "how likely a bank's customer is to leave")
    parser.set_defaults(ask=_ask_churn)
    parser.add_argument("--geography", required=True, help="France, Germany or Spain")
    parser.add_argument("--gender", required=True, help="Female or Male")
    for name, unit in (
        ("credit-score", "points"),
        ("age", "years"),
        ("tenure", "years with the bank"),
        ("balance", "on the account"),
        ("products", "how many of the bank's products, 1 to 4"),
        ("salary", "estimated, a year"),
    ):
        parser.add_argument(f"--{name}", type=float, required=True, metavar="NUMBER", help=unit)
    parser.add_argument("--has-card", action=argparse.BooleanOptionalAction, default=False, help="has a credit card")
    parser.add_argument("--active", action=argparse.BooleanOptionalAction, default=False, help="is an active member")


def _add_mnist(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _subparser(models, "mnist", "which handwritten digit a picture shows")
    parser.set_defaults(ask=_ask_mnist)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="FILE", help="PNG or JPEG, any size")


def _add_sentiment(models: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _subparser(models, "sentiment", "whether a review is positive")
    parser.set_defaults(ask=_ask_sentiment)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="a review in quotes; - reads one a line from stdin")


def customer(arguments: argparse.Namespace) -> pb.Customer:
    """Return the customer that the flags describe."""
    return pb.Customer(
        credit_score=arguments.credit_score,
        geography=arguments.geography,
        gender=arguments.gender,
        age=arguments.age,
        tenure=arguments.tenure,
        balance=arguments.balance,
        num_of_products=arguments.products,
        has_credit_card=arguments.has_card,
        is_active_member=arguments.active,
        estimated_salary=arguments.salary,
    )


def _ask_churn(client: Client, arguments: argparse.Namespace) -> int:
    request = pb.PredictChurnRequest(customers=[customer(arguments)], model_version=arguments.model_version)
    answer = client.call(SERVICE + "PredictChurn", request, pb.PredictChurnResponse)
    probability = answer.predictions[0].probability
    verdict = "likely to leave" if probability >= 0.5 else "likely to stay"
    _print(
        arguments,
        [{"probability": probability, "model_version": answer.model_version}],
        [f"probability of leaving {probability:.3f}  {_bar(probability)}  {verdict}"],
    )
    return 0


def _ask_mnist(client: Client, arguments: argparse.Namespace) -> int:
    images = [pb.DigitImage(encoded=_picture(path)) for path in arguments.pictures]
    request = pb.ClassifyDigitRequest(images=images, model_version=arguments.model_version)
    answer = client.call(SERVICE + "ClassifyDigit", request, pb.ClassifyDigitResponse)
    width = max(len(str(path)) for path in arguments.pictures)
    rows, lines = [], []
    for path, found in zip(arguments.pictures, answer.predictions, strict=True):
        rows.append(
            {
                "file": str(path),
                "digit": found.digit,
                "probability": found.probability,
                "probabilities": list(found.probabilities),
                "model_version": answer.model_version,
            }
        )
        lines.append(f"{path!s:<{width}}  {found.digit}  {found.probability:.3f}  {_bar(found.probability)}")
    _print(arguments, rows, lines)
    return 0


def _ask_sentiment(client: Client, arguments: argparse.Namespace) -> int:
    texts = _texts(arguments.texts)
    request = pb.AnalyzeSentimentRequest(texts=texts, model_version=arguments.model_version)
    answer = client.call(SERVICE + "AnalyzeSentiment", request, pb.AnalyzeSentimentResponse)
    rows, lines = [], []
    for text, found in zip(texts, answer.predictions, strict=True):
        word = pb.Sentiment.Name(found.sentiment).lower()
        rows.append(
            {"text": text, "sentiment": word, "positive": found.positive, "model_version": answer.model_version}
        )
        lines.append(f"{word:<8}  positive {found.positive:.3f}  {_bar(found.positive)}  {_shorten(text)}")
    _print(arguments, rows, lines)
    return 0


def _picture(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error


def _texts(given: Sequence[str]) -> list[str]:
    if list(given) != ["-"]:
        return list(given)
    texts = [line.rstrip("\n") for line in sys.stdin]
    if not texts:
        raise CommandError("expected one review a line on stdin, got none")
    return texts


def _print(arguments: argparse.Namespace, rows: Sequence[dict[str, object]], lines: Sequence[str]) -> None:
    if arguments.json:
        lines = [json.dumps(row) for row in rows]
    print("\n".join(lines))


def _bar(share: float, width: int = 20) -> str:
    full = round(share * width)
    return "█" * full + "·" * (width - full)


def _shorten(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"

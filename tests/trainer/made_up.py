"""Made-up data sets in the published files' forms, small enough to train on in a second."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.churn import NUMBERS
from trainer.drawing import drawn_digits


def customers(rows: int = 200, seed: int = 0) -> list[list[str]]:
    """A made-up bank: header and rows; who is over 45 tends to leave."""
    random = np.random.RandomState(seed)
    columns = [*NUMBERS[:1], "Geography", "Gender", *NUMBERS[1:]]
    table = [["RowNumber", "CustomerId", "Surname", *columns, "Exited"]]
    for number in range(rows):
        age = int(random.randint(18, 80))
        leaves = int(age + random.randint(-10, 10) > 45)
        country, gender = random.choice(["France", "Germany", "Spain"]), random.choice(["Female", "Male"])
        cells = [number, number, "Nobody", random.randint(350, 850), country, gender, age, random.randint(0, 11)]
        cells += [random.choice([0, 90000.5]), random.randint(1, 5), *random.randint(0, 2, 2), 50000.25, leaves]
        table.append([str(cell) for cell in cells])
    return table


def write_customers(directory: Path, table: list[list[str]], end: str = "\n") -> Path:
    path = directory / "churn" / "Churn_Modelling.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(",".join(row) + end for row in table).encode())
    return path


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()


def write_digits(directory: Path, rows: int = 600) -> None:
    """Drawn digits with noise, in the four published files' form; one of them gzipped."""
    random = np.random.RandomState(1)
    labels = (np.arange(rows) % 10).astype(np.uint8)
    pictures = np.minimum(drawn_digits()[labels].astype(int) + random.randint(0, 60, (rows, 28, 28)), 255)
    (directory / "mnist").mkdir(parents=True)
    for part, cut in (("train", slice(None)), ("t10k", slice(0, 100))):
        pixels = idx_bytes(pictures[cut].astype(np.uint8))
        (directory / "mnist" / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (directory / "mnist" / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[cut]))


def write_reviews(directory: Path, rows: int = 300) -> None:
    """Made-up reviews of one to forty sentences, in the form of the converted IMDB files."""
    random = np.random.RandomState(2)
    good, bad = (
        ["a", "lovely", "film", "!", "i", "laughed", ".", ""],
        ["dull", "and", "far", "too", "long", ",", "avoid", ".", ""],
    )
    (directory / "imdb").mkdir(parents=True)
    for part, count in (("train", rows), ("test", 60)):
        lines = ["id,label,rating,text"]
        for number in range(count):
            words = (good if number % 2 else bad) + ["the", "story", "goes", "on", "."] * int(random.randint(0, 40))
            lines.append(f'{number},{number % 2},{9 if number % 2 else 2},"{" ".join(words)} no {random.randint(9)}"')
        (directory / "imdb" / f"{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


MADE_UP: dict[str, Callable[[Path], object]] = {
    "churn": lambda directory: write_customers(directory, customers()),
    "mnist": write_digits,
    "sentiment": write_reviews,
}

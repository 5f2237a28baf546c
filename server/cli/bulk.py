"""`sluice jobs submit MODEL --csv FILE`: a file of rows as durable jobs, results written as they come, resumable.

The results file has one line a row, in the order they came: the row's number in the input and each output. A run that
was cut short is continued by the same command: rows that have a result are skipped, and jobs that were accepted before
are found again by their idempotency key, which is made of the file's content and the rows' numbers.
"""

import csv
import hashlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.cli.channel import Client
from server.cli.main import CommandError
from server.cli.progress import Progress
from server.codec import decode_bytes, encode_bytes
from server.messages import NUMPY_NAMES
from server.pb import open_inference_pb2 as oip
from server.pb import sluice_pb2 as pb

SERVICE = "/sluice.v1.Jobs/"
ROWS_PER_JOB = 64
JOBS_AT_ONCE = 16

Rows = list[tuple[int, Mapping[str, str]]]
"""Numbered rows: 1 is the first behind the header."""


@dataclass(frozen=True, slots=True)
class BulkFile:
    """A CSV file whose columns are the model's inputs, each of one value a row."""

    path: Path
    digest: str
    rows: Rows

    @classmethod
    def read(cls, path: Path, inputs: Sequence[str]) -> "BulkFile":
        """Read it whole. Raises CommandError when it cannot be, or lacks a column."""
        try:
            data = path.read_bytes()
            text = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"cannot read {path}: {error}") from error
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = [name for name in inputs if name not in (reader.fieldnames or ())]
        if missing:
            found = ", ".join(reader.fieldnames or ()) or "none"
            raise CommandError(f"{path}: expected columns {', '.join(missing)}, the columns are: {found}")
        return cls(path, hashlib.sha256(data).hexdigest(), list(enumerate(reader, start=1)))


class Results:
    """The results file: what it holds already, and appending to it line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.done = set(self._numbers())
        self._file = path.open("a", newline="", encoding="utf-8")

    def _numbers(self) -> Iterator[int]:
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            for line in csv.reader(file):
                if line and line[0].isdecimal():
                    yield int(line[0])

    def write(self, rows: Rows, columns: Mapping[str, Sequence[object]]) -> None:
        """Append the results of some rows and flush, so that a cut-short run loses nothing it was told."""
        with self._lock:
            writer = csv.writer(self._file)
            if self._file.tell() == 0:
                writer.writerow(["row", *columns])
            for index, (number, _) in enumerate(rows):
                writer.writerow([number, *(values[index] for values in columns.values())])
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def submit_file(client: Client, model: str, path: Path, out: Path | None) -> Path:
    """Run every row of `path` as jobs and return where the results are. Raises CommandError."""
    metadata = client.call(
        "/inference.GRPCInferenceService/ModelMetadata", oip.ModelMetadataRequest(name=model), oip.ModelMetadataResponse
    )
    _check_columns(metadata)
    bulk = BulkFile.read(path, [tensor.name for tensor in metadata.inputs])
    results = Results(out or path.with_suffix(".results.csv"))
    try:
        left = [row for row in bulk.rows if row[0] not in results.done]
        batches = [left[at : at + ROWS_PER_JOB] for at in range(0, len(left), ROWS_PER_JOB)]
        with Progress(len(left), "rows") as progress:
            for rows, columns in _answers(client, metadata, bulk, batches):
                results.write(rows, columns)
                progress.add(len(rows))
    finally:
        results.close()
    return results.path


def _check_columns(metadata: oip.ModelMetadataResponse) -> None:
    for tensor in metadata.inputs:
        if list(tensor.shape) != [-1, 1]:
            shape = list(tensor.shape)
            raise CommandError(f"{metadata.name}: a CSV file needs inputs of one value a row, {tensor.name} is {shape}")


def _answers(
    client: Client, metadata: oip.ModelMetadataResponse, bulk: BulkFile, batches: Sequence[Rows]
) -> Iterator[tuple[Rows, Mapping[str, Sequence[object]]]]:
    """Yield each batch with its outputs as it is done; a few are under way at once."""
    with ThreadPoolExecutor(JOBS_AT_ONCE) as pool:
        waiting = iter(batches)
        running: dict[Future[Mapping[str, Sequence[object]]], Rows] = {}
        while True:
            for rows in waiting:
                running[pool.submit(_run, client, metadata, bulk, rows)] = rows
                if len(running) >= JOBS_AT_ONCE:
                    break
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()


def _run(
    client: Client, metadata: oip.ModelMetadataResponse, bulk: BulkFile, rows: Rows
) -> Mapping[str, Sequence[object]]:
    key = f"csv-{bulk.digest[:40]}-{rows[0][0]}-{rows[-1][0]}"
    request = pb.SubmitRequest(request=_request(metadata, rows), idempotency_key=key)
    job = client.call(SERVICE + "Submit", request, pb.Job)
    *_, last = client.stream(SERVICE + "Wait", pb.WaitRequest(id=job.id), pb.Job)
    if last.state != pb.Job.DONE:
        numbers = f"rows {rows[0][0]} to {rows[-1][0]}"
        raise CommandError(f"{numbers}: the job ended {pb.Job.State.Name(last.state)}: {last.error.message}")
    return {
        tensor.name: row_values(tensor, raw)
        for tensor, raw in zip(last.result.outputs, last.result.raw_output_contents, strict=True)
    }


def _request(metadata: oip.ModelMetadataResponse, rows: Rows) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=metadata.name)
    for tensor in metadata.inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(rows), 1])
        texts = [row[tensor.name] or "" for _, row in rows]
        if tensor.datatype == "BYTES":
            request.raw_input_contents.append(encode_bytes(text.encode() for text in texts))
        else:
            request.raw_input_contents.append(_numbers(tensor, rows, texts))
    return request


def _numbers(tensor: oip.ModelMetadataResponse.TensorMetadata, rows: Rows, texts: Sequence[str]) -> bytes:
    for (number, _), text in zip(rows, texts, strict=True):
        try:
            float(text)
        except ValueError:
            raise CommandError(f"row {number}, column {tensor.name}: expected a number, got {text[:64]!r}") from None
    return np.array([float(text) for text in texts]).astype(NUMPY_NAMES[tensor.datatype]).tobytes()


def row_values(tensor: oip.ModelInferResponse.InferOutputTensor, raw: bytes) -> Sequence[object]:
    """Return one value a row: the number itself, or the row's numbers joined by blanks."""
    if tensor.datatype == "BYTES":
        return [element.decode("utf-8", "replace") for element in decode_bytes(raw)]
    rows = np.frombuffer(raw, NUMPY_NAMES[tensor.datatype]).reshape(tensor.shape[0], -1)
    return [" ".join(str(value) for value in row) for row in rows]

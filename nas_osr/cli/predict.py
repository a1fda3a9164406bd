"""`nas-osr predict`: what a model says of image files."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nas_osr.cli.model_options import ModelOptions
from nas_osr.configuration import UserPath
from nas_osr.errors import UserError

if TYPE_CHECKING:
    from nas_osr.deploy.predictor import Answers, OpenSetModel

COLUMNS = ("path", "label", "nearest", "knownness", "margin", "probability")


@dataclass
class PredictRequest(ModelOptions):
    """Say of images which known class each is of, or that it is unknown.

    Images of any size and kind are brought to the network's size as its training images were. One that cannot be read
    is a line on stderr (with --json, an entry), the others are answered, and the exit code is 1.
    """

    model: UserPath
    "a model folder, or the folder of a retraining of one part."
    images: list[str]
    "image files, folders of them (those inside, too), or - for paths from standard input, one a line."
    json: bool = False
    "a JSON object a line: path, label, nearest (known class), knownness, margin (from 0 on it is known), probability."
    csv: bool = False
    "the same as CSV."
    out: UserPath | None = None
    "a file to write instead of standard output."


def predict(request: PredictRequest, command: list[str]) -> None:
    """Predict as asked; exit code 1 when an image could not be read."""
    from nas_osr.deploy.pictures import PictureFiles
    from nas_osr.deploy.predictor import load
    from nas_osr.files.storage import replace_file

    if request.json and request.csv:
        raise UserError("json and csv exclude each other: choose one")
    if not request.images:
        raise UserError("predict: name image files, folders of them, or - for paths from standard input")
    model = load(request.model, device=request.device, batch_size=request.batch_size, plugins=request.plugin)
    files, counts = PictureFiles(named_paths(request.images)), {"answered": 0, "broken": 0}
    started = time.perf_counter()
    with ExitStack() as stack:
        file = sys.stdout.buffer if request.out is None else stack.enter_context(replace_file(Path(request.out)))
        for line in answer_lines(request, model, files, counts):
            write_line(file, line)
    seconds = time.perf_counter() - started
    if not any(counts.values()):
        raise UserError(f"{', '.join(request.images)}: no images there")
    said = [f"{counts['answered']} images, {counts['answered'] / seconds:.0f} a second"]
    said += [f"{counts['broken']} could not be read"] if counts["broken"] else []
    said += [f"passed over: {files.passed_over}"] if files.passed_over else []
    print("; ".join(said), file=sys.stderr)
    if counts["broken"]:
        sys.exit(1)


def named_paths(images: list[str]) -> Iterator[str]:
    """The paths that are given, those of standard input in place of -."""
    for path in images:
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip()) if path == "-" else [path]


def write_line(file: IO[bytes], line: str) -> None:
    """One line; a file name that is not valid UTF-8 with its odd bytes as \\udcXX."""
    file.write(f"{line}\n".encode(errors="backslashreplace"))


def answer_lines(request: PredictRequest, model: OpenSetModel, files: Any, counts: dict[str, int]) -> Iterator[str]:
    """The lines of the output; what cannot be read is counted, and said on stderr or in a line."""
    width = max(map(len, [*model.classes_.tolist(), model.unknown, "nearest"]))
    if request.csv:
        yield csv_line(COLUMNS)
    elif not request.json:
        yield f"{'label':<{width}}  {'nearest':<{width}}  {'knownness':>11}  {'margin':>11}  path"
    for batch, answers in model.ask_files(files):
        rows = iter(describe_answers(model, answers) if answers is not None else ())
        for path, error in batch:
            if error is None:
                counts["answered"] += 1
                row = {"path": str(path), **next(rows)}
                if request.json:
                    yield json.dumps(row)
                elif request.csv:
                    yield csv_line([row[name] for name in COLUMNS])
                else:
                    numbers = f"{row['knownness']:>11.5g}  {row['margin']:>+11.4g}"
                    yield f"{row['label']:<{width}}  {row['nearest']:<{width}}  {numbers}  {path}"
                continue
            counts["broken"] += 1
            if request.json:
                yield json.dumps({"path": str(path), "error": str(error)})
            else:
                print(f"nas-osr: {error}", file=sys.stderr)


def describe_answers(model: OpenSetModel, answers: Answers) -> Iterator[dict[str, Any]]:
    """Each answer as plain values, by the names of `COLUMNS` but for the path."""
    names = [*model.classes_.tolist(), model.unknown]
    columns = (answers.labels, answers.nearest, answers.knownness, answers.margin, answers.probabilities.max(axis=1))
    for label, nearest, *numbers in zip(*(column.tolist() for column in columns), strict=True):
        yield dict(zip(COLUMNS[1:], (names[label], names[nearest], *numbers), strict=True))


def csv_line(values: Any) -> str:
    """One line of CSV, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()

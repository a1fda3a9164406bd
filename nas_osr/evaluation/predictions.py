"""predictions.csv: what a network said about each test image, written by `evaluate` and read again without the network.

One row per image, in test order, with the header

    index,true_label,true_class,predicted_label,closed_set_label,knownness,logit_0,...,logit_{N-1}

- index: the image's position in the test set, from 0.
- true_label: 0..N-1, or N for an unknown image; N, the number of known classes, is the number of the last columns.
- true_class: the source class the image comes from, its name or id as text. A known label may merge several.
- predicted_label: 0..N, N where the image was rejected as unknown at the rule's threshold.
- closed_set_label: 0..N-1, the most likely known class before rejection.
- knownness: the rule's score, higher = more known. Floats are written with `repr`, so they are read back bit by bit.
- logit_0 ...: the network's logits; for a network without a classifier the columns are score_0, ..., score_{N-1}, the
  rule's own score of each class, higher = more likely (-inf where an image cannot be of the class).
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import replace_file
from nas_osr.files.text import read_text
from nas_osr.metrics.open_set import Array, evaluate_open_set
from nas_osr.metrics.resampling import bootstrap_intervals, openness_f1_curve

COLUMNS = ("index", "true_label", "true_class", "predicted_label", "closed_set_label", "knownness")
SCORE_COLUMNS = ("logit", "score")
MAX_PREDICTIONS_BYTES = 1 << 30
MAX_CLASS_NAME = 255  # characters: in an array of texts each takes the room of the longest


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgements:
    """What a rule says of B >= 1 images: the columns of predictions.csv (see the module's text) but for the truth.

    Attributes:
        index, predicted_label, closed_set_label: [B] int64.
        knownness: [B] float64, no NaN.
        class_scores: [B, N] float64, no NaN.
        column: what they are, one of `SCORE_COLUMNS`: "logit" of the network, or "score" of the rule.
    """

    index: Array
    predicted_label: Array
    closed_set_label: Array
    knownness: Array
    class_scores: Array
    column: str = "logit"

    @property
    def num_known(self) -> int:
        """N."""
        return int(self.class_scores.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions(Judgements):
    """All columns of predictions.csv."""

    true_label: Array
    "[B] int64."
    true_class: Array
    "[B] strings."

    def metrics(self) -> dict[str, float | None]:
        """`nas_osr.metrics.open_set.evaluate_open_set`; the unknown classes are those that occur."""
        unknown_classes = np.unique(self.true_class[self.true_label == self.num_known])
        return evaluate_open_set(*self._columns(), self.num_known, len(unknown_classes))

    def intervals(self, repeats: int = 1000, seed: int = 0) -> dict[str, tuple[float, float] | None]:
        """`nas_osr.metrics.resampling.bootstrap_intervals`, stratified over source classes."""
        unknown = self.true_label == self.num_known
        strata = np.char.add(np.where(unknown, "unknown ", "known "), self.true_class.astype(str))
        return bootstrap_intervals(*self._columns(), self.num_known, strata=strata, repeats=repeats, seed=seed)

    def openness_curve(self, max_subsets: int = 200, seed: int = 0) -> list[dict[str, float | int | None]]:
        """`nas_osr.metrics.resampling.openness_f1_curve`."""
        columns = self.true_label, self.predicted_label, self.true_class
        return openness_f1_curve(*columns, self.num_known, max_subsets=max_subsets, seed=seed)

    def _columns(self) -> tuple[Array, Array, Array, Array]:
        return self.knownness, self.predicted_label, self.closed_set_label, self.true_label


def write_predictions(path: str | Path, predictions: Judgements) -> None:
    """Write predictions.csv whole or not at all, without the two true_ columns where there are only judgements.

    Raises:
        UserError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in COLUMNS if hasattr(predictions, name)]
    writer.writerow([*names, *(f"{predictions.column}_{label}" for label in range(predictions.num_known))])
    columns = [getattr(predictions, name).tolist() for name in names]
    for values, scores in zip(zip(*columns, strict=True), predictions.class_scores.tolist(), strict=True):
        writer.writerow([*values[:-1], repr(values[-1]), *map(repr, scores)])
    # a folder name that is not valid UTF-8 is written with its odd bytes as \\udcXX
    with replace_file(user_path(path)) as file:
        file.write(text.getvalue().encode(errors="backslashreplace"))


def read_predictions(path: str | Path) -> Predictions:
    """Read predictions.csv.

    Raises:
        UserError: the file cannot be read, or a line or field is not as described; says which line and column.
    """
    content = read_text(path, MAX_PREDICTIONS_BYTES).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    rows: list[list[Any]] = []
    try:
        header = next(reader, [])
        num_known = len(header) - len(COLUMNS)
        column = header[-1].partition("_")[0] if header else ""
        expected = [*COLUMNS, *(f"{column}_{label}" for label in range(num_known))]
        if column not in SCORE_COLUMNS or header != expected:
            raise UserError(f"{path}, line 1: the header must be {','.join(COLUMNS)},logit_0,...,logit_N-1 (or score_)")
        fields = _fields(num_known)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if len(row) != len(header):
                raise UserError(f"{where}: {len(row)} columns instead of {len(header)}")
            described = zip(row, fields, header, strict=True)
            rows.append([_read(text, field, f"{where}, column {name}") for text, field, name in described])
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
    if not rows:
        raise UserError(f"{path}: no predictions below the header")
    columns = list(zip(*rows, strict=True))
    if max(map(len, columns[2])) > MAX_CLASS_NAME:
        raise UserError(f"{path}: a true_class has more than {MAX_CLASS_NAME} characters")
    types = {"true_class": str, "knownness": np.float64}
    named = {name: np.array(values, types.get(name, np.int64)) for name, values in zip(COLUMNS, columns, strict=False)}
    class_scores = np.array(columns[len(COLUMNS) :], dtype=np.float64).T.copy()
    return Predictions(**named, class_scores=class_scores, column=column)


Field = tuple[Callable[[str], Any], Callable[[Any], bool], str]
"""What makes a value of a field, whether it is accepted, and what is, in words."""


def _fields(num_known: int) -> list[Field]:
    """Of each column."""
    index: Field = (int, range(2**63).__contains__, "a whole number from 0")
    label: Field = (int, range(num_known + 1).__contains__, f"a whole number in 0..{num_known}")
    closed: Field = (int, range(num_known).__contains__, f"a whole number in 0..{num_known - 1}")
    text: Field = (str, lambda value: True, "text")
    number: Field = (float, lambda value: not math.isnan(value), "a number")
    return [index, label, text, label, closed, *[number] * (num_known + 1)]


def _read(text: str, field: Field, where: str) -> Any:
    make, accepts, expected = field
    with contextlib.suppress(ValueError):
        value = make(text)
        if accepts(value):
            return value
    raise UserError(f"{where}: expected {expected}, found {text[:40]!r}")

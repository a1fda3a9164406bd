"""Outputs of any network that a user brings as arrays: read from a .npz file with care, and checked.

The arrays are called PART_FIELD: PART is train, validation or test, FIELD one of `Outputs`, `labels` or (test only)
`classes`. Labels are 0..N-1 for the known classes; N or -1, unknown, occurs in test_labels alone.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas_osr.errors import UserError, show
from nas_osr.evaluation.user_labels import as_array, check_whole, mark_unknown
from nas_osr.files.paths import user_path
from nas_osr.files.storage import file_errors
from nas_osr.metrics.open_set import Array
from nas_osr.outputs import Outputs
from nas_osr.seeds import derive_seed

PART_NAMES = ("train", "validation", "test")
PER_CLASS = ("logits", "class_reconstruction_error", "distances")  # these have N columns
NAMES = (*(f"{part}_{field}" for part in PART_NAMES for field in (*Outputs.names(), "labels")), "test_classes")
#: Share of the training images of each class that is held out where there are no validation arrays.
HELD_OUT = 0.1
#: All arrays of a file together.
MAX_ARRAYS_BYTES = 4 << 30


@dataclass(frozen=True)
class PartArrays:
    """The arrays of B images.

    Attributes:
        fields: [B, columns] float16, float32 or float64, finite, by name.
        labels: [B] int64; None only for test images without labels.
    """

    fields: dict[str, Array]
    labels: Array | None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def select(self, mask: Array) -> PartArrays:
        """The images where mask [B] is true."""
        assert self.labels is not None
        return PartArrays({name: values[mask] for name, values in self.fields.items()}, self.labels[mask])


def read_arrays(path: str | Path, *, any_names: bool = False) -> dict[str, Array]:
    """All arrays of a .npz file. Nothing in the file is run, and no more memory taken than its arrays really fill.

    Args:
        any_names: of a file with other arrays than a user's outputs.

    Raises:
        UserError: the file cannot be read or is none, an array has a name that means nothing or no numbers or text in
            it, or all together are larger than 4 GiB.
    """
    path = user_path(path)
    with file_errors(path, "read"):
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if not any_names:
                    check_names(member.filename.removesuffix(".npy") for member in members)
                if sum(member.file_size for member in members) > MAX_ARRAYS_BYTES:
                    raise UserError(f"{path}: the arrays are larger than {MAX_ARRAYS_BYTES >> 30} GiB")
                return {member.filename.removesuffix(".npy"): read_member(archive, member) for member in members}
        except (OSError, UserError):
            raise
        except Exception as error:  # the many ways in which a broken archive shows itself
            reason = str(error).partition("\n")[0][:100]
            raise UserError(f"{path}: not a .npz file of numpy.savez, or damaged ({reason})") from error


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """One array; its size is checked against what its header says before any memory is taken."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if header is None:
            raise ValueError(f"{member.filename} has version {version}")
        shape, _, dtype = header(file)
        if dtype.kind not in "fiubU":
            raise UserError(f"array {member.filename}: expected numbers or text, found values of type {dtype}")
        if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} is not as long as it says")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def check_names(names: Iterable[str]) -> None:
    """Raise UserError unless all are known names of arrays, each there once."""
    found: set[str] = set()
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"array {show(name)} means nothing: names are train_, validation_ or test_ before labels, "
                f"{', '.join(Outputs.names())}; and test_classes"
            )
        if name in found:
            raise UserError(f"array {name} is there twice")
        found.add(name)


def read_parts(
    arrays: Mapping[str, Any], parts: Sequence[str], needs: frozenset[str], reader: str
) -> tuple[dict[str, PartArrays], int]:
    """The arrays of some parts, checked, and the number N of known classes.

    N is the number of columns of a field in `PER_CLASS`, or else what the labels of the first part say.

    Args:
        arrays: by name.
        parts: which ones are needed, in the order of `PART_NAMES`, test among them.
        needs: the fields that are needed. Logits are used besides where every part has them.
        reader: what needs them, for messages.

    Raises:
        UserError: an array is missing, has another shape than its fellows, or values out of range.
    """
    names = sorted(needs | {"logits"} if all(f"{part}_logits" in arrays for part in parts) else needs)
    fields = {f"{part}_{name}": read_field(arrays, f"{part}_{name}", reader) for part in parts for name in names}
    first = parts[0]
    for part in parts:
        for name in names:
            check_equal(fields, f"{part}_{name}", f"{first}_{name}", 1, "columns")
            check_equal(fields, f"{part}_{name}", f"{part}_{names[0]}", 0, "rows")
    per_class = [f"{first}_{name}" for name in PER_CLASS if name in names]
    for field in per_class[1:]:
        check_equal(fields, field, per_class[0], 1, "columns")
    labels = {
        part: read_labels(arrays, part, f"{part}_{names[0]}", len(fields[f"{part}_{names[0]}"])) for part in parts
    }
    known = labels[first]
    assert known is not None
    num_known = fields[per_class[0]].shape[1] if per_class else int(known.max()) + 1
    if labels["test"] is not None:
        labels["test"] = mark_unknown(labels["test"], num_known)
    for part, values in labels.items():
        if values is not None:
            check_range(part, values, num_known)
    if first == "train" or not per_class:
        check_every_class(first, known, num_known)
    made = {}
    for part, values in labels.items():
        own = {name: fields[f"{part}_{name}"] for name in names}
        made[part] = PartArrays(own, None if values is None else values.astype(np.int64))
    return made, num_known


def read_field(arrays: Mapping[str, Any], name: str, reader: str) -> Array:
    """A field [B, columns] of finite numbers: float16, float32 or float64 as they came, anything else as float64."""
    if name not in arrays:
        raise UserError(f"array {name} is missing: {reader} needs it")
    values = as_array(arrays[name], name)
    if values.dtype.kind not in "fiu" or values.ndim != 2 or values.size == 0:
        raise UserError(f"array {name}: expected a row of numbers for each image, got {values.dtype} {values.shape}")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise UserError(f"array {name}: row {int(bad.argmax())} holds a value that is not a finite number")
    native = values.dtype.newbyteorder("=")
    return values.astype(native if native in (np.float16, np.float32, np.float64) else np.float64, copy=False)


def read_labels(arrays: Mapping[str, Any], part: str, beside: str, count: int) -> Array | None:
    """The labels of a part, `count` whole numbers; None for test images without any."""
    name = f"{part}_labels"
    values = read_column(arrays, name, "iufb", f"whole numbers, one for each row of {beside}", count)
    if values is None and part != "test":
        raise UserError(f"array {name} is missing: the class of each known image, 0 to N-1")
    return None if values is None else check_whole(values, name)


def read_column(arrays: Mapping[str, Any], name: str, kinds: str, expected: str, count: int) -> Array | None:
    """An array of `count` values of these kinds of dtype, `expected` in words; None where there is none."""
    if name not in arrays:
        return None
    values = as_array(arrays[name], name)
    if values.dtype.kind not in kinds or values.shape != (count,):
        raise UserError(f"array {name}: expected {count} {expected}, got {values.dtype} {values.shape}")
    return values


def check_equal(fields: Mapping[str, Array], name: str, other: str, axis: int, what: str) -> None:
    """Raise UserError unless two arrays have as many rows or columns."""
    count, expected = fields[name].shape[axis], fields[other].shape[axis]
    if count != expected:
        raise UserError(f"array {name} has {count} {what}, but {other} {expected}; both must have as many")


def check_range(part: str, labels: Array, num_known: int) -> None:
    """Raise UserError unless labels lie in 0..N-1, or 0..N for test images."""
    upper = num_known if part == "test" else num_known - 1
    for value in (int(labels.min()), int(labels.max())):
        if not 0 <= value <= upper:
            raise UserError(
                f"array {part}_labels: {value} lies outside 0..{upper}; "
                f"there are {num_known} known classes, and {num_known} or -1 is unknown, which only test images may be"
            )


def check_every_class(part: str, labels: Array, num_known: int) -> None:
    """Raise UserError unless every known class is among labels [B] in 0..N-1."""
    present = np.unique(labels)  # sorted
    if len(present) < num_known:
        absent = next((label for label, found in enumerate(present.tolist()) if label != found), len(present))
        raise UserError(f"array {part}_labels: class {absent} of 0..{num_known - 1} has no image")


def hold_out(train: PartArrays, seed: int) -> tuple[PartArrays, PartArrays]:
    """The training images without `HELD_OUT` of every class, and these; a class with one image keeps it.

    Raises:
        UserError: every class has a single image.
    """
    assert train.labels is not None
    order = np.random.default_rng(derive_seed(seed, "held out")).permutation(len(train))
    mask = np.zeros(len(train), dtype=bool)
    for label in np.unique(train.labels):
        members = order[train.labels[order] == label]
        mask[members[: max(round(HELD_OUT * len(members)), 1) if len(members) > 1 else 0]] = True
    if not mask.any():
        raise UserError("array train_labels: no class has an image to spare for the threshold; add validation arrays")
    return train.select(~mask), train.select(mask)

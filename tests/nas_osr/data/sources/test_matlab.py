"""MATLAB 5 files: what SciPy writes comes back, and damage of any kind is a ValueError."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from nas_osr.data.sources import matlab
from nas_osr.data.sources.matlab import read_matlab

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def mat(compressed: bool = False, **contents: Any) -> bytes:
    written = io.BytesIO()
    savemat(written, contents, do_compression=compressed)
    return written.getvalue()


def read(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    (folder / "x.mat").write_bytes(content)
    return read_matlab(folder / "x.mat", ("X", "y"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(DTYPES).flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_side=4))),
    st.booleans(),
)
def test_arrays_come_back_as_scipy_reads_them(tmp_path: Path, array: np.ndarray, compressed: bool) -> None:
    content = mat(compressed, X=array, text="abc", y=[[1.0]])
    found = read(content, tmp_path)
    expected = loadmat(io.BytesIO(content))
    assert list(found) == ["X", "y"]
    for name, value in found.items():
        assert value.dtype == expected[name].dtype and value.shape == expected[name].shape
        np.testing.assert_array_equal(value, expected[name])


def test_big_endian_by_hand(tmp_path: Path) -> None:
    """2 x 3 numbers of 16 bits; the name is a small element, whose type and size share four bytes."""
    values = struct.pack(">6H", 1, 2, 3, 4, 5, 600) + bytes(4)
    body = struct.pack(">4I", 6, 8, 11, 0) + struct.pack(">2I2i", 5, 8, 2, 3)
    body += struct.pack(">2H", 1, 1) + b"X\0\0\0" + struct.pack(">2I", 4, 12) + values
    content = b"by hand".ljust(124) + b"\1\0MI" + struct.pack(">2I", 14, len(body)) + body
    np.testing.assert_array_equal(read(content, tmp_path)["X"], [[1, 3, 5], [2, 4, 600]])


@pytest.mark.parametrize(
    "value",
    ["text", {"field": 1}, np.array([[1 + 2j]]), np.array([[1, "a"]], dtype=object), csc_matrix([[1.0, 0.0]])],
    ids=["text", "struct", "complex", "cell", "sparse"],
)
def test_other_kinds_are_passed_over_or_refused(tmp_path: Path, value: Any) -> None:
    assert list(read(mat(other=value, y=[[1]]), tmp_path)) == ["y"]
    with pytest.raises(ValueError, match="real numbers|without values"):
        read(mat(X=value), tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_cut_is_noticed(tmp_path: Path, compressed: bool) -> None:
    content = mat(compressed, X=np.arange(12, dtype=np.uint8).reshape(2, 3, 2), y=np.ones((2, 1), np.uint8))
    whole = read(content, tmp_path)
    for length in range(len(content)):
        try:
            found = read(content[:length], tmp_path)
        except ValueError:
            continue
        # what ends between two elements is a shorter file
        assert len(found) < len(whole)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_gives_an_array_or_a_value_error(
    tmp_path: Path, compressed: bool, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(mat(compressed, X=np.arange(24, dtype=np.uint8).reshape(2, 3, 4), y=[[1.0, 2.0]]))
    for at, byte in changes:
        content[at % len(content)] = byte
    try:
        found = read(bytes(content), tmp_path)
    except ValueError:
        return
    assert all(isinstance(value, np.ndarray) and value.size <= 24 for value in found.values())


def test_a_small_file_cannot_unpack_to_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = mat(True, X=np.zeros((1 << 10, 1 << 10), np.uint8))
    monkeypatch.setattr(matlab, "MAX_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="too large"):
        read(content, tmp_path)
    monkeypatch.setattr(matlab, "MAX_BYTES", len(content) - 1)
    with pytest.raises(ValueError, match="too large"):
        read(content, tmp_path)

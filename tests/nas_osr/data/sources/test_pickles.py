"""The restricted unpickler: reads what the pickle module reads, runs nothing."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.data.sources.pickles import _check_memo, read_pickled_batch
from nas_osr.errors import UserError

DATA = np.arange(12, dtype=np.uint8).reshape(3, 4)


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """The bytes of the official files: protocol 2 as Python 2 and numpy 1 wrote it, with 8-bit strings."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    state = b"(" + number(1) + number(data.shape[0]) + number(data.shape[1]) + b"\x86" + dtype + b"\x89"
    state += text(data.tobytes()) + b"t"
    entries = text(b"data") + array + state + b"b"
    entries += text(b"labels") + b"](" + b"".join(map(number, labels)) + b"e"
    entries += text(b"batch_label") + text(b"testing batch 1 of 1")
    return b"\x80\x02}(" + entries + b"u."


def test_official_python2_files(tmp_path: Path) -> None:
    content = python2_pickle(DATA, [1, 2, 3])
    oracle = pickle.loads(content, encoding="latin1")
    assert np.array_equal(oracle["data"], DATA)  # the sample itself is right
    (tmp_path / "batch").write_bytes(content)
    data, lists = read_pickled_batch(tmp_path / "batch")
    assert np.array_equal(data, DATA) and data.dtype == np.uint8
    assert lists == {"labels": [1, 2, 3]}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("old_numpy", [False, True])
def test_every_pickle_protocol(tmp_path: Path, protocol: int, order: str, old_numpy: bool) -> None:
    content = pickle.dumps({"data": DATA.copy(order=order), "fine_labels": [4, 5, 6]}, protocol)
    if old_numpy and protocol < 4:  # later ones carry the length of the name
        content = content.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "batch").write_bytes(content)
    data, lists = read_pickled_batch(tmp_path / "batch")
    assert np.array_equal(data, DATA)
    assert lists["fine_labels"] == [4, 5, 6]


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it-ran"
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Malicious(marker), "labels": []}, protocol))
    with pytest.raises(UserError, match="data_batch_1 cannot be read: it asks for .*mkdir") as caught:
        read_pickled_batch(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the sample was a live one


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([1, 2]),
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 2))}),
        pickle.dumps({"data": np.zeros(4, np.uint8)}),
        pickle.dumps({"data": np.zeros((2, 2), dtype=object)}),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"",
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(UserError, match="batch cannot be read"):
        read_pickled_batch(tmp_path / "batch")


GOOD = python2_pickle(DATA, [1, 2, 3])


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_damage_is_a_user_error_or_another_array(tmp_path_factory: pytest.TempPathFactory, at: int, value: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "batch"
    path.write_bytes(GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
    try:
        data, _ = read_pickled_batch(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert data.dtype == np.uint8 and data.ndim == 2
    path.write_bytes(GOOD[:at])
    with pytest.raises(UserError):
        read_pickled_batch(path)


def numbered_in_order(pickled: bytes) -> bool:
    """The definition, by the standard library's own walk through the operations."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            return False
    return True


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES, st.integers(0, 5), st.data())
def test_the_check_of_the_memo_is_that_of_pickletools(value: object, protocol: int, data: st.DataObject) -> None:
    """On whole pickles, and on pickles with one byte changed that pickletools can still walk through."""
    pickled = pickle.dumps({"data": DATA, "value": value}, protocol)
    _check_memo(pickled)
    at, byte = data.draw(st.integers(0, len(pickled) - 1)), data.draw(st.integers(0, 255))
    changed = pickled[:at] + bytes([byte]) + pickled[at + 1 :]
    try:
        expected = numbered_in_order(changed)
    except Exception:  # an argument that means nothing, or no end: the unpickler's own business
        return
    if expected:
        _check_memo(changed)
    else:
        with pytest.raises(ValueError, match="not numbered in order"):
            _check_memo(changed)


def test_a_memo_with_gaps_takes_no_memory(tmp_path: Path) -> None:
    """Python's unpickler makes room for every number below: 64 GiB here."""
    (tmp_path / "batch").write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(UserError, match="not numbered in order"):
        read_pickled_batch(tmp_path / "batch")

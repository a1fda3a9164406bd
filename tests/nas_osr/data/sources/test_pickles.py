"""The restricted unpickler: reads what the pickle module reads, runs nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.data.sources import open_source
from nas_osr.data.sources.cifar import CIFAR10
from nas_osr.data.sources.pickles import uint8_matrix, unpickle
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


def test_official_python2_files() -> None:
    content = python2_pickle(DATA, [1, 2, 3])
    oracle = pickle.loads(content, encoding="latin1")
    assert np.array_equal(oracle["data"], DATA)  # the sample itself is right
    entries = unpickle(content)
    data = uint8_matrix(entries["data"])
    assert data is not None and np.array_equal(data, DATA) and data.dtype == np.uint8
    assert entries["labels"] == [1, 2, 3]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("old_numpy", [False, True])
def test_every_pickle_protocol(protocol: int, order: str, old_numpy: bool) -> None:
    content = pickle.dumps({"data": DATA.copy(order=order), "fine_labels": [4, 5, 6]}, protocol)
    if old_numpy and protocol < 4:  # later ones carry the length of the name
        content = content.replace(b"numpy._core.", b"numpy.core.")
    entries = unpickle(content)
    data = uint8_matrix(entries["data"])
    assert data is not None and np.array_equal(data, DATA)
    assert entries["fine_labels"] == [4, 5, 6]


def read(folder: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """As the test batch of CIFAR-10."""
    (folder / "test_batch").write_bytes(content)
    return open_source("cifar10").read_official(folder, "test", range(10), None)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "it-ran"
    content = pickle.dumps({"data": Malicious(marker), "labels": []}, protocol)
    with pytest.raises(UserError, match="test_batch cannot be read: it asks for .*mkdir") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()  # the sample was a live one


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([1, 2]),
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 3072)), "labels": [1, 2]}),
        pickle.dumps({"data": np.zeros(6144, np.uint8), "labels": [1, 2]}),
        pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}),
        pickle.dumps({"data": np.zeros((2, 3072), dtype=object), "labels": [1, 2]}),
        pickle.dumps({"data": [[0] * 3072] * 2, "labels": [1, 2]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1.0, 2.0]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": ["1", "2"]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 1 << 70]}),
        pickle.dumps({"data": np.ndarray, "labels": []}),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"",
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="test_batch (cannot be read|is not a cifar10 file|has a label)"):
        read(tmp_path, content)


def test_a_file_that_is_not_the_official_one_is_read_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = pickle.dumps({"data": np.full((2, 3072), 7, np.uint8), "labels": [1, 2]})
    assert read(tmp_path, content)[1].tolist() == [1, 2]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}: test_batch: not the official")
    caplog.clear()
    monkeypatch.setattr(CIFAR10, "checksums", {"test": {"test_batch": hashlib.md5(content).hexdigest()}})
    assert (read(tmp_path, content)[0] == 7).all()
    assert not caplog.records


WHOLE = np.arange(3 * 3072, dtype=np.uint32).astype(np.uint8).reshape(3, 3072)
GOOD = python2_pickle(WHOLE, [1, 2, 3])
PLACES = [*range(len(GOOD) - 9216), *range(len(GOOD) - 200, len(GOOD))]  # not in the middle of the pixels


@given(st.sampled_from(PLACES), st.integers(0, 255))
def test_damage_is_a_user_error_or_another_array(tmp_path_factory: pytest.TempPathFactory, at: int, value: int) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    try:
        images, labels = read(folder, GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert images.dtype == np.uint8 and images.shape[1:] == (3, 32, 32) and len(labels) == len(images)
    with pytest.raises(UserError):
        read(folder, GOOD[:at])


def test_a_memo_with_gaps_takes_no_memory(tmp_path: Path) -> None:
    """Python's unpickler makes room for every number below: 64 GiB here."""
    with pytest.raises(UserError, match="not numbered in order"):
        read(tmp_path, b"\x80\x02}r\xff\xff\xff\xff.")

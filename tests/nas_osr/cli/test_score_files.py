"""`nas-osr score` on files that are hostile, damaged or too large: one line each."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nas_osr.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["score", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def npy(header: str, data: bytes = b"") -> bytes:
    """A .npy file with a header of one's own making."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1), }"
SMALL = "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("test_logits.npy", npy(HUGE))], "test_logits.npy is not as long as it says"),
        ([("test_logits.npy", npy(HUGE.replace("<f8", "|O"), b"cos\nsystem\n(S'true'\ntR."))], "values of type object"),
        ([("test_logits.npy", npy("{'descr': __import__('os').system('true')}"))], "not a .npz file"),
        ([("test_logits.npy", npy(SMALL, bytes(8))), ("test_logits.npy", npy(SMALL, bytes(8)))], "there twice"),
        ([("test_logits.npy", b"nothing of the kind")], "not a .npz file .*magic"),
        ([("../test_logits.npy", npy(SMALL, bytes(8)))], "means nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], members: list[tuple[str, bytes]], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    code, out, error = run(capsys, str(tmp_path / "a.npz"), "--rule", "msp")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert re.search(message, error), error


def test_damaged_and_oversized_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    logits = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    np.savez(stream, test_logits=logits, test_labels=np.arange(80) % 4)
    whole = stream.getvalue()
    files = {
        "cut.npz": whole[:-100],
        "text.npz": b"not a zip file at all",
        "empty.npz": b"",
        "flipped.npz": bytes([*whole[:300], whole[300] ^ 1, *whole[301:]]),  # in the first array: a wrong checksum
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "missing.npz", "."]:
        code, out, error = run(capsys, str(tmp_path / name), "--rule", "msp")
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert "damaged" in error or "cannot read" in error, error
    np.save(tmp_path / "array.npy", np.zeros(3))
    assert "not a .npz file" in run(capsys, str(tmp_path / "array.npy"), "--rule", "msp")[2]
    monkeypatch.setattr("nas_osr.evaluation.user_arrays.MAX_ARRAYS_BYTES", 1000)
    (tmp_path / "whole.npz").write_bytes(whole)
    assert "larger than" in run(capsys, str(tmp_path / "whole.npz"), "--rule", "msp")[2]

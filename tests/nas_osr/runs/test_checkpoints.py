"""Checkpoints: whole, verified, the one before kept, and never executed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.provenance(["nas-osr"], {})
        yield run


def state_of(epoch: int) -> dict:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "best": {"f1": 0.5}}


def test_round_trip_keeps_the_one_before(run):
    assert run.load_checkpoint() is None
    states = [state_of(epoch) for epoch in range(3)]
    for state in states:
        run.save_checkpoint(state)
    loaded = run.load_checkpoint()
    assert loaded["epoch"] == 2
    assert loaded["best"] == {"f1": 0.5}
    assert torch.equal(loaded["model"]["weight"], states[2]["model"]["weight"])
    previous = torch.load(run.path / "checkpoint.previous.pt", weights_only=True)
    assert previous["epoch"] == 1
    model = torch.nn.Linear(3, 2)
    torch.optim.Adam(model.parameters()).load_state_dict(loaded["optimizer"])


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "text", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, damage, caplog):
    for epoch in range(2):
        run.save_checkpoint({"epoch": epoch, "weight": torch.arange(1000.0)})
    path = run.path / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    broken = {"cut": bytes(data[: len(data) // 2]), "flipped bit": bytes(data), "empty": b"", "text": b"hello"}
    if damage == "missing":  # killed between the two renames
        path.unlink()
    else:
        path.write_bytes(broken[damage])
    assert run.load_checkpoint()["epoch"] == 0
    assert ("damaged" in caplog.text) == (damage != "missing")


def test_all_checkpoints_damaged_is_a_clear_error(run):
    for epoch in range(2):
        run.save_checkpoint({"epoch": epoch})
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (run.path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="--overwrite") as caught:
        run.load_checkpoint()
    assert "\n" not in str(caught.value)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trap",))


def test_a_hostile_checkpoint_runs_nothing(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"epoch": Trap()}, run.path / "checkpoint.pt")
    (run.path / "checkpoint.previous.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="damaged"):
        run.load_checkpoint()
    assert not (tmp_path / "trap").exists()


def test_a_state_that_could_not_be_loaded_again_is_never_saved(run):
    run.save_checkpoint({"epoch": 0})
    with pytest.raises(UserError, match="checkpoint"):
        run.save_checkpoint({"epoch": Trap()})
    assert run.load_checkpoint() == {"epoch": 0}
    assert not list(run.path.glob(".*.tmp"))


def test_a_full_disk_leaves_the_last_checkpoint(run):
    run.save_checkpoint({"epoch": 0})
    code = (
        "import resource, signal, sys, torch; from nas_osr import RunFolder, UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
        "try: RunFolder.open(sys.argv[1]).save_checkpoint({'epoch': 1, 'weight': torch.zeros(100_000)})\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True)
    assert "cannot write: File too large" in done.stdout, done.stderr
    assert run.load_checkpoint() == {"epoch": 0}
    assert not list(run.path.glob(".*.tmp"))

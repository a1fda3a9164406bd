"""Two processes on CPUs (gloo), started by torchrun as a user starts them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nas_osr.runs.names import PREVIOUS_CHECKPOINT
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[3]
TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "epochs": 2, "batch_size": 8,
    "strategy_config": {"warmup_epochs": 1}, "limit_per_class": 24, "device": "cpu", "quiet": True,
}  # fmt: skip


def torchrun(*arguments: object, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def search(out: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [f"--{name}={str(value).lower()}" for name, value in {**TINY, **options}.items()]
    return torchrun("-m", "nas_osr", "search", *words, "--out", out)


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("worker")
    done = torchrun(WORKER, out)
    assert done.returncode == 0, done.stderr
    found = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return [{**found[rank], "end": json.loads((out / f"rank-{rank}-end.json").read_text())} for rank in range(2)]


def test_gradients_of_two_ranks_are_those_of_the_whole_batch(worked: list[dict[str, Any]]) -> None:
    for found in worked:
        for objective, distances in found["gradients"].items():
            for step in ("architecture", "weights"):
                assert distances[step] < 1e-5, (objective, step)
                assert distances[f"{step} of own rows alone"] > 0.1, (objective, step)


def test_every_rank_hears_what_the_first_one_did(worked: list[dict[str, Any]]) -> None:
    for found in worked:
        assert found["value"] == 42
        assert found["first"] == found["opening"] == "UserError: the disk is full"


def test_differences_between_ranks_are_found(worked: list[dict[str, Any]]) -> None:
    assert [found["equal"] for found in worked] == ["RuntimeError: weights are not equal on 1 of 2 ranks"] * 2
    message = "UserError: the images of 1 of 2 processes are not those of the first"
    assert [found["same"] for found in worked] == [message] * 2
    assert [found["mean"] for found in worked] == [[0.5, 0.5]] * 2


def test_ranks_end_their_group_before_python_ends(worked: list[dict[str, Any]]) -> None:
    assert [found["end"] for found in worked] == [{"joined": False, "threads": []}] * 2


def unfinish(run: Path) -> None:
    """Make the run of two epochs look as if it had been killed in its second one."""
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**provenance, "finished": None}))
    shutil.copy(run / PREVIOUS_CHECKPOINT, run / "checkpoint.pt")


def ranks_of(run: Path) -> list[int]:
    return [record["ranks"] for record in RunFolder.open(run).read_timing()]


@pytest.mark.slow
def test_search_on_two_ranks_then_resumed_on_one(tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    done = search(two, json=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["out"] == str(two)  # printed once
    assert RunFolder.open(two).finished and RunFolder.open(two).read_provenance()["ranks"] == 2
    assert (two / "architecture.json").exists() and ranks_of(two) == [2, 2]
    assert not list(two.glob(".*.tmp"))

    unfinish(two)
    before = RunFolder.open(two).read_history()
    run_search(SearchRequest(**TINY, out=str(two), resume="auto"), ["nas-osr", "search"])
    assert RunFolder.open(two).finished and ranks_of(two) == [2, 1]
    assert RunFolder.open(two).read_history()[0] == before[0]

    run_search(SearchRequest(**TINY, out=str(one)), ["nas-osr", "search"])
    assert ranks_of(one) == [1, 1]
    # the same images and noise; BatchNorm over half of them is what differs
    losses = [RunFolder.open(run).read_history()[0]["losses"] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2) and losses[0] != losses[1]

    unfinish(one)
    done = search(one, resume="auto")
    assert done.returncode == 0, done.stderr
    assert RunFolder.open(one).finished and ranks_of(one) == [1, 2]


@pytest.mark.slow
def test_retraining_on_two_ranks(tmp_path: Path) -> None:
    options = """random:0 --protocol digits --preset tiny --channels 16 --objective cross_entropy --epochs 1
        --batch_size 16 --limit_per_class 24 --bootstrap 20 --device cpu --quiet --json"""
    out = tmp_path / "run"
    done = torchrun("-m", "nas_osr", "retrain", *options.split(), "--out", out)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["parts"]["split-0"]
    assert json.loads((out / "split-0" / "metrics.json").read_text())["metrics"] == metrics
    assert RunFolder.open(out).finished and (out / "split-0" / "predictions.csv").exists()
    assert RunFolder.open(out / "split-0").read_provenance()["ranks"] == 2


@pytest.mark.slow
def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    """Found by the first rank alone, after the ranks have been joined."""
    (tmp_path / "foreign.txt").write_text("not a run")
    done = search(tmp_path)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("nas-osr:")]
    assert errors == [f"nas-osr: error: {tmp_path}: not empty and not a run folder of nas-osr; choose another --out"]
    assert re.search(r"exitcode +: 2 ", done.stderr)  # torchrun itself ends with 1
    assert done.stdout == "" and "nas_osr/" not in done.stderr  # no traceback
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.txt"]

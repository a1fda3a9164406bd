"""Which executor runs jobs, what each may use, and what is refused before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.sweeps import backends
from nas_osr.sweeps.backends import check_backend, job_resources, open_executor
from nas_osr.sweeps.job_options import JobOptions
from nas_osr.sweeps.local import LocalExecutor
from nas_osr.sweeps.ray_cluster import check_resources, share_gpus

DIGITS = ["--protocol=digits", "--device=cpu", "--quiet"]
PLAN = "about: x\nruns:\n  - {name: a, command: doctor, options: {}}\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores and two GPUs."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("nas_osr.sweeps.local.machine", lambda: {"cores": 8})
    monkeypatch.setattr(backends, "visible_gpus", lambda: ("0", "1"))


@pytest.mark.parametrize(
    ("options", "devices", "expected"),
    [
        ({}, ["auto"], (0, None, ())),
        ({"jobs": 4}, ["auto"], (2, None, ("0", "1"))),
        ({"jobs": 4, "cpus_per_job": 3}, ["cuda", "cpu"], (3, None, ("0", "1"))),
        ({"jobs": 4}, ["cuda:1"], (2, None, ())),  # the user has said where
        ({"jobs": 4}, ["cpu"], (2, 0, ())),
        ({"jobs": 4, "backend": "ray"}, ["auto"], (2, None, ())),
        ({"jobs": 4, "backend": "ray", "gpus_per_job": 0.5}, ["auto"], (2, 0.5, ())),
        ({"jobs": 4, "backend": "ray"}, ["cpu"], (2, 0, ())),
        ({"jobs": 4, "backend": "shared"}, ["auto"], (0, None, ())),
    ],
)
def test_what_each_job_may_use(options: dict[str, Any], devices: list[str], expected: Any, machine: None) -> None:
    found = job_resources(JobOptions(**options), devices)
    assert (found.cores, found.gpus, found.devices) == expected


def test_local_processes_keep_the_lock_open() -> None:
    executor = open_executor("local", 3, print, [7])
    assert isinstance(executor, LocalExecutor) and (executor.processes, executor.hold) == (3, [7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "ray"}, r"needs the package ray: pip install 'nas-osr\[ray\]'"),
        ({"gpus_per_job": 0.5}, "gpus_per_job: Ray alone counts GPUs"),
        ({"backend": "shared", "gpus_per_job": 1}, "gpus_per_job: Ray alone counts GPUs"),
        ({"cpus_per_job": 2}, "cpus_per_job: one job at a time is done in this process"),
    ],
)
def test_what_cannot_be_had(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=message):
        check_backend(JobOptions(**options), in_turn=True)


class Cluster:
    """A Ray of two machines, as far as it is asked what it has."""

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}
        return [
            {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
            {"Alive": True, "Resources": {"CPU": 4.0}},
            gone,
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 12.0, "GPU": 2.0}


def test_all_jobs_of_a_cluster_share_its_gpus() -> None:
    assert [share_gpus(Cluster(), processes) for processes in (1, 2, 3, 4, 5)] == [1, 1, 0.5, 0.5, 1 / 3]


def test_what_no_machine_of_a_cluster_has_is_waited_for_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    check_resources(Cluster(), {"CPU": 8, "GPU": 1}, said.append)
    assert said == []
    check_resources(Cluster(), {"CPU": 9, "GPU": 1}, said.append)
    assert said == ["cpus_per_job: a job asks for 9, no machine of the cluster has more than 8: waiting"]
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(UserError, match="cpus_per_job: a job asks for 9, and Ray here has 8"):
        check_resources(Cluster(), {"CPU": 9}, said.append)


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
@pytest.mark.parametrize("command", ["search --strategy=random", "tabulate tiny", "sweep plan.yaml"])
def test_without_ray_nothing_runs(
    command: str, dry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    more = ["--quiet"] if "sweep" in command else DIGITS
    assert main([*command.split(), *more, "--backend=ray", f"--out={tmp_path / 'out'}", *dry]) == 2
    assert "pip install 'nas-osr[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search --strategy=pas --backend=ray", "backend: strategy pas trains one network, in this process: leave it"),
        ("search --strategy=random --backend=ray --gpus_per_job=2", "gpus_per_job must lie in [0, 1], got 2"),
        ("tabulate tiny --backend=shared --jobs=2", "each process does one job at a time: leave --jobs out"),
        ("tabulate tiny --backend=shared --overwrite", "--overwrite would take the folder from the other processes"),
        ("sweep plan.yaml --backend=shared --jobs=2", "each process does one job at a time: leave --jobs out"),
        ("sweep plan.yaml --gpus_per_job=1", "gpus_per_job: Ray alone counts GPUs"),
    ],
)
def test_what_does_not_go_together(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    more = ["--quiet"] if "sweep" in command else DIGITS
    assert main([*command.split(), *more, "--dry_run"]) == 2
    assert message in capsys.readouterr().err

"""Free memory read from made-up system files, and which needs are refused, warned of or let through."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from nas_osr.cost.memory import GIB, available_memory, check_memory, group_memory, system_memory
from nas_osr.errors import UserError


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_system_counts_available_memory_and_swap(tmp_path: Path) -> None:
    assert system_memory(tmp_path) is None
    write(tmp_path, {"meminfo": "MemTotal: 9000 kB\nMemAvailable:    3000 kB\nSwapFree:  500 kB\n"})
    assert system_memory(tmp_path) == 3500 * 1024


def test_the_tightest_group_of_version_2_counts_without_what_can_be_dropped(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/outer/inner\n"})
    groups = write(
        tmp_path / "cgroup",
        {
            "memory.max": "max\n",
            "memory.current": "1\n",
            "outer/memory.max": "1000\n",
            "outer/memory.current": "900\n",
            "outer/memory.stat": "anon 1\ninactive_file 300\n",
            "outer/inner/memory.max": "5000\n",
            "outer/inner/memory.current": "100\n",
        },
    )
    assert group_memory(proc, groups) == 1000 - (900 - 300)
    (groups / "outer/memory.max").write_text("max\n")
    assert group_memory(proc, groups) == 4900
    (groups / "outer/inner/memory.max").write_text("max\n")
    assert group_memory(proc, groups) is None


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/docker/of-the-host\n"})
    groups = write(tmp_path / "cgroup", {"memory.max": "800\n", "memory.current": "1000\n"})
    assert group_memory(proc, groups) == 0


def test_groups_of_version_1_are_read_too(tmp_path: Path) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": "3:cpu,cpuacct:/job\n2:memory:/job\n"})
    names = {"limit_in_bytes": "700\n", "usage_in_bytes": "250\n", "stat": "total_inactive_file 50\n"}
    groups = write(tmp_path / "cgroup", {f"memory/job/memory.{name}": text for name, text in names.items()})
    assert group_memory(proc, groups) == 500


def test_this_machine_has_memory() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("needs /proc")
    available = available_memory(torch.device("cpu"))
    assert available is not None and 0 < available < 2**50


@pytest.mark.parametrize(
    ("needed", "available", "outcome"),
    [
        (7.9, 10, "silent"),
        (8.1, 10, "warned"),
        (12.4, 10, "warned"),
        (12.6, 10, "refused"),
        (1000, None, "silent"),
        (1, 0, "refused"),
    ],
)
def test_only_what_clearly_does_not_fit_is_refused(
    needed: float, available: float | None, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    has = None if available is None else int(available * GIB)
    with caplog.at_level(logging.WARNING):
        if outcome == "refused":
            with pytest.raises(
                UserError, match=r"needs about [\d.]+ GiB; cuda:0 has [\d.]+ GiB free: lower --batch_size"
            ):
                check_memory(int(needed * GIB), has, "cuda:0", "--batch_size")
        else:
            check_memory(int(needed * GIB), has, "cuda:0", "--batch_size")
    assert ("--batch_size" in caplog.text) == (outcome == "warned")

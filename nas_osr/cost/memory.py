"""How much memory a device has left, and whether a run fits: asked before anything is written."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from nas_osr.cost import GIB
from nas_osr.errors import UserError

logger = logging.getLogger(__name__)

REFUSED = 1.25  # an estimate this many times what is free cannot be saved by its error
CLOSE = 0.8  # from this share on, other processes or fragmentation may be too much
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# Of control groups: where in `CGROUPS` they are, the files of limit and use, and what in memory.stat can be dropped.
VERSION_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("", "memory.max", "memory.current", "inactive_file")


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take on a device; None where the system does not say.

    A GPU: what the driver has free, and what torch holds without using it. A CPU (Linux): what the system calls
    available, with its swap, or less where a control group (a container, a batch system) allows less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    amounts = [amount for amount in (system_memory(PROC), group_memory(PROC, CGROUPS)) if amount is not None]
    return min(amounts, default=None)


def system_memory(proc: Path) -> int | None:
    """Bytes of memory and swap that /proc/meminfo calls available."""
    file = proc / "meminfo"
    if not file.is_file():
        return None
    entries = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    amounts = [int(entries[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree") if name in entries]
    return sum(amounts) if "MemAvailable" in entries else None


def group_memory(proc: Path, groups: Path) -> int | None:
    """Bytes left below the limits of this process's control groups, version 2 or 1; None without a limit.

    File contents that the kernel can drop at once do not count as used.
    """
    file = proc / "self" / "cgroup"
    if not file.is_file():
        return None
    left: list[int] = []
    for entry in file.read_text().splitlines():
        _, controllers, path = entry.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        where, limit_name, used_name, dropped_name = VERSION_1 if controllers else VERSION_2
        root = groups / where
        # inside a container the path may name the host's folder, which is not there: its own is the root
        inner = root / path.lstrip("/")
        for folder in [inner, *inner.parents]:
            if folder != root and root not in folder.parents:
                break
            limit, used, dropped = folder / limit_name, folder / used_name, folder / "memory.stat"
            if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
                entries = dict(line.split() for line in dropped.read_text().splitlines()) if dropped.is_file() else {}
                taken = int(used.read_text()) - int(entries.get(dropped_name, 0))
                left.append(max(0, int(limit.read_text()) - taken))
    return min(left, default=None)


def check_memory(needed: int, available: int | None, device: str, mend: str) -> None:
    """Warn when a run comes close to what its device has, and refuse it when it clearly needs more.

    Args:
        needed: estimated bytes.
        available: bytes; None is unknown, and nothing is said.
        device: its name.
        mend: options that lower the need, as text.

    Raises:
        UserError: needed is more than `REFUSED` times what is available.
    """
    if available is None or needed < CLOSE * available:
        return
    text = f"this run needs about {needed / GIB:.1f} GiB; {device} has {available / GIB:.1f} GiB free"
    if needed > REFUSED * available:
        raise UserError(f"{text}: lower {mend}")
    logger.warning("%s: should it run out of memory, lower %s", text, mend)

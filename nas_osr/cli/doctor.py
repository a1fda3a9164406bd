"""`nas-osr doctor`: what a bug report needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nas_osr
from nas_osr.cli.show import show_json, show_yaml
from nas_osr.cost import GIB
from nas_osr.data.sources import SOURCES, open_source, source_class
from nas_osr.data.sources.base import SOURCE_PARTS
from nas_osr.files.paths import user_path
from nas_osr.runs import provenance


def doctor(data_dir: Path | None = None, json: bool = False) -> None:
    """Show versions, machine, devices, the image folder and free disk space: what a bug report needs.

    Args:
        data_dir: folder of the images; the environment variable NAS_OSR_DATA when not given.
        json: print one JSON object.
    """
    report = {
        "nas-osr": nas_osr.__version__,
        "commit": provenance.git_commit(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "torch": describe_torch(),
        "graphviz program (dot)": shutil.which("dot") or "none: the built-in fallback draws",
        "images": describe_images(data_dir),
        "free disk here (GiB)": round(shutil.disk_usage(".").free / GIB, 1),
    }
    if json:
        show_json(report)
    else:
        show_yaml(report)


def describe_torch() -> dict[str, Any]:
    """Devices and threads as torch sees them."""
    import torch

    devices = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory (GiB)": round(torch.cuda.get_device_properties(index).total_memory / GIB, 1),
            "bf16": torch.cuda.is_bf16_supported(),
        }
        for index in range(torch.cuda.device_count())
    ]
    return {
        "threads": torch.get_num_threads(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT"),
        "built for CUDA": torch.version.cuda,
        "cuda devices": devices,
    }


def describe_images(data_dir: Path | None) -> dict[str, Any]:
    """Where images are looked for, and the sources that are found there."""
    setting = data_dir or os.environ.get("NAS_OSR_DATA")
    if setting is None:
        return {"folder": None, "hint": "give --data_dir, or set NAS_OSR_DATA"}
    folder = user_path(setting)
    found = [
        f"{source} {part}"
        for source in (SOURCES if folder.is_dir() else ())
        for part in SOURCE_PARTS
        if source_class(source).counts
        and source_class(source).comes_with is None  # own images have no place by name
        and open_source(source, folder).find(part) is not None
    ]
    return {"folder": str(folder), "there": folder.is_dir(), "found": found}

"""How `--dry_run` shows what would run and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_osr.cli.show import show_yaml

GIB = 2**30


def show_plan(result: Mapping[str, Any]) -> None:
    """Print a plan as YAML, and its estimate as comments below."""
    show_yaml({name: value for name, value in result.items() if name != "estimate"})
    for text in estimate_lines(result["estimate"]):
        print(f"# {text}")


def estimate_lines(estimate: Mapping[str, Any]) -> list[str]:
    """An estimate (`nas_osr.cost.estimate.describe_estimate`) in a few lines."""
    name = estimate["device_name"] or f"{estimate['device']}, {estimate['cpu_threads']} threads"
    memory = {part: f"{amount / GIB:.2f}" for part, amount in estimate["memory_bytes"].items()}
    parts = ", ".join(f"{part} {amount}" for part, amount in memory.items() if part != "total")
    available = estimate["available_bytes"]
    has = "" if available is None else f"; {estimate['device']} has {available / GIB:.2f} GiB free"
    lines = [f"{name}, {estimate['precision']}: {estimate['parameters'] / 1e6:.2f} million parameters"]
    lines += [
        f"{kind}: {step['count']} steps of {step['images']} images, {step['flops'] / 1e9:.4g} GFLOP and about "
        f"{step['seconds']:.2g} s each"
        for kind, step in estimate["steps"].items()
    ]
    lines.append(
        f"in all: {estimate['flops'] / 1e12:.4g} TFLOP, about {duration(estimate['seconds'])}, "
        f"of it scoring {duration(estimate['scoring_seconds'])}"
    )
    lines.append(f"memory: about {memory['total']} GiB ({parts}){has}")
    return lines


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"

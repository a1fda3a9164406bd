"""The figures of a folder that `gpu.sh` wrote, as short tables: python3 tests/benchmarks/gpu_figures.py OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any


def lines_of(path: Path) -> list[Any]:
    """The JSON objects of a file of lines; a last one that was cut off is left out."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def show_bench(log: Path) -> None:
    """A line for each kind of step."""
    results = [item for item in lines_of(log) if isinstance(item, dict)]
    for phase in ("search", "retrain"):
        for result in (item[phase] for item in results if phase in item):
            steps = dict(result["steps"]) | ({"both": result["pair"]} if "pair" in result else {})
            for name, step in steps.items():
                memory = f"{step['peak_memory_bytes'] / 2**30:5.1f} GiB" if "peak_memory_bytes" in step else ""
                print(
                    f"{log.stem:22} {name:12} {step['images']:4} images {1000 * step['seconds']:8.2f} ms "
                    f"{step['images_per_second']:9.0f} images/s {step['launches']:6} launches "
                    f"{step['gmac_per_image']:6.2f} GMAC/image {100 * step['share_of_peak']:5.1f} % of peak {memory}"
                )


def show_run(folder: Path) -> None:
    """Seconds of an epoch, first and median of the last half, and the last losses and scores."""
    for timing in sorted(folder.rglob("timing.jsonl")):
        epochs = [item for item in lines_of(timing) if "seconds" in item]  # the last line is of the evaluation
        history = lines_of(timing.parent / "history.jsonl")
        if not epochs or not history:
            continue
        later = epochs[len(epochs) // 2 :]
        last = history[-1]
        scores = {key: round(last[key], 4) for key in ("f1", "discrete_f1", "validation_accuracy") if last.get(key)}
        if (timing.parent / "metrics.json").exists():
            metrics = json.loads((timing.parent / "metrics.json").read_text())["metrics"]
            scores |= {key: round(metrics[key], 4) for key in ("auroc", "closed_set_accuracy")}
        print(
            f"{folder.name:22} {len(epochs):3} epochs, first {epochs[0]['seconds']:.2f} s, later "
            f"{median(item['seconds'] for item in later):.2f} s of which training "
            f"{median(item['training_seconds'] for item in later):.2f} s, all "
            f"{sum(item['seconds'] for item in epochs):.1f} s, {later[-1]['images']} images; {last['phase']} {scores} "
            f"losses { ({key: round(value, 4) for key, value in last['losses'].items()}) }"
        )


def show_trouble(log: Path) -> None:
    """What went wrong or was said beside the results."""
    words = ("error", "warn", "failed", "passed", "captured", "plainly", "traceback")
    found = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("{")]
    for line in [line for line in found if any(word in line.lower() for word in words)][-12:]:
        print(f"  {log.stem}: {line[:300]}")


def main(out: Path) -> None:
    """Print everything there is."""
    for log in sorted(out.glob("bench*.log")):
        show_bench(log)
    for folder in sorted(item for item in out.iterdir() if item.is_dir()):
        show_run(folder)
    if (out / "kernels.log").exists():
        print((out / "kernels.log").read_text(errors="replace")[-6000:])
    for log in sorted(out.glob("*.log")):
        show_trouble(log)
    print((out / "parts.txt").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

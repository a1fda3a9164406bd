"""Seconds from a command to its answer: `nas-osr --help`, and the first training step of a search at preset `small`.

    NAS_OSR_DATA=/path/to/images python tests/benchmarks/startup.py
    python tests/benchmarks/startup.py --protocol digits

Each is run in turns with `python -c "import torch"` and shown as a multiple of it, so that a slow disk or a busy
machine weighs on both. The search runs in its own process, which stops when its first step has ended.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# what `nas-osr search` does, until the first call of the optimisers in the training loop has ended
FIRST_STEP = """
import os, sys
from nas_osr.cli import main, search

def stop(*arguments, **settings):
    result = step(*arguments, **settings)
    os._exit(0)

command = search.search
def with_stop(*arguments):
    global step
    import nas_osr.strategies.run
    # the check of memory, which takes steps of its own, has the real function
    import nas_osr.training.epochs as training
    step, training.weight_step = training.weight_step, stop
    command(*arguments)

search.search = with_stop
sys.exit(main.main(sys.argv[1:]))
"""


def measure(command: list[str], expected: int = 0) -> tuple[float, float]:
    """Seconds on the clock and processor seconds of a command that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != expected:
        raise SystemExit(f"{command}: {done.stderr}")
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", default="cifar10")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many")
    options = parser.parse_args()
    python = [sys.executable]
    with tempfile.TemporaryDirectory() as folder:
        search = ["search", "--protocol", options.protocol, "--preset", options.preset, "--quiet"]
        commands = {
            "python -c ''": [*python, "-c", ""],
            "import torch": [*python, "-c", "import torch"],
            "nas-osr --help": [*python, "-m", "nas_osr", "--help"],
            "first step": [*python, "-c", FIRST_STEP, *search, "--overwrite", "--out", f"{folder}/run"],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                found[name].append(measure(command))
    print(f"{'command':20}{'seconds':>10}{'processor s':>13}{'of import torch':>17}")
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    for name, (seconds, worked) in medians.items():
        print(f"{name:20}{seconds:10.2f}{worked:13.2f}{seconds / medians['import torch'][0]:17.2f}")


if __name__ == "__main__":
    main()

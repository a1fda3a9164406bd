"""Steps with and without memory that is kept from step to step (`nas_osr.cli.main.keep_memory`).

    python tests/benchmarks/kept_memory.py --preset small --rounds 4

Each round runs `nas-osr bench --threads 1` twice at once, one process to a core, and the next round swaps the cores, so
that both meet the same disturbances. Shown are medians over the rounds, a ratio being that of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

# a setting that is glibc's own anyway: it only says that the user has decided
WAYS = {"given back": {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}, "kept": {}}


def start(way: str, core: int, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nas_osr", "bench", "--threads", "1", "--json", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **WAYS[way]},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def read(process: subprocess.Popen[str]) -> dict[str, dict[str, float]]:
    """The steps that a process has measured, and the pair of search steps, by name."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    result = json.loads(output)
    search = result["search"]
    return {**search["steps"], "pair": search["pair"], **result["retrain"]["steps"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--architecture", default="random:0")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    arguments = ["--preset", options.preset, "--architecture", options.architecture, "--steps", "9", "--warmup", "3"]
    rounds = []
    for turn in range(options.rounds):
        ways = list(WAYS)[:: 1 if turn % 2 == 0 else -1]
        running = {way: start(way, core, arguments) for way, core in zip(ways, cores, strict=True)}
        rounds.append({way: read(process) for way, process in running.items()})
    print(f"{'step':<14}{'given back':>20}{'kept':>20}{'ratio':>8}")
    for step in rounds[0]["kept"]:
        texts = []
        for way in WAYS:
            seconds, share = (
                statistics.median(turn[way][step][key] for turn in rounds) for key in ("seconds", "share_of_peak")
            )
            texts.append(f"{seconds:.3f} s, {share:.1%}")
        ratio = statistics.median(
            turn["given back"][step]["seconds"] / turn["kept"][step]["seconds"] for turn in rounds
        )
        print(f"{step:<14}{texts[0]:>20}{texts[1]:>20}{ratio:>8.2f}")


if __name__ == "__main__":
    main()

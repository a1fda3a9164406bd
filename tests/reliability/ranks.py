"""Search on two ranks again and again while other processes load every core, and look at how the ranks end.

    python tests/reliability/ranks.py --runs 20

Every run is `torchrun --nproc-per-node 2 -m nas_osr search` on the bundled digits (gloo). Exit code 0 if each ended
with 0 and stderr says nothing of a rank that was aborted or raised an error; the report is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SEARCH = [
    "search", "--protocol=digits", "--preset=tiny", "--layers=3", "--epochs=2", "--warmup_epochs=1", "--batch_size=8",
    "--limit_per_class=24", "--device=cpu", "--quiet",
]  # fmt: skip
BAD_END = re.compile(r"terminate called|abort|SIG[A-Z]+|Traceback|destroy_process_group", re.IGNORECASE)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Inside, so many processes do nothing but use a core."""
    load = [subprocess.Popen(["yes"], stdout=subprocess.DEVNULL) for _ in range(processes)]
    try:
        yield
    finally:
        for process in load:
            process.kill()
            process.wait()


def search(out: Path, root: Path) -> tuple[int, str]:
    """The exit code and stderr of a search on two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "nas_osr", *SEARCH]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, f"--out={out}"], capture_output=True, text=True, timeout=900, check=False, cwd=root, env=environment
    )
    return done.returncode, done.stderr


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--busy", type=int, default=2, help="processes that load the cores meanwhile")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to run")
    options = parser.parse_args()
    clean = 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nas-osr-ranks-") as folder, busy(options.busy):
        for index in range(options.runs):
            code, errors = search(Path(folder) / str(index), options.root)
            if code == 0 and not BAD_END.search(errors):
                clean += 1
            else:
                print(f"run {index}: exit code {code}\n{errors}", file=sys.stderr)
    print(json.dumps({"runs": options.runs, "clean": clean, "seconds": round(time.monotonic() - started)}))
    return 0 if clean == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())

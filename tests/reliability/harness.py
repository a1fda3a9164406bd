"""Kill runs at random moments, resume them, and compare what they leave with runs that nobody disturbed.

    python tests/reliability/harness.py --kills 50 --seed 1

Every run is a process of its own, forked from this one, which has imported what takes long; it ends by SIGKILL. The
moments are uniform over the time that the undisturbed run took. Checkpoints come after every step, and every second
folder is written slowly (pauses around each flush and rename), so that many kills fall into the writing of a file.

What is compared: history, architecture, configuration, metrics and predictions byte for byte, and everything in the
last checkpoint (weights, alphas, betas, optimisers) bit for bit. Exit code 0 if all are equal; the report is one line
of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

COMMON = [
    "--protocol=digits", "--preset=tiny", "--limit_per_class=10", "--batch_size=8", "--epochs=2", "--device=cpu",
    "--threads=1", "--quiet", "--checkpoint_minutes=1e-9",
]  # fmt: skip
SEARCH = ["search", *COMMON, "--layers=3", "--channels=16", "--rule_sample=20"]
RETRAIN = ["retrain", "random:0", *COMMON, "--channels=16", "--bootstrap=0"]
NARROW_GAN = ["--objective_config.gan_width=4", "--objective_config.gan_latent=8"]
BILEVEL = [*SEARCH, "--strategy_config.warmup_epochs=1"]
SCENARIOS: dict[str, list[str]] = {
    "search-pas": [*BILEVEL, "--strategy=pas"],
    "retrain-gan": [*RETRAIN, "--objective=confidence", *NARROW_GAN, "--splits=0-1"],
    "retrain-moco": [*RETRAIN, "--objective=moco", "--objective_config.queue_size=40"],
    "search-darts": [*BILEVEL, "--strategy=darts", "--objective=cross_entropy"],
    "search-random": [*SEARCH, "--strategy=random", "--strategy_config.trials=2", "--objective=cross_entropy"],
    "retrain-vae": [*RETRAIN, "--objective=vae_contrastive", "--splits=0-1"],
    "retrain-gradmix": [
        *RETRAIN, "--objective=supcon", "--objective_config.mix=gradmix", "--objective_config.augment=true",
    ],
    "retrain-pretrained-gan": [
        *RETRAIN, "--objective=confidence", *NARROW_GAN, "--objective_config.source=pretrained_gan",
        "--objective_config.gan_epochs=1",
    ],
    "retrain-gmvae": [*RETRAIN, "--objective=gmvae", "--objective_config.subclusters=2"],
    "search-moco": [*BILEVEL, "--objective=moco", "--objective_config.queue_size=40"],
    "retrain-crosr": [*RETRAIN, "--objective=crosr"],
    "retrain-cac": [*RETRAIN, "--objective=cac", "--recipe=cac"],
    "retrain-openmax": [*RETRAIN, "--objective=cross_entropy", "--rule=openmax", "--rule_config.tail=5"],
}  # fmt: skip
SLOW_MODULES = ("nas_osr.retrain.run", "nas_osr.strategies.run", "torch.utils.tensorboard")  # to import, once for all
COMPARED = (
    "history.jsonl", "architecture.json", "config.yaml", "metrics.json", "predictions.csv", "summary.json",
    "model.json", "model.safetensors", "README.md",
)  # fmt: skip


def start(arguments: list[str], out: Path, slow: float = 0.0) -> int:
    """Fork a process that runs `nas-osr ARGUMENTS --out=OUT --resume=auto`; its id. Its output is in OUT.log."""
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if slow:
            write_slowly(slow)
        from nas_osr.cli.main import main

        code = main([*arguments, f"--out={out}", "--resume=auto"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def write_slowly(seconds: float) -> None:
    """Let this process pause before it flushes a file, and before and after it renames one."""
    flush, rename = os.fsync, os.replace

    def slow_flush(descriptor: Any) -> None:
        time.sleep(seconds)
        flush(descriptor)

    def slow_rename(*arguments: Any) -> None:
        time.sleep(seconds)
        rename(*arguments)
        time.sleep(seconds)

    os.fsync, os.replace = slow_flush, slow_rename


def wait(process: int, seconds: float | None = None) -> int | None:
    """The exit code of a process (negative: the signal that ended it); None if it still runs after `seconds`."""
    until = time.monotonic() + seconds if seconds is not None else None
    while until is None or time.monotonic() < until:
        done, status = os.waitpid(process, 0 if until is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def differences(one: Path, other: Path) -> list[str]:
    """What two run folders, parts included, do not share to the last bit."""
    found = []
    names = {str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*") if path.name in COMPARED}
    for name in sorted(names):
        if not ((one / name).is_file() and (other / name).is_file()):
            found.append(f"{name}: only one has it")
        elif (one / name).read_bytes() != (other / name).read_bytes():
            found.append(f"{name}: other bytes")
    found += [f"{path.relative_to(other)}: left behind" for path in other.rglob(".*.tmp")]
    checkpoints = sorted(str(path.relative_to(one)) for path in one.rglob("checkpoint.pt"))
    if not checkpoints or "history.jsonl" not in {Path(name).name for name in names}:
        found.append("nothing to compare")
    for name in checkpoints:
        found += [f"{name}: {where}" for where in unequal(load(one / name), load(other / name))]
    return found


def load(path: Path) -> Any:
    """What a checkpoint holds."""
    import torch

    return torch.load(path, weights_only=True)


def unequal(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nests of tensors and plain values differ in a bit."""
    import torch

    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return [item for key in one for item in unequal(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [item for index in range(len(one)) for item in unequal(one[index], other[index], f"{where}/{index}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)
    else:
        same = type(one) is type(other) and one == other
    return [] if same else [where]


def raw(tensor: Any) -> bytes:
    """The bytes of a tensor, so that NaN equals itself and -0 is not 0."""
    return tensor.contiguous().numpy().tobytes()


def disturb(
    arguments: list[str], reference: Path, out: Path, duration: float, kills: int, draw: random.Random, slow: float
) -> dict[str, int]:
    """Run into `out`, killed at random moments and resumed, until it has ended by itself or `kills` have been made.

    Returns:
        how many kills there were, and how many left a file half written under its temporary name.
    """
    counts = {"kills": 0, "while_writing": 0}
    while counts["kills"] < kills:
        process = start(arguments, out, slow)
        code = wait(process, draw.uniform(0.0, duration))
        if code is None:
            os.kill(process, signal.SIGKILL)
            code = wait(process)
            if code == -signal.SIGKILL:
                counts["kills"] += 1
                counts["while_writing"] += any(out.rglob(".*.tmp")) if out.exists() else 0
                continue
        break
    else:
        code = wait(start(arguments, out))
    if code:
        raise SystemExit(f"{out}: exit code {code}: {Path(f'{out}.log').read_text()[-2000:]}")
    return counts


def run_harness(
    kills: int, seed: int, folder: Path, report: Callable[[str], None], names: list[str] | None = None
) -> dict[str, Any]:
    """Go through the scenarios again and again until there have been enough kills.

    Returns:
        kills, while_writing: counts; runs: how many were disturbed; different: what was not equal, by run.
    """
    import torch

    for module in SLOW_MODULES:
        importlib.import_module(module)

    torch.set_num_threads(1)
    draw = random.Random(seed)
    durations: dict[str, float] = {}
    result: dict[str, Any] = {"seed": seed, "kills": 0, "while_writing": 0, "runs": 0, "different": {}}
    chosen = names or list(SCENARIOS)
    while result["kills"] < kills:
        name = chosen[result["runs"] % len(chosen)]
        reference, out = folder / name, folder / f"{name}-{result['runs']}"
        if name not in durations:
            started = time.monotonic()
            code = wait(start(SCENARIOS[name], reference))
            durations[name] = time.monotonic() - started
            if code != 0:
                raise SystemExit(f"{name}: exit code {code}: {Path(f'{reference}.log').read_text()[-2000:]}")
        slow = 0.01 * (result["runs"] % 2)
        share = min(kills - result["kills"], max(1, round(kills / len(chosen))))
        counts = disturb(SCENARIOS[name], reference, out, durations[name], share, draw, slow)
        different = differences(reference, out)
        result["runs"] += 1
        result["kills"] += counts["kills"]
        result["while_writing"] += counts["while_writing"]
        if different:
            result["different"][out.name] = different
        report(f"{out.name}: {counts['kills']} kills, {'equal' if not different else '; '.join(different)}")
        shutil.rmtree(out)
    return result


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--scenarios", nargs="*", choices=list(SCENARIOS), help="all when not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nas-osr-kills-") as folder:
        result = run_harness(
            options.kills, options.seed, Path(folder), lambda line: print(line, file=sys.stderr), options.scenarios
        )
    print(json.dumps(result))
    return 1 if result["different"] else 0


if __name__ == "__main__":
    sys.exit(main())

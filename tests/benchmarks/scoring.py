"""Seconds and memory of every scoring rule: fit, threshold and judging, on made-up outputs and one thread.

    python tests/benchmarks/scoring.py                                                # a CIFAR-10 split
    python tests/benchmarks/scoring.py --train 100000 --test 10000 --embedding 512    # the bounds on memory

Every rule runs in a process of its own, whose peak memory above its inputs is what the last column shows (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from nas_osr.evaluation.judging import judge
from nas_osr.outputs import Outputs
from nas_osr.scoring import RULES, make_rule, rule_class

#: Beside every rule at its defaults, what k-means of several clusters per class costs.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in RULES if not rule_class(name).observes},  # which need a network
    "nc_distance, 3 clusters": ("nc_distance", {"subclusters": 3}),
}


def make_outputs(size: int, classes: int, embedding: int, latent: int, seed: int) -> tuple[Outputs, Tensor]:
    """What a network with about 95 % accuracy might give, and the targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (size,), generator=generator)

    def scattered(width: int, distance: float) -> Tensor:
        centres = distance * torch.randn(classes, width, generator=torch.Generator().manual_seed(width)) / width**0.5
        return centres[targets].add_(torch.randn(size, width, generator=generator), alpha=width**-0.5)

    return Outputs(
        logits=5.0 * torch.eye(classes)[targets] + 1.5 * torch.randn(size, classes, generator=generator),
        embedding=scattered(embedding, 1.0),
        latent_mean=scattered(latent, 1.0) * latent**0.5,
        class_reconstruction_error=torch.rand(size, classes, generator=generator),
    ), targets


def peak() -> float:
    """The largest memory of this process so far, in MiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(variant: str, parts: dict[str, tuple[Outputs, Tensor]], answer: Connection) -> None:
    """Send the processor seconds of fit, threshold and judging, and the peak MiB above the start."""
    name, settings = VARIANTS[variant]
    rule, before, clocks = make_rule(name, settings), peak(), [time.process_time()]
    rule.fit(*parts["train"])
    clocks.append(time.process_time())
    rule.set_threshold(*parts["validation"])
    clocks.append(time.process_time())
    judge(rule, parts["test"][0])
    clocks.append(time.process_time())
    answer.send([*(end - start for start, end in pairwise(clocks)), peak() - before])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, size in {"train": 27_000, "validation": 3_000, "test": 10_000}.items():
        parser.add_argument(f"--{part}", type=int, default=size, help="images")
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--embedding", type=int, default=256, help="dimensions")
    parser.add_argument("--latent", type=int, default=32, help="dimensions")
    parser.add_argument("--only", choices=VARIANTS, action="append", help="may be repeated; the default is all")
    options = parser.parse_args()
    torch.set_num_threads(1)

    # what the first use of a library costs is no rule's
    import scipy.optimize  # noqa: F401
    import sklearn.cluster  # noqa: F401

    widths = (options.classes, options.embedding, options.latent)
    parts = {
        part: make_outputs(getattr(options, part), *widths, seed)
        for seed, part in enumerate(("train", "validation", "test"))
    }
    print(f"{'rule':24}{'fit s':>10}{'threshold s':>13}{'judge s':>10}{'peak MiB':>10}")
    context = multiprocessing.get_context("fork")  # the children share the inputs
    for variant in options.only or VARIANTS:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=measure, args=(variant, parts, sender))
        child.start()
        sender.close()
        fit, threshold, judging, memory = receiver.recv()
        child.join()
        print(f"{variant:24}{fit:10.3f}{threshold:13.3f}{judging:10.3f}{memory:10.0f}", flush=True)


if __name__ == "__main__":
    main()

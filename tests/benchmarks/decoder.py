"""What the decoder's fast ways gain: processor seconds of plain and fast, in turns, and their ratio; one thread.

    python tests/benchmarks/decoder.py                                # preset small, seven reconstructions an image
    python tests/benchmarks/decoder.py --batch_size 32 --rounds 5     # sooner, and less steady

`decoder` is a forward and a backward pass of the decoder alone, `step` a retraining step with it. `composed` has the
first linear map and the first convolution as one matrix, `phases` the last stage on the coarse grid, `fast` both.
Much of what is gained is traffic to memory, so that the ratios vary with what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from nas_osr.cost.steps import leave_no_trace
from nas_osr.data.protocols import make_protocol
from nas_osr.objectives.parts import decoder as decoder_module
from nas_osr.objectives.parts.decoder import Decoder
from nas_osr.objectives.vae_contrastive import VAEContrastiveConfig
from nas_osr.retrain.retrain_cost import make_step
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.training.fabric import make_fabric

#: Whether the first convolution is composed, and whether the last stage is computed by phases.
WAYS = {"plain": (False, False), "composed": (True, False), "phases": (False, True), "fast": (True, True)}


@contextmanager
def way(name: str) -> Iterator[None]:
    """Inside: the decoder takes this way as far as it would take it by itself."""
    composed, phases = WAYS[name]
    pays, narrow = Decoder.composing_pays, decoder_module.is_narrow
    with (
        mock.patch.object(Decoder, "composing_pays", lambda self, rows: composed and pays(self, rows)),
        mock.patch.object(decoder_module, "is_narrow", lambda stage, x: phases and narrow(stage, x)),
    ):
        yield


def make_decoder_pass(channels: int, rows: int) -> Callable[[], None]:
    """Forward and backward of a decoder of 32x32 colour images, as the VAE contrastive objective has it."""
    config = VAEContrastiveConfig()
    latent_dim = config.class_dim + config.instance_dim
    decoder = Decoder(latent_dim, channels, (3, 32, 32), {}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    latents = torch.randn(rows, latent_dim, requires_grad=True)
    gradient: Tensor = torch.randn(rows, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        decoder.logits(latents, {}).backward(gradient)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=128, help="images")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with leave_no_trace():
        fabric = make_fabric("cpu", "32-true", 1)
        protocol = make_protocol("cifar10")
        config = RetrainRequest(preset="small", architecture="random:0", batch_size=options.batch_size)
        plan = plan_measured(config, protocol)
        channels = plan.objective.settings.decoder_channels
        calls = {
            "decoder": make_decoder_pass(channels, options.batch_size * (protocol.num_known + 1)),
            "step": make_step(plan, fabric).run,
        }
        seconds: dict[tuple[str, str], list[float]] = {(what, name): [] for what in calls for name in WAYS}
        for turn in range(options.rounds + 1):  # the first does not count
            for what, name in seconds:
                with way(name):
                    started = time.process_time()
                    calls[what]()
                    elapsed = time.process_time() - started
                if turn:
                    seconds[what, name].append(elapsed)
    print(f"{'what':10}{'way':10}{'seconds':>10}{'plain / way':>13}")
    for (what, name), values in seconds.items():
        median, plain = statistics.median(values), statistics.median(seconds[what, "plain"])
        print(f"{what:10}{name:10}{median:10.4f}{plain / median:13.2f}")


if __name__ == "__main__":
    main()

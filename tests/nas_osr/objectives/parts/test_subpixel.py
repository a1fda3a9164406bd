"""The decoder's fast ways against its modules, called one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_osr.objectives.parts import decoder as decoder_module
from nas_osr.objectives.parts import subpixel
from nas_osr.objectives.parts.decoder import SLOPE, Decoder
from nas_osr.objectives.parts.freezing import frozen, unrecorded
from nas_osr.objectives.parts.subpixel import interleave, is_narrow, narrow_tail, split_phases


class Tail(nn.Module):
    """A decoder's last stage and its 1x1 convolutions, with parameters that are all of weight."""

    def __init__(self, channels: int, narrow: int, colours: int, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.stage = nn.Sequential(
            nn.ConvTranspose2d(channels, narrow, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(narrow, momentum=momentum),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.to_image = nn.Sequential(
            nn.Conv2d(narrow, narrow, 1), nn.LeakyReLU(SLOPE, inplace=True), nn.Conv2d(narrow, colours, 1)
        )
        nn.init.normal_(self.stage[1].weight)
        nn.init.normal_(self.stage[1].bias)
        nn.init.normal_(self.stage[1].running_mean)
        nn.init.uniform_(self.stage[1].running_var, 0.5, 2.0)

    def plain(self, x: Tensor) -> Tensor:
        return self.to_image(self.stage(x))

    def fast(self, x: Tensor) -> Tensor:
        return interleave(narrow_tail(self.stage, self.to_image, x))


def both(
    tail: Tail, x: Tensor, use: Callable[[Tail, Callable[[Tensor], Tensor], Tensor], Tensor]
) -> list[tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]]:
    """The result, the gradients and the state after `use` and a backward pass, plain and fast."""
    weigh = torch.Generator().manual_seed(5)
    found = []
    for name in ("plain", "fast"):
        copied, inputs = copy.deepcopy(tail), x.clone().requires_grad_()
        result = use(copied, getattr(copied, name), inputs)
        (result * torch.randn(result.shape, generator=weigh.manual_seed(5), dtype=x.dtype)).sum().backward()
        gradients = {"input": inputs.grad, **{key: value.grad for key, value in copied.named_parameters()}}
        found.append((result.detach(), gradients, copied.state_dict()))
    return found


def assert_same(tail: Tail, x: Tensor, use: Callable[[Tail, Callable[[Tensor], Tensor], Tensor], Tensor]) -> None:
    (result, gradients, state), (other, other_gradients, other_state) = both(tail, x, use)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if x.dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(other, result, **tolerance)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient is None) == (other_gradients[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(other_gradients[name], gradient, **tolerance, msg=name)
    for name, value in state.items():
        torch.testing.assert_close(other_state[name], value, rtol=1e-5, atol=1e-6, msg=name)


def once(tail: Tail, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return run(x)


@settings(max_examples=25)
@given(
    batch=st.integers(1, 5),
    channels=st.integers(1, 9),
    narrow=st.integers(1, 5),
    colours=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    training=st.booleans(),
    last=st.booleans(),
    precise=st.booleans(),
)
def test_the_phases_are_the_stage(
    batch: int, channels: int, narrow: int, colours: int, height: int, width: int, training: bool, last: bool,
    precise: bool,
) -> None:  # fmt: skip
    """Values, gradients and running statistics, by batch and by running statistics, in either memory layout."""
    torch.manual_seed(0)
    tail = Tail(channels, narrow, colours).train(training).to(torch.float64 if precise else torch.float32)
    x = torch.randn(batch, channels, height, width).to(tail.stage[0].weight.dtype)
    if last:
        tail, x = tail.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    assert_same(tail, x, once)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_batches_leave_the_same_statistics(momentum: float | None) -> None:
    """Used twice in one step, and with a running mean over all batches."""

    def three(tail: Tail, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return run(x) + run(2 * x - 1) + run(x.square())

    torch.manual_seed(0)
    tail = Tail(6, 4, 3, momentum).double()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    assert_same(tail, x, three)
    state = both(tail, x, three)[1][2]
    assert state["stage.1.num_batches_tracked"] == 3
    if momentum is None:  # mean of three batches, whatever stood there before
        maps = [tail.stage[0](value).mean(dim=(0, 2, 3)) for value in (x, 2 * x - 1, x.square())]
        torch.testing.assert_close(state["stage.1.running_mean"], torch.stack(maps).mean(0))


def test_nothing_is_recorded_where_nothing_may_be() -> None:
    def unseen(tail: Tail, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with unrecorded(tail):
            return run(x)

    torch.manual_seed(0)
    tail, x = Tail(6, 4, 3), torch.randn(2, 6, 4, 4)
    assert_same(tail, x, unseen)
    state = both(tail, x, unseen)[1][2]
    assert all(torch.equal(value, state[name]) for name, value in tail.state_dict().items())


@pytest.mark.parametrize("only", [None, "stage.0.weight", "stage.1.weight", "stage.1.bias", "to_image.2.bias"])
def test_frozen_weights_get_no_gradient(only: str | None) -> None:
    """All of them, as in an architecture step, and all but one."""

    def architecture_step(tail: Tail, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with frozen(tail, [weight for name, weight in tail.named_parameters() if name != only]):
            return run(x)

    torch.manual_seed(0)
    tail, x = Tail(6, 4, 3).double(), torch.randn(2, 6, 4, 4, dtype=torch.float64)
    assert_same(tail, x, architecture_step)
    gradients = both(tail, x, architecture_step)[1][1]
    assert {name for name, value in gradients.items() if value is not None} == {"input"} | ({only} - {None})


def test_a_second_derivative_is_refused() -> None:
    tail, x = Tail(6, 4, 3), torch.randn(2, 6, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(tail.fast(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_interleave_is_pixel_shuffle_with_phases_in_front() -> None:
    x = torch.randn(2, 12, 3, 5)
    other = x.view(2, 4, 3, 3, 5).transpose(1, 2).reshape(2, 12, 3, 5)
    assert torch.equal(interleave(x), F.pixel_shuffle(other, 2))
    assert torch.equal(split_phases(interleave(x)), x)


def test_where_the_phases_are_taken() -> None:
    def stage(narrow: int) -> nn.Sequential:
        return nn.Sequential(nn.ConvTranspose2d(8, narrow, 3))

    large = torch.zeros(32, 8, 16, 16)
    assert is_narrow(stage(4), large)
    assert not is_narrow(stage(8), large)
    assert not is_narrow(stage(4), large[:31]) and not is_narrow(stage(4), large.double())
    assert not is_narrow(stage(4), large.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_narrow(stage(4), large)


def make_decoder(extra: dict[int, int], channels: int = 16, latent_dim: int = 5) -> Decoder:
    torch.manual_seed(0)
    return Decoder(latent_dim, channels, (3, 32, 16), extra)


def plain_logits(decoder: Decoder, latents: Tensor, maps: dict[int, Tensor]) -> Tensor:
    """All of the decoder's modules, one after the other."""
    x = decoder.expand(latents).view(-1, *decoder.start)
    for scale, stage in zip(decoder.scales, decoder.stages, strict=True):
        if scale in decoder.extra:
            x = torch.cat([x, maps[scale].repeat(len(x) // len(maps[scale]), 1, 1, 1)], dim=1)
        x = stage(x)
    return decoder.to_image(x)


@pytest.mark.parametrize("scales", [(), (-1,), (2,), (2, 1, 0, -1)], ids=str)
@pytest.mark.parametrize("rows", [6, 24])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_the_decoder_is_its_modules(
    scales: tuple[int, ...], rows: int, training: bool, weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: few and many latents, with maps that join at some scales, with and without weight gradients."""
    monkeypatch.setattr(decoder_module, "is_narrow", lambda stage, x: True)
    plain = make_decoder(dict.fromkeys(scales, 3)).double().train(training)
    plain.requires_grad_(weights)
    fast = copy.deepcopy(plain)
    assert fast.composing_pays(rows) == (rows == 24)
    latents = torch.randn(rows, 5, dtype=torch.float64)
    maps = {scale: torch.randn(2, 3, 8 >> scale, 4 >> scale, dtype=torch.float64) for scale in (2, 1, 0)}
    maps[-1] = torch.randn(2, 3, 16, 8, dtype=torch.float64)
    found = []
    for run, network in ((plain_logits, plain), (Decoder.logits, fast)):
        inputs = [value.clone().requires_grad_() for value in (latents, *maps.values())]
        result = run(network, inputs[0], dict(zip(maps, inputs[1:], strict=True)))
        (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
        gradients = [value.grad for value in (*inputs, *network.parameters())]
        found.append((result.detach(), gradients, network.state_dict()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)


def test_composing_takes_fewer_multiplications(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the number of latents where `composing_pays` turns, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    decoder = make_decoder({}, channels=32, latent_dim=7).eval()
    turn = next(rows for rows in range(1, 100) if decoder.composing_pays(rows))
    for rows in (turn - 1, turn):
        flops = {}
        for composed in (False, True):
            monkeypatch.setattr(Decoder, "composing_pays", lambda self, rows, composed=composed: composed)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                decoder.logits(torch.randn(rows, 7), {})
            flops[composed] = counter.get_total_flops()
        assert (flops[True] < flops[False]) == (rows == turn)


def test_training_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps of SGD on the fast and on the plain decoder, in float32."""
    monkeypatch.setattr(subpixel, "ENOUGH", 1)
    fast = make_decoder({}).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(fast)
    latents, target = torch.randn(24, 5), torch.rand(24, 3, 32, 16)
    losses: dict[str, list[float]] = {"plain": [], "fast": []}
    for name, decoder in (("plain", plain), ("fast", fast)):
        optimizer = torch.optim.SGD(decoder.parameters(), lr=20.0, momentum=0.9)
        for _ in range(8):
            logits = plain_logits(decoder, latents, {}) if name == "plain" else decoder.logits(latents, {})
            loss = (logits.sigmoid() - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    assert losses["fast"] == pytest.approx(losses["plain"], rel=1e-4)
    assert losses["fast"][-1] < 0.97 * losses["fast"][0]
    torch.testing.assert_close(fast.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-3)

"""What a step costs: FLOPs against hand counts, turns, bare steps that do the same, and the cost at paper scale."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.plugins.precision import Precision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nas_osr.cost import steps as benchmark
from nas_osr.cost.steps import (
    Call,
    Step,
    bare_step,
    convolution_precision,
    count_flops,
    count_launches,
    leave_no_trace,
    matrix_product,
    measure_steps,
    peak_memory,
    take_turns,
)
from nas_osr.data.protocols import make_protocol
from nas_osr.retrain.retrain_cost import training_cost
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.strategies.bilevel.search_cost import count_cell_evaluations
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import Learner

CPU = torch.device("cpu")


def test_flops_of_layers_are_those_of_a_hand_count() -> None:
    images = torch.rand(2, 3, 8, 8)
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    forward = 2 * (2 * 8 * 8) * 5 * (3 * 3 * 3)  # 2 a product; output pixels; output channels; the window
    assert count_flops(lambda: convolution(images)) == forward
    # backward: the gradient of the weights, and that of the images where it is asked for, cost as much each
    assert count_flops(lambda: convolution(images).sum().backward()) == 2 * forward
    images.requires_grad_()
    assert count_flops(lambda: convolution(images).sum().backward()) == 3 * forward
    linear, rows = nn.Linear(7, 4), torch.rand(6, 7, requires_grad=True)
    assert count_flops(lambda: linear(rows).sum().backward()) == 3 * 2 * 6 * 7 * 4


def test_launches_are_what_is_computed() -> None:
    images, weight = torch.rand(6), torch.rand(2, 3, requires_grad=True)

    def run() -> None:
        loss = (images.view(2, 3) * weight).sum()  # a view, a product and a sum
        loss.backward()  # the loss's own gradient, that of the sum, which is a view of it, and that of the product
        torch.empty(6).view(3, 2)

    assert count_launches(run) == 4
    assert count_launches(lambda: (run(), images.exp())) == 4 + 1 + 1  # and adding to the gradient that is there


def test_calls_take_turns_and_medians_leave_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []
    lasting = {"a": iter([50.0, 1.0, 9.0, 2.0]), "b": iter([70.0, 4.0, 4.0, 6.0])}
    monkeypatch.setattr(benchmark, "now", lambda device: clock[0])

    def make(name: str) -> Call:
        def run() -> None:
            order.append(name)
            clock[0] += next(lasting[name])

        @contextlib.contextmanager
        def around() -> Iterator[None]:
            clock[0] += 1000.0  # setting up is not timed
            yield
            clock[0] += 1000.0

        return Call(run, around)

    measured = take_turns({name: make(name) for name in "ab"}, CPU, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert (measured["a"].seconds, measured["b"].seconds) == (2.0, 4.0)


def test_figures_of_a_step_follow_from_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 4 images with 2 MFLOP (a product of 100x100 matrices), 0.5 s against 0.4 s bare, 0.1 s of augmentation;
    the peak's product, 2 * 1024^3 FLOP, takes 1 s."""
    clock = [0.0]
    monkeypatch.setattr(benchmark, "now", lambda device: clock[0])
    matrix = torch.ones(100, 100)

    def lasts(seconds: float) -> Any:
        def run() -> Tensor:
            clock[0] += seconds
            return matrix @ matrix

        return run

    monkeypatch.setattr(benchmark, "matrix_product", lambda device, dtype: (Call(lasts(1.0)), 1024))
    step = Step("weights", 4, lasts(0.5), Call(lasts(0.4)), lasts(0.1))
    result = measure_steps([step], make_fabric("cpu", "32-true", 0), rounds=1, warmup=0)
    assert result["matrix_product"] == {"size": 1024, "dtype": "float32", "flops_per_second": 2 * 1024**3}
    figures = result["steps"]["weights"]
    assert figures.pop("peak_memory_bytes") > 0
    assert figures == pytest.approx(
        {
            "images": 4,
            "seconds": 0.5,
            "images_per_second": 8,
            "launches": 1,
            "flops": 2e6,
            "gmac_per_image": 0.00025,
            "share_of_peak": 2e6 / 0.5 / (2 * 1024**3),
            "bare_seconds": 0.4,
            "overhead": 0.25,
            "augmentation_seconds": 0.1,
            "augmentation_share": 0.2,
        }
    )


def test_peak_memory_is_what_the_system_says_of_the_process() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    held = torch.ones(30_000_000)
    peak = peak_memory(CPU)
    text = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak == pytest.approx(1024 * int(text.split()[1]), rel=0.02)
    assert peak > held.nbytes


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(fails: bool) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with contextlib.suppress(ValueError), leave_no_trace():
        first = torch.rand(3)
        torch.set_num_threads(threads + 1)
        if fails:
            raise ValueError
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    with leave_no_trace():
        assert torch.equal(torch.rand(3), first)


def test_the_product_has_its_precision_and_leaves_tf32_as_it_was() -> None:
    allowed = torch.backends.cuda.matmul.allow_tf32
    with convolution_precision():
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == allowed
    call, size = matrix_product(CPU, torch.float32)
    result = call.run()
    assert isinstance(result, Tensor)
    assert (result.dtype, result.shape) == (torch.float32, (size, size))
    assert count_flops(call.run) == 2 * size**3


def small_steps(precision: str = "32-true", **settings: Any) -> tuple[Any, dict[str, Step]]:
    """The learner of a supernet of three layers on digits, and its steps, from one seed."""
    plan = plan_measurement(SearchRequest(preset="tiny", layers=3, clip=0.0, **settings), make_protocol("digits"))
    torch.manual_seed(0)
    cost = plan.strategy.cost(plan, make_fabric("cpu", precision, 0))
    return cost.learner, {step.name: step for step in cost.make_steps(6)}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["weights", "architecture"])
def test_bare_calls_do_what_the_step_does(name: str, precision: str) -> None:
    states = {}
    for kind in ("run", "bare"):
        with leave_no_trace():
            learner, steps = small_steps(precision)
            before = {key: value.clone() for key, value in learner.state_dict().items()}
            torch.manual_seed(1)
            if kind == "run":
                steps[name].run()
            else:
                with steps[name].bare.around():
                    steps[name].bare.run()
            states[kind] = learner.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in states["run"].items())
    for key, value in states["run"].items():
        torch.testing.assert_close(states["bare"][key], value, msg=f"{name}: {key}")


def test_a_bare_step_runs_every_player_and_divides_by_the_scale() -> None:
    class Recorder:
        """A learner as Fabric wraps it."""

        def __init__(self) -> None:
            self.weight = nn.Parameter(torch.tensor(1.0))
            self.players: list[str] = []

        def module(self, images: Tensor, labels: Tensor, player: str, progress: float) -> dict[str, Tensor]:
            self.players.append(player)
            return {"a": 3 * self.weight, "b": 5 * self.weight}

    class Wrapped:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

    learner = Recorder()
    optimizers = {name: Wrapped(torch.optim.SGD([learner.weight], lr=0.1)) for name in ("main", "other")}
    images, labels = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.long)
    bare_step(learner, optimizers, images, labels, Precision(), scale=4.0)
    assert learner.players == ["main", "other"]
    assert learner.weight.item() == pytest.approx(1 - 2 * 0.1 * (3 + 5) / 4)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [("supcon", {}), ("confidence", {"gan_width": 16}), ("confidence", {"source": "outliers"})],
    ids=["own views", "three players", "outliers"],
)
def test_objectives_of_all_kinds_can_be_measured(objective: str, settings: dict[str, Any]) -> None:
    with leave_no_trace():
        _, steps = small_steps(objective=objective, objective_config=settings)
        config = RetrainRequest(
            preset="tiny", architecture="random:0", batch_size=6, objective=objective, objective_config=settings
        )
        retraining = training_cost(plan_measured(config, make_protocol("digits")), make_fabric("cpu", "32-true", 0))
        for step in (*steps.values(), *retraining.make_steps(6)):
            step.augment()
            assert count_flops(step.run) > 0
            with step.bare.around():
                step.bare.run()


@pytest.mark.parametrize(
    ("layers", "branches", "forms"),
    # edges between useful cells, and the last layer's cells: 1 + 1 + 1, 2 + 3 + 2 + 1, 2 + 4 + 5 + 4 + 2 + 1
    [(3, (2,), 3), (4, (2,), 8), (6, (2,), 18)],
)
def test_every_form_is_evaluated_once(layers: int, branches: tuple[int, ...], forms: int) -> None:
    supernet = build_supernet(Space(layers=layers, channels=16, branches=branches), 1, (0.5,), (0.5,))
    assert count_cell_evaluations(supernet, (1, 16, 16)) == (forms, forms)


def test_a_pair_of_steps_at_paper_scale_costs_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10, four kept classes: 11.13 GMAC an image, where the public code needs 33.1. Nothing is computed here."""
    monkeypatch.setattr(Learner, "to", lambda self, *arguments, **settings: self)  # fake parameters cannot be swapped
    plan = plan_measurement(
        SearchRequest(preset="paper", pseudo_unknown=["airplane", "frog"]), make_protocol("cifar10")
    )
    with leave_no_trace(), FakeTensorMode(allow_non_fake_inputs=True):
        cost = plan.strategy.cost(plan, make_fabric("cpu", "32-true", 0))
        steps = cost.make_steps(plan.weights.batch_size)
        macs = {step.name: count_flops(step.run) / 2 / step.images for step in steps}
        launches = {step.name: count_launches(step.run) for step in steps}
    assert cost.learner.module.objective.num_classes == 4
    assert macs["weights"] == pytest.approx(6.865e9, rel=0.001)
    assert macs["architecture"] == pytest.approx(4.266e9, rel=0.001)
    assert launches == pytest.approx({"weights": 8793, "architecture": 4675}, rel=0.01)

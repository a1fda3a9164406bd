"""No step waits for the device. Steps run on the meta device, which has no values to be read: what a GPU would have to
be waited for fails there, and so does a tensor on the wrong device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas_osr.data.augmentation import RECIPES, augment
from nas_osr.data.batches import to_float
from nas_osr.data.protocols import make_protocol
from nas_osr.data.views import random_views
from nas_osr.objectives import OBJECTIVES, objective_class
from nas_osr.retrain.retrain_cost import training_cost
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric
from nas_osr.training.monitors import LossMeter

READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in OBJECTIVES),
    ("arpl", {"confusing_samples": True, "gan_width": 16}),
    ("confidence", {"source": "outliers"}),
    ("confidence", {"source": "pretrained_gan", "gan_width": 16}),
    ("cross_entropy", {"center_weight": 0.1}),
    ("gmvae", {"reconstruction": "truncated_gaussian"}),
    ("gmvae", {"reconstruction": "truncated_gaussian", "pixel_scale": 0.5}),
    ("supcon", {"mix": "gradmix", "saliency_layers": (1, 0), "simclr_weight": 1.0}),
    ("supcon", {"mix": "cutmix", "simclr_weight": 1.0}),
    ("supcon", {"mix": "mixup", "simclr_weight": 1.0}),
    ("vae_contrastive", {"decoder_features": True}),
]
CAPTURABLE = {name: objective_class(name).capturable for name in OBJECTIVES}
IDS = [" ".join([name, *map(str, settings.values())]) for name, settings in CASES]


class Waiting(AssertionError):
    """Something waits for the device."""


class NoReading(TorchDispatchMode):
    """Fails where values are read, or decide a shape; on meta tensors only, unless `everywhere`."""

    def __init__(self, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        watched = self.everywhere or any(tensor.is_meta for tensor in tensors)
        masked = name in ("index", "index_put", "index_put_") and any(
            isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) for item in tree_leaves(args[1])
        )
        if watched and (name in READING or masked):
            raise Waiting(name)
        result = func(*args, **(kwargs or {}))
        made = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        if name in ("_to_copy", "copy_") and len({tensor.is_meta for tensor in tensors + made}) > 1:
            raise Waiting(f"{name} between devices")
        return result


class NoTransfer(TorchFunctionMode):
    """Fails where a tensor is made of values from Python on the device: a copy that is waited for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and result.is_meta:
            raise Waiting(func.__name__)
        return result


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> Fabric:
    """A Fabric that leaves everything on the meta device, where the optimisers have no fused kernels."""
    monkeypatch.setattr(Fabric, "_move_model_to_device", lambda self, model, optimizers: model)
    fabric = make_fabric("cpu", "32-true", 0)
    monkeypatch.setattr(type(fabric), "device", torch.device("meta"))
    for kind in (torch.optim.Adam, torch.optim.SGD):
        plain = kind.__init__
        monkeypatch.setattr(
            kind,
            "__init__",
            lambda self, *args, plain=plain, fused=None, **settings: plain(self, *args, foreach=False, **settings),
        )
    autocast = torch.autocast  # knows no meta device; the precision is float32 here
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda device, *args, **settings: autocast("cpu" if device == "meta" else device, *args, **settings),
    )
    return fabric


@pytest.fixture(autouse=True)
def without_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's augmentation, which makes the steps' input, has a generator on their device; meta has none."""
    monkeypatch.setattr("nas_osr.cost.whole_run.augmenter", lambda images, config: lambda: to_float(images))


class DrawsThere(TorchDispatchMode):
    """Fails where random numbers are drawn elsewhere than on the device: a captured step would repeat them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            assert result.is_meta, f"{func} draws in Python"
        return result


def run(step: Any) -> None:
    with NoTransfer(), NoReading():
        step.run()


@pytest.mark.parametrize(("objective", "settings"), CASES, ids=IDS)
def test_no_step_of_a_search_waits(objective: str, settings: dict[str, Any], meta: Fabric) -> None:
    config = SearchRequest(
        protocol="digits", preset="tiny", layers=3, batch_size=8, objective=objective, objective_config=settings,
        pseudo_unknown=[2, 4],
    )  # fmt: skip
    with torch.device("meta"):
        plan = plan_measurement(config, make_protocol("digits"))
        steps = plan.strategy.cost(plan, meta).make_steps(8)
    for step in steps:
        run(step)
        if CAPTURABLE[objective]:
            with DrawsThere():
                step.run()


def test_drawing_on_the_host_is_caught() -> None:
    with DrawsThere(), pytest.raises(AssertionError, match="draws in Python"):
        torch.randperm(4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_step_of_a_retraining_waits(objective: str, meta: Fabric) -> None:
    config = RetrainRequest(preset="tiny", architecture="random:0", batch_size=8, objective=objective)
    with torch.device("meta"):
        [step] = training_cost(plan_measured(config, make_protocol("digits")), meta).make_steps(8)
    run(step)


@pytest.mark.parametrize("network", ["cac", "dhrnet", "resnet18", "vgg13"])
def test_no_step_of_a_baseline_waits(network: str, meta: Fabric) -> None:
    config = RetrainRequest(preset="tiny", network=network, batch_size=8, objective="cross_entropy")
    with torch.device("meta"):
        [step] = training_cost(plan_measured(config, make_protocol("digits")), meta).make_steps(8)
    run(step)


@pytest.mark.parametrize("recipe", [*RECIPES, "views"])
def test_augmentation_reads_no_values(recipe: str) -> None:
    """On the CPU, since the meta device has no generators."""
    images, generator = torch.rand(4, 3, 32, 32), torch.Generator().manual_seed(0)
    with NoReading(everywhere=True):
        random_views(images) if recipe == "views" else augment(images, recipe, generator)


def test_the_meter_reads_nothing_before_the_end() -> None:
    meter = LossMeter()
    with NoReading():
        for _ in range(3):
            meter.add({"ce": torch.ones((), device="meta")})


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.cpu(),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device) + x,
        lambda x: x + torch.ones(3),
        lambda x: x[torch.tensor([0, 1])].copy_(torch.ones(2)),
    ],
)
def test_waiting_is_caught(wait: Any) -> None:
    x = torch.ones(3, device="meta")
    with NoTransfer(), NoReading(), pytest.raises((Waiting, RuntimeError, NotImplementedError)):
        wait(x)

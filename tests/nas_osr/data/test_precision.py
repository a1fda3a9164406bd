"""Images are prepared in float32 and outside autocast, whatever the precision of the training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nas_osr.cost.steps import leave_no_trace
from nas_osr.data.augmentation import CHANGES, RECIPES, augment
from nas_osr.data.protocols import make_protocol
from nas_osr.objectives import OBJECTIVES, conosr, moco, supcon
from nas_osr.objectives.parts import mixing
from nas_osr.retrain.retrain_cost import training_cost
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.training.fabric import make_fabric

SAMPLING = (torch.affine_grid_generator, torch.grid_sampler, torch.lerp, torch._C._nn._upsample_bilinear2d_aa)
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"gan_width": 4} if name == "confidence" else {}) for name in OBJECTIVES if name != "supcon"),
    ("conosr", {"views": "simclr"}),
    *(("supcon", {"mix": mix, "augment": True}) for mix in mixing.MIXES),
]


class NoAutocast(TorchFunctionMode):
    """Fails where an image is resampled or blended under autocast, which changes more operations on CUDA than here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not (func in SAMPLING and torch.is_autocast_enabled("cpu")), func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What objectives have made of images so far."""
    found: list[Tensor] = []

    def watch(module: Any, name: str) -> None:
        inner = getattr(module, name)

        def watched(*arguments: Any, **keywords: Any) -> Any:
            assert arguments[0].dtype == torch.float32, name  # Fabric's own precision would make it bf16
            result = inner(*arguments, **keywords)
            found.append(result[0] if isinstance(result, tuple) else result)
            return result

        monkeypatch.setattr(module, name, watched)

    for module in (moco, supcon, conosr):
        watch(module, "random_views")
    for name in ("gradmix", "cutmix", "mixup"):
        watch(mixing, name)
    return found


@pytest.mark.parametrize(("objective", "settings"), CASES, ids=[f"{name} {settings}" for name, settings in CASES])
def test_every_objective_prepares_images_in_float32(
    objective: str, settings: dict[str, Any], prepared: list[Tensor]
) -> None:
    request = RetrainRequest(
        preset="tiny", network="resnet18", batch_size=4, objective=objective, objective_config=settings
    )
    with leave_no_trace():
        fabric = make_fabric("cpu", "bf16-mixed", 0)
        cost = training_cost(plan_measured(request, make_protocol("cifar10")), fabric)
        [step] = cost.make_steps(cost.batch_size)
        with NoAutocast():
            step.run()
    assert len(prepared) == {"moco": 1, "conosr": 1, "supcon": 1 + (settings.get("mix") != "none")}.get(objective, 0)
    assert all(images.dtype == torch.float32 for images in prepared)


@pytest.mark.parametrize("recipe", [*RECIPES, *CHANGES])
def test_augmentation_is_outside_autocast(recipe: str) -> None:
    """The epoch loop augments between the steps."""
    images, generator = torch.rand(2, 3, 32, 32), torch.Generator()
    with NoAutocast():
        assert augment(images, recipe, generator).dtype == torch.float32


def test_what_autocast_would_do_is_caught() -> None:
    with torch.autocast("cpu", torch.bfloat16), NoAutocast(), pytest.raises(AssertionError):
        torch.lerp(torch.rand(3), torch.rand(3), 0.5)

"""What a table's trainings take over from a retraining's recipe."""

from __future__ import annotations

import pytest
import torch

from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.strategies.table_training import plan_table
from nas_osr.strategies.tabulate_request import TabulateRequest
from nas_osr.strategies.trials.trial import build_trial


@pytest.mark.parametrize(("protocol", "recipe", "mirrored"), [
    ("cifar10", None, True), ("cifar10", "fast", False), ("digits", "strong", False),
])  # fmt: skip
def test_networks_are_judged_with_mirror_images_where_the_recipe_has_them(
    protocol: str, recipe: str | None, mirrored: bool
) -> None:
    asked = TabulateRequest(
        protocol=protocol, preset="small", channels=4, recipe=recipe, objective="cross_entropy", device="cpu"
    )
    plan = plan_table(asked)
    fabric, outliers = plan.trial.machine.open(ranks=False), torch.zeros(0, *plan.trial.protocol.image_shape)
    for part, expected in ((plan.true, mirrored), (plan.trial, False)):
        learner, _, _ = build_trial(sample_architecture(part.space, 0), part, outliers, fabric, 0)
        assert learner.module.mirrored is expected

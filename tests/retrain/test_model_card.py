"""The model card says what the model's files say, whatever stands in them."""

from __future__ import annotations

from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.retrain.model_card import format_card

DESCRIPTION: dict[str, Any] = {
    "classes": ["cat", "a|b\n<i>"], "image_shape": [3, 32, 32], "network": "resnet18", "class_thresholds": None,
    "objective": {"name": "cross_entropy"}, "rule": {"name": "mls", "state": {"threshold": 1.25}},
    "about": {
        "versions": {"nas-osr": "1.2", "timm": None}, "parameters": 1234567, "macs": 89,
        "training_images": {"cat": 40, "a|b\n<i>": 3}, "test_images": {"known": 10, "unknown": 20},
        "metrics": {"auroc": 0.91234, "oscr": None}, "intervals": {"auroc": [0.9, 0.95]},
        "protocol": {"name": "folder", "unknown_names": ["dog"]},
    },
}  # fmt: skip


def test_a_card_has_classes_protocol_metrics_threshold_and_versions() -> None:
    card = format_card(DESCRIPTION, "## More\n\nof it")
    for line in (
        "| cat | 40 |", "| a\\|b &lt;i> | 3 |", "| auroc | 0.9123 | 0.9000 to 0.9500 |", "`resnet18`",
        "1,234,567 weights",
        "unknown classes in the test: dog; 10 known and 20 unknown test images", "Below 1.25 it is unknown",
        "nas-osr 1.2",
        "of it", 'nas_osr.load("FOLDER")',
    ):  # fmt: skip
        assert line in card, line
    assert "oscr" not in card and "timm" not in card and "$" not in card


def test_a_card_says_how_the_threshold_was_calibrated_and_what_is_not_known() -> None:
    about = {"versions": {}, "calibration": {"images": 50, "accept": 0.9}}
    card = format_card({**DESCRIPTION, "about": about, "class_thresholds": [1.0, 2.0]})
    assert "calibrated on 50 images" in card and "at least 0.9" in card and "threshold of its predicted class" in card
    assert "| cat | not recorded |" in card and "| not evaluated |" in card


@pytest.mark.parametrize("wrong", [{"metrics": {"auroc": "high"}}, {"protocol": []}, {"calibration": 1}])
def test_a_damaged_about_is_a_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="about is not what a training records"):
        format_card({**DESCRIPTION, "about": {"versions": {}, **wrong}})

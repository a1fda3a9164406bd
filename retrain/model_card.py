"""The model card: README.md of a model folder, and of an exported model. Its text is in model_card.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors, replace_file

CARD_FILE = "README.md"
MARK = "<!-- nas-osr model card -->"
TEMPLATE = Path(__file__).parent / "model_card.md"


def format_card(description: Mapping[str, Any], exported: str = "") -> str:
    """The card of a model, as Markdown.

    Args:
        description: what model.json holds; of what is not known of the model the card says so.
        exported: a section about exported files.

    Raises:
        UserError: `about` has other things in it than a training records.
    """
    try:
        return fill_card(description, exported)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"model.json: about is not what a training records: {error!r}") from error


def fill_card(description: Mapping[str, Any], exported: str) -> str:
    """The same, of a description whose `about` is in order."""
    about, rule = description["about"], description["rule"]
    images, metrics = about.get("training_images", {}), about.get("metrics", {})
    intervals, versions = about.get("intervals", {}), about["versions"]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        count=len(description["classes"]),
        unknown="unknown",
        version=versions.get("nas-osr"),
        classes=rows([[name, images.get(name, "not recorded")] for name in description["classes"]]),
        shape=tuple(description["image_shape"]),
        network=f"`{description['network']}`" if description["network"] else "a searched architecture (model.json)",
        parameters=format_count(about.get("parameters")),
        macs=format_count(about.get("macs")),
        objective=description["objective"]["name"],
        protocol=format_protocol(about),
        metrics=rows([[name, f"{value:.4f}", format_interval(intervals.get(name))]
                      for name, value in sorted(metrics.items()) if value is not None] or [["not evaluated", "", ""]]),
        rule=rule["name"],
        threshold=describe_threshold(description),
        exported=exported and f"\n{exported.strip()}\n",
        versions=", ".join(f"{name} {value}" for name, value in sorted(versions.items()) if value),
    )  # fmt: skip


def format_protocol(about: Mapping[str, Any]) -> str:
    """Which classes were known and which unknown, and how many test images there were."""
    protocol, tested = about.get("protocol", {}), about.get("test_images")
    unknown = [cell(name) for name in protocol.get("unknown_names", [])]
    shown = ", ".join(unknown[:20]) + (f" and {len(unknown) - 20} more" if len(unknown) > 20 else "")
    text = f"{cell(protocol.get('name', 'not recorded'))}; unknown classes in the test: {shown or 'none'}"
    return text + (f"; {tested['known']} known and {tested['unknown']} unknown test images" if tested else "")


def describe_threshold(description: Mapping[str, Any]) -> str:
    """The threshold and how it was set."""
    calibration, limits = description["about"].get("calibration"), description["class_thresholds"]
    value = description["rule"]["state"]["threshold"]
    text = "Below a threshold of its predicted class it" if limits else f"Below {value:.6g} it"
    if calibration is None:
        return f"{text} is unknown: set by the rule on held-out images of the known classes, not calibrated since."
    return (
        f"{text} is unknown: calibrated on {calibration['images']} images of the user's, so that a further known one "
        f"is accepted with a probability of at least {calibration['accept']} (the metrics above are of the one before)."
    )


def rows(table: Sequence[Sequence[Any]]) -> str:
    """Rows of a Markdown table."""
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in table)


def cell(value: Any) -> str:
    """A text, such as a name that anything may be in, as it may stand in a table."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def format_count(value: int | None) -> str:
    """A count with its thousands."""
    return "an unrecorded number of" if value is None else f"{value:,}"


def format_interval(interval: Sequence[float] | None) -> str:
    """Its ends."""
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def check_card(folder: Path) -> None:
    """UserError where a folder has a README.md that is no card of ours, which would be lost."""
    path = folder / CARD_FILE
    with file_errors(path, "read"):
        if path.exists() and not path.read_bytes().startswith(MARK.encode()):
            raise UserError(f"{path}: is not a model card and would be replaced: choose another folder for the model")


def write_card(folder: Path, text: str) -> Path:
    """Leave a card in a folder. Raises UserError as `check_card`, or when the disk refuses."""
    check_card(folder)
    with replace_file(folder / CARD_FILE) as file:
        file.write(text.encode())
    return folder / CARD_FILE

"""`nas-osr subclusters`: how many subclusters each class of the objective gmvae should have."""

from __future__ import annotations

from typing import Any

from nas_osr.cli.show import show_dry_run, show_json, show_table
from nas_osr.retrain.subclusters.choice import run_subclusters
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest


def subclusters(config: SubclustersRequest, command: list[str]) -> None:
    """Train every known class alone with each count, print both losses, and the recommended counts as an option."""
    result = run_subclusters(config, command)
    if config.json:
        show_json(result)
    elif config.dry_run:
        show_dry_run(result)
    else:
        show_table(table(result["classes"]))
        print(f"recommended: {result['option']}")
        print(f"everything in {result['out']}")


def table(classes: list[dict[str, Any]]) -> list[list[str]]:
    """A row for every class and count, the recommended one marked; losses in nats an image."""
    rows = [["class", "subclusters", "covering", "reconstruction", ""]]
    for entry in classes:
        for losses in entry["losses"]:
            mark = "recommended" if losses["subclusters"] == entry["recommended"] else ""
            figures = [f"{losses[name]:.4f}" for name in ("covering", "reconstruction")]
            rows.append([entry["class"], str(losses["subclusters"]), *figures, mark])
    return rows

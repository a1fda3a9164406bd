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
        undecided = [entry for entry in result["classes"] if entry["recommended"] is None]
        for entry in undecided:
            print(f"undecided: {entry['class']}: {entry['undecided']}; try more --epochs or --seeds")
        if not undecided:
            print(f"recommended: {result['option']}")
        print(f"everything in {result['out']}")


def table(classes: list[dict[str, Any]]) -> list[list[str]]:
    """A row for every class, count and seed, the recommended count marked; last losses in nats an image."""
    rows = [["class", "subclusters", "seed", "epochs", "covering", "reconstruction", ""]]
    for entry in classes:
        for losses in entry["losses"]:
            mark = "recommended" if losses["subclusters"] == entry["recommended"] else ""
            figures = [f"{losses[name]:.4f}" for name in ("covering", "reconstruction")]
            rows.append(
                [entry["class"], *(str(losses[name]) for name in ("subclusters", "seed", "epochs")), *figures, mark]
            )
    return rows

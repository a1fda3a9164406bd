"""`nas-osr fit`: a model of a folder of pictures, within a budget of time."""

from __future__ import annotations

import shlex
import time
from typing import Any

from nas_osr.cli.show import duration, show_json, show_next, show_yaml
from nas_osr.deploy.fit_request import FitRequest


def fit(request: FitRequest, command: list[str]) -> None:
    """Make the model as asked, and say in a few lines what it is."""
    started = time.perf_counter()  # loading torch is in the budget
    from nas_osr.deploy.fit import run_fit

    result = run_fit(request, command, started)
    if request.json:
        show_json(result)
    elif request.dry_run:
        show_yaml(result)
    else:
        print(describe_fit(result))
        show_next(f"predict {shlex.quote(result['out'])} PICTURES")


def describe_fit(result: dict[str, Any]) -> str:
    """What was made, in three lines; `result` is that of `run_fit`."""
    metrics, images = result["metrics"], result["test_images"]
    names, epochs = result["known"], result["epochs"]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    searched = "" if result["search"] is None else f"a search of {result['search']['epochs']} epochs, "
    lines = [f"it knows {shown}; {searched}{epochs} epochs of training, {duration(result['seconds'])} in all"]
    if images["known"]:
        lines.append(
            f"of {images['known']} known test pictures it accepts {percent(metrics['accepted_known'])} and has "
            f"{percent(metrics['closed_set_accuracy'])} right"
        )
    else:
        lines.append("how well it knows them could not be measured: there are no test pictures of known classes")
    if images["unknown"] and metrics["auroc"] is not None:
        low, high = result["intervals"].get("auroc") or (None, None)
        interval = "" if low is None else f" (95 %: {percent(low)} to {percent(high)})"
        lines.append(
            f"of {images['unknown']} unknown ones it rejects {percent(metrics['rejected_unknown'])}; "
            f"AUROC {percent(metrics['auroc'])}{interval}"
        )
    else:
        lines.append(
            "how well it tells unknown pictures apart could not be measured: there are none; put some into a folder "
            f"and try `nas-osr evaluate {shlex.quote(result['out'])}/fit-training --unknown FOLDER`"
        )
    return "\n".join([*lines, f"everything in {result['out']}"])


def percent(share: float | None) -> str:
    """A share with one digit."""
    return "-" if share is None else f"{share:.1%}"

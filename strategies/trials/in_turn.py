"""Trials one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas_osr.runs.recorder import Recorder
from nas_osr.strategies.trials.asking import Asking
from nas_osr.strategies.trials.trial import TrialRecorder, TrialRunner

Keep = Callable[[dict[str, Any], dict[str, Any]], None]
"""What takes the record of a trial and its timing, in order."""


def try_here(
    asking: Asking, runner: TrialRunner, recorder: Recorder, keep: Keep, inside: Mapping[str, Any] | None
) -> None:
    """Make the trials that are still to be made; `inside` is what one had saved that was interrupted."""
    for trial in range(asking.strategy.config.trials):
        # propose; what is done is proposed again, since strategies look at it
        proposal = asking.next()
        assert proposal is not None  # nothing is waited for
        if trial < asking.done:
            continue
        # architectures that compute the same are trained once
        repeated = asking.repeat(trial)
        if repeated is not None:
            keep(*repeated)
            continue
        # train shortly, on all kept training images, and judge as an epoch of a bilevel search is judged
        former = runner.states.load(proposal.follows) if runner.states is not None else []
        keep(*runner.run(proposal, asking.root(trial), TrialRecorder(recorder, trial, inside, former)))
        inside = None

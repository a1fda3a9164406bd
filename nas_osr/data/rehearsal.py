"""Rehearsals: some known classes play the unknown, and training images the test, so that settings can be chosen.

What Pseudo Auxiliary Searching does for architectures, for a whole retraining: whoever compares recipes by the AUROC of
the test has looked at the true unknown classes. A rehearsal opens no test image and no image of an unknown class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nas_osr.data.protocols import REHEARSAL, Protocol
from nas_osr.errors import UserError


def check_pseudo_unknown(labels: Sequence[int], count: int) -> tuple[int, ...]:
    """Labels that are to play the unknown, perhaps none, in rising order; `count` is N, the number of known labels.

    Raises:
        UserError: a label is not one of 0..N-1 or is there twice, or fewer than two classes would be kept.
    """
    wrong = [label for label in labels if type(label) is not int or label not in range(count)]
    if wrong or len(set(labels)) < len(labels):
        raise UserError(f"pseudo_unknown must be different labels from 0 to {count - 1}, got {list(labels)}")
    if count - len(labels) < 2:
        raise UserError(
            f"pseudo_unknown: {len(labels)} classes leave fewer than 2 of the {count} known ones: name fewer"
        )
    return tuple(sorted(labels))


def rehearse(protocol: Protocol, pseudo_unknown: Sequence[str]) -> Protocol:
    """The protocol whose known classes are divided into known and unknown ones; its true unknown classes are gone.

    Labels keep their order, and those that stay are numbered anew from 0. `load_data` takes the test images of the
    result from training images. UserError as by `Protocol.labels_of` and `check_pseudo_unknown`, and when no class is
    named.
    """
    if not pseudo_unknown:
        raise UserError("pseudo_unknown names no class: a rehearsal needs one that plays the unknown")
    pseudo = check_pseudo_unknown(protocol.labels_of(pseudo_unknown), protocol.num_known)
    return replace(
        protocol,
        family=REHEARSAL,
        known=tuple(group for label, group in enumerate(protocol.known) if label not in pseudo),
        unknown_source=protocol.source,
        unknown=tuple(name for label in pseudo for name in protocol.known[label]),
        pseudo_unknown=None,
    )

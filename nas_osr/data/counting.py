"""What a line says of images: how many each class has, and what was passed over."""

from __future__ import annotations

from collections.abc import Mapping

from nas_osr.data.sources.listing import PassedOver


def describe_counts(counts: Mapping[str, int], passed_over: PassedOver) -> str:
    """E.g. "8 classes of 40 (class dog) to 400 (class cat) images, 1,203 in all; passed over: files: 2 damaged".

    Args:
        counts: images by class name.
        passed_over: among their files.
    """
    if not counts:
        shown = "no images"
    else:
        least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        each = f"{counts[least]:,}"
        if counts[least] < counts[most]:
            each = f"{each} (class {least}) to {counts[most]:,} (class {most})"
        classes, images = "class" if len(counts) == 1 else "classes", "image" if counts[most] == 1 else "images"
        shown = f"{len(counts)} {classes} of {each} {images}, {sum(counts.values()):,} in all"
    return f"{shown}; passed over: {passed_over}" if passed_over else shown

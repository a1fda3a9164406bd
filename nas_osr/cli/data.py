"""`nas-osr data`: which protocols there are, whether their images are there, and how to get them."""

from __future__ import annotations

import sys
from pathlib import Path

from nas_osr.cli.show import show_table
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources import open_source
from nas_osr.data.sources.base import SOURCE_PARTS, Source, resolve_data_dir
from nas_osr.data.tasks import PROTOCOLS, Task, count_splits, find_task
from nas_osr.errors import UserError


def list_protocols() -> None:
    """List the protocols: known and unknown classes, pixels, published families of class splits."""
    rows = [("protocol", "known", "unknown", "pixels", "families", "images from")]
    for name, task in PROTOCOLS.items():
        source = open_source(task.source)
        pixels = "x".join(map(str, source.image_shape))
        if task.open_choice:
            larger = " or more" if source.any_size else ""
            rows.append((name, "yours", "yours", f"{pixels}{larger}", "known=[...] or a seed", f"DIR/{source.layout}"))
            continue
        protocol = make_protocol(name)
        classes = str(protocol.num_known), str(len(protocol.unknown))
        rows.append((name, *classes, pixels, _families(name), " + ".join(_needed_parts(task))))
    show_table(rows)


def prepare(name: str, data_dir: Path | None = None, download: bool = False) -> None:
    """Make sure that the images of a protocol are there, and count them.

    Args:
        name: a protocol, see `nas-osr data list`, or a source of your own by its dotted path.
        data_dir: where images live; without it, the environment variable NAS_OSR_DATA.
        download: fetch what is missing from its official address; otherwise a terminal is asked, and a script refused.
    """
    for key, parts in _needed_parts(find_task(name, import_plugins=True)).items():
        source = open_source(key, data_dir)
        if source.comes_with is not None:
            print(f"{key}: bundled with {source.comes_with}, nothing to prepare")
            continue
        classes = len(source.class_names)  # some are found in the data folder: they say best what is missing
        if any(source.find(part) is None for part in parts):
            _fetch(source, download)
        if not source.counts:
            print(f"{key}: {classes} classes, {len(source.trainable)} of them with training images")
            continue
        for part in parts:
            state, where = _describe(source, part)
            if state == "broken":
                raise UserError(where)
            print(f"{key} {part}: {state} in {where}")


def check(data_dir: Path | None = None) -> None:
    """Say for every protocol whether its images are there, where, and how many; a broken source ends with exit code 2.

    Args:
        data_dir: where images live; without it, the environment variable NAS_OSR_DATA.
    """
    folder = resolve_data_dir(data_dir)
    described: dict[tuple[str, str], tuple[str, str]] = {}
    rows = [("protocol", "ready", "source", "part", "images", "where")]
    for name, task in PROTOCOLS.items():
        if task.open_choice:
            continue
        needed = [(source, part) for source, parts in _needed_parts(task).items() for part in parts]
        for source, part in needed:
            if (source, part) not in described:
                described[source, part] = _describe(open_source(source, folder), part)
        ready = all(described[key][0] not in ("missing", "broken") for key in needed)
        for index, key in enumerate(needed):
            first = (name, "yes" if ready else "no") if index == 0 else ("", "")
            rows.append((*first, *key, *described[key]))
    show_table(rows)
    broken = [where for state, where in described.values() if state == "broken"]
    if broken:
        raise UserError(broken[0])


def _needed_parts(task: Task) -> dict[str, tuple[str, ...]]:
    """Source -> parts: all of the known images' source; unknown images of another are test images only."""
    others = {} if task.unknown_source is None else {task.unknown_source: ("test",)}
    return {task.source: SOURCE_PARTS, **others}


def _families(name: str) -> str:
    """E.g. "arpl 0-4, neal 0-4"."""
    counts = count_splits(name)
    return ", ".join(f"{family} 0-{count - 1}" if count > 1 else "one split" for family, count in counts.items())


def _describe(source: Source, part: str) -> tuple[str, str]:
    """The number of images, "missing" or "broken"; and where they are or what is wrong."""
    expected = source.counts.get(part)
    if source.comes_with is not None:
        return str(expected), "bundled"
    location = source.find(part)
    if location is None:
        return "missing", ""
    try:
        found = source.count(part)
    except UserError as error:
        return "broken", str(error)
    return str(found) if found == expected else f"{found} of {expected}", str(location.path)


def _fetch(source: Source, download: bool) -> None:
    """Download what is missing if that is wanted; raises UserError where it is not, or cannot be."""
    from nas_osr.data.sources.download import download_source

    layout = f"images as {source.layout}.png|jpg|webp"
    if not source.archives:
        raise UserError(f"{source.name} is not in {source.folder}: put {layout} there")
    size = f"{source.megabytes} MB"
    if not download and not _confirm(f"Download {source.name} ({size}) into {source.folder}?"):
        raise UserError(
            f"{source.name} is not in {source.folder}: run again with --download ({size}), or put its official "
            f"files there, or {layout}"
        )
    download_source(source, source.folder)


def _confirm(question: str) -> bool:
    """Ask on a terminal; elsewhere the answer is no."""
    return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

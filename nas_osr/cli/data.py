"""`nas-osr data`: which protocols there are, whether their images are there, and how to get them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nas_osr.data.protocols import PROTOCOLS, Protocol, count_splits, make_protocol
from nas_osr.data.sources.catalogue import SOURCES
from nas_osr.errors import UserError

_PARTS = ("train", "test")


def list_protocols() -> None:
    """List the protocols: known and unknown classes, pixels, published families of class splits."""
    rows = [("protocol", "known", "unknown", "pixels", "families", "images from")]
    for name in PROTOCOLS:
        if name == "folder":
            rows.append(
                (name, "yours", "yours", "3x32x32 or more", "known=[...] or a seed", "DIR/{train,test}/CLASS/*")
            )
            continue
        protocol = make_protocol(name)
        sources = _sources(protocol)
        pixels = "x".join(map(str, protocol.image_shape))
        rows.append(
            (name, str(protocol.num_known), str(len(protocol.unknown)), pixels, _families(name), " + ".join(sources))
        )
    _print_table(rows)


def prepare(name: str, data_dir: Path | None = None, download: bool = False) -> None:
    """Make sure that the images of a protocol are there, and count them.

    Args:
        name: a protocol, see `nas-osr data list`.
        data_dir: where images live; without it, the environment variable NAS_OSR_DATA.
        download: fetch what is missing from its official address; otherwise a terminal is asked, and a script refused.
    """
    from nas_osr.data.sources.download import download_source
    from nas_osr.data.sources.reading import find_source, folder_classes, resolve_data_dir

    if name == "folder":
        names, trainable = folder_classes(resolve_data_dir(data_dir))
        print(f"folder: {len(names)} classes, {len(trainable)} of them with training images")
        return
    for source in _sources(make_protocol(name)):
        if source == "digits":
            print("digits: bundled with scikit-learn, nothing to prepare")
            continue
        folder = resolve_data_dir(data_dir)
        if any(find_source(source, part, folder) is None for part in _needed_parts(name, source)):
            megabytes = SOURCES[source].megabytes
            if not download and not _confirm(f"Download {source} ({megabytes} MB) into {folder}?"):
                raise UserError(
                    f"{source} is not in {folder}: run again with --download ({megabytes} MB), or put its official "
                    f"files there, or images as {source}/{{train,test}}/CLASS/*.png|jpg|webp"
                )
            download_source(source, folder)
        for part in _needed_parts(name, source):
            state, where = _describe(source, part, folder)
            if state == "broken":
                raise UserError(where)
            print(f"{source} {part}: {state} in {where}")


def check(data_dir: Path | None = None) -> None:
    """Say for every protocol whether its images are there, where, and how many; a broken source ends with exit code 2.

    Args:
        data_dir: where images live; without it, the environment variable NAS_OSR_DATA.
    """
    from nas_osr.data.sources.reading import resolve_data_dir

    folder = resolve_data_dir(data_dir)
    described: dict[tuple[str, str], tuple[str, str]] = {}
    rows = [("protocol", "ready", "source", "part", "images", "where")]
    for name in PROTOCOLS:
        if name == "folder":
            continue
        needed = [(source, part) for source in _sources(make_protocol(name)) for part in _needed_parts(name, source)]
        for source, part in needed:
            if (source, part) not in described:
                described[source, part] = _describe(source, part, folder)
        ready = all(described[key][0] not in ("missing", "broken") for key in needed)
        for index, key in enumerate(needed):
            first = (name, "yes" if ready else "no") if index == 0 else ("", "")
            rows.append((*first, *key, *described[key]))
    _print_table(rows)
    broken = [where for state, where in described.values() if state == "broken"]
    if broken:
        raise UserError(broken[0])


def _sources(protocol: Protocol) -> tuple[str, ...]:
    """The source of the known images, and that of the unknown ones if it is another."""
    return tuple(dict.fromkeys((protocol.source, protocol.unknown_source)))


def _needed_parts(name: str, source: str) -> tuple[str, ...]:
    """Unknown images are test images only."""
    return _PARTS if source == make_protocol(name).source else ("test",)


def _families(name: str) -> str:
    """E.g. "arpl 0-4, neal 0-4"."""
    counts = count_splits(name)
    return ", ".join(f"{family} 0-{count - 1}" if count > 1 else "one split" for family, count in counts.items())


def _describe(source: str, part: str, folder: Path) -> tuple[str, str]:
    """The number of images, "missing" or "broken"; and where they are or what is wrong."""
    from nas_osr.data.sources.reading import count_images, find_source

    expected = SOURCES[source].counts[part]
    if source == "digits":
        return str(expected), "bundled"
    location = find_source(source, part, folder)
    if location is None:
        return "missing", ""
    try:
        found = count_images(source, part, location)
    except UserError as error:
        return "broken", str(error)
    return str(found) if found == expected else f"{found} of {expected}", str(location.path)


def _confirm(question: str) -> bool:
    """Ask on a terminal; elsewhere the answer is no."""
    return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

"""`nas-osr data`: which protocols there are, whether their images are there, and how to get them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas_osr.cli.show import show_table
from nas_osr.data.counting import describe_counts
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources import open_source
from nas_osr.data.sources.base import SOURCE_PARTS, Source
from nas_osr.data.sources.places import resolve_data_dir
from nas_osr.data.tasks import PROTOCOLS, Task, count_splits, find_task
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path


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


def prepare(name: str, data_dir: Path | None = None, download: bool = False, skip_broken: bool = False) -> None:
    """Make sure that the images of a protocol are there and can be read, and count them.

    Archives that lie in the data folder are unpacked.

    Args:
        name: a protocol, see `nas-osr data list`, or a source of your own by its dotted path.
        data_dir: where images live, made if there is something to download; without it, the environment variable
            NAS_OSR_DATA.
        download: fetch what is missing or incomplete from its official address; otherwise a terminal is asked, and a
            script refused.
        skip_broken: count image files that cannot be read instead of stopping.
    """
    for key, parts in _needed_parts(find_task(name, import_plugins=True)).items():
        source = open_source(key, data_dir, skip_broken=skip_broken)
        if source.comes_with is not None:
            print(f"{key}: bundled with {source.comes_with}, nothing to prepare")
        else:
            if download and source.archives and not _is_file(data_dir):
                resolve_data_dir(data_dir, create=True)
            classes = len(source.class_names)  # some are found in the data folder: they say best what is missing
            if any(_is_incomplete(source, part) for part in parts):
                _fetch(source, parts, download)
            if not source.counts:
                print(f"{key}: {classes} classes, {len(source.trainable)} of them with training images")
        for part in parts:
            counts = source.count_classes(part, decode=True)
            print(f"{key} {part}: {_describe(source, part, counts)}")


def check(data_dir: Path | None = None) -> None:
    """Say for every protocol whether its images are there, where, and how many; a broken source ends with exit code 2.

    Args:
        data_dir: where images live; without it, the environment variable NAS_OSR_DATA.
    """
    folder = resolve_data_dir(data_dir)
    described: dict[tuple[str, str], str] = {}
    broken, lacking = [], set()
    rows: list[tuple[str, ...]] = [("protocol", "ready", "source", "part", "images")]
    for name, task in PROTOCOLS.items():
        if task.open_choice:
            continue
        needed = [(key, part) for key, parts in _needed_parts(task).items() for part in parts]
        for key, part in needed:
            if (key, part) in described:
                continue
            source, counts = open_source(key, folder), {}
            try:
                counts = source.count_classes(part)
                described[key, part] = _describe(source, part, counts) if counts else _missing(source)
            except UserError as error:
                broken.append(str(error))
                described[key, part] = f"broken: {error}"
            if not counts:
                lacking.add((key, part))
        ready = "no" if lacking.intersection(needed) else "yes"
        for index, where in enumerate(needed):
            rows.append((*(("", "") if index else (name, ready)), *where, described[where]))
    show_table(rows)
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


def _describe(source: Source, part: str, counts: Mapping[int, int]) -> str:
    """The number of images of each class, of how many where there is an official number, and where they are."""
    total, expected = sum(counts.values()), source.counts.get(part)
    shown = describe_counts({source.class_names[class_id]: n for class_id, n in counts.items()}, source.passed_over)
    short = f"{total} of {expected} images: " if expected is not None and total != expected else ""
    if source.comes_with is not None:
        return f"{short}{shown}, bundled with {source.comes_with}"
    location = source.find(part)
    return f"{short}{shown}; in {location.path}" if location is not None else "no images"


def _missing(source: Source) -> str:
    """That images are missing, and where they are packed, if they are."""
    packed = list(source.packed().values())
    return f"missing: `nas-osr data prepare {source.name}` unpacks {packed[0]}" if packed else "missing"


def _is_incomplete(source: Source, part: str) -> bool:
    """Whether a part is absent, or its official files are not all there as they should be."""
    location = source.find(part)
    if location is None or not location.official:
        return location is None
    try:
        return sum(source.count_classes(part).values()) != source.counts.get(part)
    except UserError:
        return True


def _is_file(data_dir: Path | None) -> bool:
    """Whether a file of the set was named in place of the folder."""
    return data_dir is not None and user_path(data_dir).is_file()


def _fetch(source: Source, parts: Sequence[str], download: bool) -> None:
    """Unpack or download what is missing, if that is wanted; raises UserError where it is not, or cannot be.

    Official files that are there in part are left to whoever reads them where no download is wanted.
    """
    from nas_osr.data.sources.download import download_source, sound_archives

    if not source.archives:
        raise UserError(f"{source.name} is not in {source.folder}: put images as {source.layout} there")
    packed, others = sound_archives(source)
    for path in others:
        print(f"{path}: not the official archive or not all of it, left alone")
    if len(packed) < len(source.archives) and not download:
        if all(source.find(part) is not None for part in parts):
            return
        size = f"{source.megabytes} MB"
        if not _confirm(f"Download {source.name} ({size}) into {source.folder}?"):
            raise UserError(
                f"{source.name} is not in {source.folder}: run again with --download ({size}), or put its official "
                f"files or archives there, or images as {source.layout}"
            )
    if packed:
        print(f"{source.name}: unpacking {', '.join(str(path) for path in packed.values())}")
    download_source(source, _home(source, parts), packed)


def _home(source: Source, parts: Sequence[str]) -> Path:
    """Where to unpack: the data folder, or that in which official files already lie in part."""
    inside = Path(str(source.official)).parts
    for location in filter(None, map(source.find, parts)):
        if location.official and location.path.parts[-len(inside) : -1] == inside[:-1]:
            return location.path.parents[len(inside) - 1]
    return source.folder


def _confirm(question: str) -> bool:
    """Ask on a terminal; elsewhere the answer is no."""
    return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

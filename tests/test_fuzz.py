"""Broken files of every kind that is read: each gives a result or a UserError of one line, soon and in little memory.

`make fuzz` runs the many cases of the profile "fuzz", the suite a few of each kind; `tests/corpus/TARGET/` holds cases
that once did harm.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import resource
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from nas_osr.architecture import load_architecture, published, sample_architecture
from nas_osr.cli.compare import compare
from nas_osr.cli.options import parse_options
from nas_osr.cli.sweep import check_sweep, option_names
from nas_osr.configuration import config_protocol
from nas_osr.data.image_files import read_images
from nas_osr.data.official import read_idx, read_mnist, read_svhn
from nas_osr.data.pickles import read_pickled_batch
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.export import load_with_weights, render
from nas_osr.graph import ArchitectureWeights, format_graphml, to_graph
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.predictions import read_predictions
from nas_osr.runs import RunFolder
from nas_osr.score_file import score_arrays
from nas_osr.storage import read_checkpoint
from nas_osr.sweeps.file import read_sweep
from nas_osr.sweeps.runner import PROGRAM, SweepFolder
from nas_osr.user_arrays import read_arrays
from retrain.config import RetrainConfig
from retrain.reopen import only_split, read_retrain_config
from strategies.config import SearchConfig

NIGHTLY = settings.get_current_profile_name() == "fuzz"
CASES = 700 if NIGHTLY else 32  # of each target
SECONDS = 15  # of the processor, for one case
PATIENCE = 300  # seconds of the clock, on a busy machine
MEGABYTES = 700  # more than the process had before
LONGEST = 2000  # characters of a message
CORPUS = Path(__file__).parent / "corpus"
SWEEP = CORPUS / "small-sweep.yaml"

# What stands in for a value of a document.
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 10**6, -(10**9), 1 << 64, 10**40, 0.5, -0.5, 1e308, 1e-320, float("nan"),
    float("inf"), "", "0", "0-3", "0-999999999", "a", "os.system", "nas_osr.errors.UserError", "x" * 300, "{out}",
    "{a}", "\x00", "\ud800", "é", "\n", "../../etc/passwd", "/dev/zero", [], {}, [[]], [0], ["a"], [None], {"": None},
    {"a": 1}, {"mean": 1}, [[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]],
]  # fmt: skip


ODD_YAML = [
    '!!int ""', "!!python/object/apply:os.system [id]", "!!bool x", "!!timestamp x", "!!binary é", "*b", "&a [*a]",
    "1" + ":59" * 300 + ".5", "0x" + "f" * 5000, "{<<: 1}", "2020-99-99", "!!set {a}", "!!omap [a]", "? [a]",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: the file's name in the folder that `read` gets.
        seeds: makes sound contents, once.
        read: what the toolkit does with the folder.
        change: makes a broken content of a sound one.
        beside: writes the other files that are needed.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    change: Callable[[bytes, Random], bytes]
    beside: Callable[[Path], Any] = lambda folder: None


# Changes


def change_bytes(data: bytes, random: Random) -> bytes:
    """Cut, flip, repeat, insert, or write in another encoding."""
    for _ in range(random.randint(1, 4)):
        at, to = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
        kind = random.randint(0, 8)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << random.randint(0, 7))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            data = data[:to] + data[at:]
        elif kind == 4:
            data = data[:at] + bytes(random.randint(0, 255) for _ in range(random.randint(1, 8))) + data[at:]
        elif kind == 5:
            data = data[:at] + random.choice([b"\xff" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff", b"\x80"]) + data[at + 4 :]
        elif kind == 6:
            data = random.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b"]) + data
        elif kind == 7:
            data = data.decode("latin-1").encode(random.choice(["utf-16", "utf-8", "utf-32"]))
        else:
            data = (
                data[:at]
                + random.choice([b"[" * 3000, b'{"a":' * 3000, b"9" * 6000, b"&a [*a]", b"- " * 2000])
                + data[at:]
            )
    return data


def change_value(value: Any, random: Random) -> Any:
    """A document with something deleted, replaced, renamed, doubled or nested."""
    value = copy.deepcopy(value)
    for _ in range(random.randint(1, 3)):
        inside = list(containers(value))
        place = random.choice(inside) if inside else None
        if not place:
            return random.choice(NASTY)
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        kind = random.randint(0, 5)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[random.choice(["", "a", "unknown", "x" * 300, "é\ud800"])] = place.pop(key)
        elif kind == 2 and isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        elif kind == 3:
            place[key] = [copy.deepcopy(place[key])]
        else:
            place[key] = copy.deepcopy(random.choice(NASTY))
    return value


def containers(value: Any) -> Iterator[Any]:
    """Every list and mapping in a document that is not empty."""
    if isinstance(value, dict | list) and value:
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def change_json(data: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return change_bytes(data, random)
    text = json.dumps(change_value(json.loads(data), random))
    if random.random() < 0.1:  # a key twice
        text = text.replace("{", '{"schema": 1, "schema": 1, ', 1)
    return text.encode()


def change_lines(data: bytes, random: Random) -> bytes:
    """JSON lines: one of them, or their order."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    lines = data.splitlines()
    at = random.randrange(len(lines))
    lines[at : at + random.randint(0, 1)] = [change_json(lines[at], random)]
    return b"\n".join(lines) + b"\n" * random.randint(0, 2)


def change_yaml(data: bytes, random: Random) -> bytes:
    if random.random() < 0.3:
        return change_bytes(data, random)
    if random.random() < 0.2:
        lines = data.decode().splitlines()
        at = random.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + ": " + random.choice(ODD_YAML)
        return "\n".join(lines).encode()
    value = change_value(yaml.safe_load(data), random)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=random.random() < 0.5).encode("utf-8", "surrogatepass")


def change_zip(data: bytes, random: Random) -> bytes:
    """The members of an archive, with checksums that are right."""
    if random.random() < 0.3:
        return change_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [[info.filename, archive.read(info)] for info in archive.infolist()]
    at = random.randrange(len(members))
    kind = random.randint(0, 9)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append(list(members[at]))
    elif kind == 2:
        members[at][0] = random.choice(["../outside", "/etc/x", "data.pkl", "test_logits.npy", "x" * 200])
    else:
        members[at][1] = change_bytes(members[at][1], random)
    written = io.BytesIO()
    method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, content in members:
            archive.writestr(name, content)
    return written.getvalue()


# Sound contents, and what is done with the files


def searched() -> tuple[Any, list[dict[str, Any]]]:
    """An architecture with the history of its search."""
    architecture = sample_architecture(published().space, (1, 2), 3)
    architecture.found.update({"epoch": 1, "F1": 0.5})
    weights = uniform_weights(architecture)
    names = ("finer", "same")
    alpha = {
        f"{l}/{s}": dict(zip(architecture.space.operations, p, strict=True)) for (l, s), p in weights.alpha.items()
    }
    beta = {f"{l}/{s}": dict(zip(names, p, strict=True)) for (l, s), p in weights.beta.items()}
    return architecture, [{"epoch": epoch, "F1": 0.5, "alpha": alpha, "beta": beta} for epoch in range(2)]


def uniform_weights(architecture: Any) -> ArchitectureWeights:
    from nas_osr.architecture import cells, mixing_cells

    space, branches = architecture.space, list(architecture.branches)
    share = 1 / len(space.operations)
    alpha = {cell: (share,) * len(space.operations) for cell in cells(space.layers, branches)}
    return ArchitectureWeights(alpha, dict.fromkeys(mixing_cells(space.layers, branches), (0.25, 0.75)))


def seeds_architecture() -> list[bytes]:
    return [published().to_json().encode(), searched()[0].to_json().encode()]


def seeds_graphml() -> list[bytes]:
    architecture = searched()[0]
    return [
        format_graphml(to_graph(published())).encode(),
        format_graphml(to_graph(architecture, uniform_weights(architecture))).encode(),
    ]


def read_picture(folder: Path, name: str = "") -> None:
    architecture, weights = load_with_weights(folder / name)
    for kind in ("json", "graphml", "gv"):
        render(architecture, weights, kind)


def seeds_checkpoint() -> list[bytes]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"epoch": 1, "learner": model.state_dict(), "optimizer": optimizer.state_dict(), "best": {"f1": 0.5}}
    written = io.BytesIO()
    torch.save({**state, "random": torch.get_rng_state(), "names": ["a", None, True]}, written)
    return [written.getvalue()]


def read_own_checkpoint(folder: Path) -> None:
    state = read_checkpoint(folder / "checkpoint.pt")
    with contextlib.suppress(KeyError, RuntimeError, AttributeError, TypeError):  # what `load_learner` tells the user
        torch.nn.Linear(3, 2).load_state_dict(state["learner"])


def seeds_config() -> list[bytes]:
    given = SearchConfig(
        protocol="digits",
        preset="tiny",
        known=[0, [1, 2], 3],
        rule="cap",
        objective_config={"ce_weight": 1.0},
    )
    return [yaml.safe_dump(given.recorded(), sort_keys=False).encode(), b"epochs: 30\nplugin: []\nquiet: true\n"]


def read_request(folder: Path) -> None:
    values = parse_options(SearchConfig, ["--config", str(folder / "config.yaml")], "search")
    if values is not None and not values["plugin"]:
        config = SearchConfig(**values).resolved()
        config_protocol(config, config.split)


def retrained() -> dict[str, Any]:
    given = RetrainConfig(
        protocol="digits", preset="tiny", architecture=published().to_dict(), objective="cross_entropy", rule="mls"
    )
    return {**given.recorded(), "splits": "0", "seeds": "0"}


def seeds_run_config() -> list[bytes]:
    return [yaml.safe_dump(retrained(), sort_keys=False).encode()]


def read_run_config(folder: Path) -> None:
    run = RunFolder.open(folder)
    config = read_retrain_config(run)
    objective_class(config.objective, import_plugins=False)
    protocol = config_protocol(config, only_split(run, config))
    resolve_objective_config(config.objective, config.objective_config, protocol, "retrain")


def write_run(folder: Path) -> None:
    (folder / "provenance.json").write_text('{"program": "nas-osr", "finished": "now"}')


def read_plan(folder: Path) -> None:
    plan = read_sweep(str(folder / "sweep.yaml"), option_names)
    if len(plan.runs) <= 8 and not any("plugin" in run.options or "rule" in run.options for run in plan.runs[:2]):
        check_sweep(plan)


def seeds_sweep_state() -> list[bytes]:
    run = {"command": "retrain", "options": {"protocol": "digits"}, "status": "finished", "error": "", "started": "now"}
    return [json.dumps({"program": PROGRAM, "schema": 1, "runs": {"alpha-1": run, "mls-1": run}}).encode()]


@cache
def small_plan() -> Any:
    return read_sweep(str(SWEEP), option_names)


def read_state(folder: Path) -> None:
    known = SweepFolder(folder, option_names)
    for run in small_plan().runs:
        known.finished(run)
        known.changed(run)
    known.check_unchanged(small_plan().runs)


def seeds_images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    contents = []
    for kind, mode in (
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "1"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
    ):
        written = io.BytesIO()
        options = {"exif": exif} if mode == "RGB" else {}
        image.convert(mode).save(written, kind, **options)
        contents.append(written.getvalue())
    return contents


def read_photograph(folder: Path) -> None:
    assert read_images([folder / "image.png"], (3, 16, 16), convert=True).shape == (1, 3, 16, 16)
    with contextlib.suppress(UserError):
        read_images([folder / "image.png"], (3, 32, 32), grey_too=True)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def read_idx_files(folder: Path) -> None:
    with contextlib.suppress(UserError):
        read_idx(folder / "t10k-images-idx3-ubyte")
    read_mnist(folder, "test")


def seeds_matlab() -> list[bytes]:
    contents = []
    for compressed in (False, True):
        written = io.BytesIO()
        images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
        savemat(written, {"X": images, "y": np.array([[1], [10]], np.uint8)}, do_compression=compressed)
        contents.append(written.getvalue())
    return contents


def seeds_pickle() -> list[bytes]:
    data = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "filenames": ["a", "b"]}
    return [pickle.dumps(data, protocol) for protocol in (2, 4, 5)]


def seeds_arrays() -> list[bytes]:
    generator = np.random.default_rng(0)
    labels = np.arange(20) % 2
    arrays = {
        **{
            f"{part}_logits": generator.normal(size=(20, 2)).astype(np.float32)
            for part in ("train", "validation", "test")
        },
        **{f"{part}_labels": labels for part in ("train", "validation")},
        "test_labels": np.arange(20) % 3,
        "test_classes": np.array(["cat", "dog", "eel", "fox"] * 5),
    }
    contents = []
    for save in (np.savez, np.savez_compressed):
        written = io.BytesIO()
        save(written, **arrays)
        contents.append(written.getvalue())
    return contents


def read_and_score(folder: Path) -> None:
    score_arrays(read_arrays(folder / "arrays.npz"), "mls")


def seeds_metrics() -> list[bytes]:
    metrics = {"auroc": 0.7, "macro_f1": None, "closed_set_accuracy": 0.9, "tnr_at_95_tpr": 0.25}
    about = {
        "rule": "mls",
        "protocol": make_protocol("digits").to_dict(),
        "parameters": 639_000,
        "macs": 10,
        "label": "",
    }
    return [json.dumps({"metrics": metrics, **about}).encode()]


def write_retraining(folder: Path) -> None:
    write_run(folder)
    (folder / "split-0").mkdir()
    for part in (folder, folder / "split-0"):
        write_run(part)
        (part / "config.yaml").write_bytes(seeds_run_config()[0])
    (folder / "split-0" / "metrics.json").write_bytes(seeds_metrics()[0])


def read_comparison(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        compare([str(folder)])
        compare([str(folder)], format="csv", published=False)
        compare([str(folder)], json=True)


PREDICTIONS = b"""index,true_label,true_class,predicted_label,closed_set_label,knownness,logit_0,logit_1
0,0,cat,0,0,1.5,1.5,0.5
1,1,"dog, old",1,1,0.25,-1.0,0.25
2,2,eel,2,0,-inf,-3.0,-4.0
"""


def read_judgements(folder: Path) -> None:
    predictions = read_predictions(folder / "predictions.csv")
    predictions.metrics()
    predictions.intervals(repeats=2)
    predictions.openness_curve(max_subsets=3)


def seeds_history() -> list[bytes]:
    return ["".join(json.dumps(record) + "\n" for record in searched()[1]).encode()]


TARGETS = {
    "architecture": Target("a.json", seeds_architecture, lambda at: load_architecture(at / "a.json"), change_json),
    "graphml": Target("a.graphml", seeds_graphml, lambda folder: read_picture(folder, "a.graphml"), change_bytes),
    "history": Target(
        "history.jsonl", seeds_history, read_picture, change_lines,
        lambda folder: searched()[0].save(folder / "architecture.json"),
    ),
    "checkpoint": Target("checkpoint.pt", seeds_checkpoint, read_own_checkpoint, change_zip),
    "config": Target("config.yaml", seeds_config, read_request, change_yaml),
    "run-config": Target("config.yaml", seeds_run_config, read_run_config, change_yaml, write_run),
    "sweep": Target("sweep.yaml", lambda: [SWEEP.read_bytes()], read_plan, change_yaml),
    "sweep-state": Target("sweep.json", seeds_sweep_state, read_state, change_json),
    "image": Target("image.png", seeds_images, read_photograph, change_bytes),
    "idx": Target(
        "t10k-images-idx3-ubyte", lambda: [idx(np.zeros((2, 28, 28), np.uint8))], read_idx_files, change_bytes,
        lambda folder: (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(2, dtype=np.uint8))),
    ),
    "matlab": Target("test_32x32.mat", seeds_matlab, lambda folder: read_svhn(folder / "test_32x32.mat"), change_bytes),
    "pickle": Target("batch", seeds_pickle, lambda folder: read_pickled_batch(folder / "batch"), change_bytes),
    "arrays": Target("arrays.npz", seeds_arrays, read_and_score, change_zip),
    "metrics": Target("split-0/metrics.json", seeds_metrics, read_comparison, change_json, write_retraining),
    "compared-config": Target("split-0/config.yaml", seeds_run_config, read_comparison, change_yaml, write_retraining),
    "predictions": Target("predictions.csv", lambda: [PREDICTIONS], read_judgements, change_bytes),
}  # fmt: skip


# The check


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Fail when the block takes too long, or makes the process much larger than it has ever been."""

    def stop(number: int, frame: Any) -> None:
        raise AssertionError(f"not done after {SECONDS} s of the processor, or {PATIENCE} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timers = ((signal.SIGVTALRM, signal.ITIMER_VIRTUAL, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE))
    previous = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10  # KiB on Linux
    assert grown < MEGABYTES, f"took {grown} MiB"


def check(target: Target, content: bytes, folder: Path) -> None:
    """Read a content: anything but a result or a clear UserError is an error of ours."""
    folder.mkdir()
    target.beside(folder)
    (folder / target.name).write_bytes(content)
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(folder)
        except UserError as error:
            assert "\n" not in str(error) and 0 < len(str(error)) < LONGEST


@cache
def seeds(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    """What is broken below was not broken before: the cases reach the readers."""
    target = TARGETS[name]
    for number, content in enumerate(seeds(name)):
        folder = tmp_path / str(number)
        folder.mkdir()
        target.beside(folder)
        (folder / target.name).write_bytes(content)
        if (name, number) != ("image", 6):  # a GIF is refused
            target.read(folder)


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=CASES, derandomize=not NIGHTLY, database=None, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(random=st.randoms(use_true_random=False))
def test_broken_files(name: str, tmp_path_factory: pytest.TempPathFactory, random: Random) -> None:
    target = TARGETS[name]
    content = target.change(random.choice(seeds(name)), random)
    check(target, content, tmp_path_factory.mktemp(name) / "files")


@pytest.mark.parametrize(
    "case", sorted(path for path in CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_kept_cases(case: Path, tmp_path: Path) -> None:
    check(TARGETS[case.parent.name], case.read_bytes(), tmp_path / "files")

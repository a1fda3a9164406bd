"""The files that the toolkit reads: sound contents of each kind, what is done with them, and how they are broken."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import md5
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from changes import change_bytes, change_json, change_lines, change_yaml, change_zip
from models import read_model, read_tensors_of_model, small_models
from PIL import Image
from scipy.io import savemat

from nas_osr.cli.compare import compare
from nas_osr.cli.options import parse_options
from nas_osr.cli.sweep import check_sweep, option_names
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources.cifar import CIFAR10
from nas_osr.data.sources.image_files import read_images
from nas_osr.data.sources.mnist import MNIST, read_idx
from nas_osr.data.sources.svhn import SVHN
from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import read_predictions
from nas_osr.evaluation.score_file import score_arrays
from nas_osr.evaluation.user_arrays import read_arrays
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.retrain.reopen import only_split, read_retrain_config
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.taking_over import read_origin, take_over
from nas_osr.runs.checkpoints import read_checkpoint
from nas_osr.runs.names import PROGRAM
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.architectures.export import load_with_weights, render
from nas_osr.search_spaces.architectures.graph import format_graphml, to_graph
from nas_osr.search_spaces.architectures.references import load_architecture, published
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.sweeps.sweep_file import read_sweep
from nas_osr.sweeps.sweep_folder import SweepFolder

CORPUS = Path(__file__).parent / "corpus"
SWEEP = CORPUS / "small-sweep.yaml"


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


def searched() -> tuple[Any, list[dict[str, Any]]]:
    """An architecture with the history of its search."""
    architecture = sample_architecture(replace(published().space, branches=(1, 2)), 3)
    architecture.found.update({"epoch": 1, "F1": 0.5})
    weights = uniform_weights(architecture)
    names = ("finer", "same")
    alpha = {
        f"{l}/{s}": dict(zip(architecture.space.operations, p, strict=True)) for (l, s), p in weights.alpha.items()
    }
    beta = {f"{l}/{s}": dict(zip(names, p, strict=True)) for (l, s), p in weights.beta.items()}
    return architecture, [{"epoch": epoch, "F1": 0.5, "alpha": alpha, "beta": beta} for epoch in range(2)]


def uniform_weights(architecture: Any) -> ArchitectureWeights:
    from nas_osr.search_spaces.space import cells, mixing_cells

    space = architecture.space
    share = 1 / len(space.operations)
    alpha = {cell: (share,) * len(space.operations) for cell in cells(space.layers, space.branches)}
    return ArchitectureWeights(alpha, dict.fromkeys(mixing_cells(space.layers, space.branches), (0.25, 0.75)))


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
    given = SearchRequest(
        protocol="digits",
        preset="tiny",
        known=[0, [1, 2], 3],
        rule="cap",
        objective_config={"ce_weight": 1.0},
    )
    return [yaml.safe_dump(given.recorded(), sort_keys=False).encode(), b"epochs: 30\nplugin: []\nquiet: true\n"]


def read_request(folder: Path) -> None:
    values = parse_options(SearchRequest, ["--config", str(folder / "config.yaml")], "search")
    if values is not None and not values.get("plugin"):
        plan_search(SearchRequest(**values))


def retrained() -> dict[str, Any]:
    given = RetrainRequest(
        protocol="digits",
        family="arpl",
        preset="tiny",
        architecture=published().to_dict(),
        objective="cross_entropy",
        rule="mls",
    )
    return {**given.recorded(), "splits": "0", "seeds": "0"}


def seeds_run_config() -> list[bytes]:
    return [yaml.safe_dump(retrained(), sort_keys=False).encode()]


def read_run_config(folder: Path) -> None:
    run = RunFolder.open(folder)
    config = read_retrain_config(run)
    objective_class(config.objective, import_plugins=False)
    protocol = config.published_protocol(only_split(run, config))
    resolve_objective_config(config.objective, config.objective_config, protocol, "retrain")


def read_searched_for(folder: Path) -> None:
    request = RetrainRequest(architecture=str(folder))
    where, searched = read_origin(request)
    take_over(request, searched, where)


def write_search(folder: Path) -> None:
    write_run(folder)
    published().save(folder / "architecture.json")


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
        ("TIFF", "RGB"),
        ("TIFF", "I;16"),
        ("BMP", "RGB"),
        ("PPM", "RGB"),
        ("AVIF", "RGB"),
    ):
        written = io.BytesIO()
        options = {"exif": exif} if mode == "RGB" else {}
        (image.convert("L") if mode == "I;16" else image).convert(mode).save(written, kind, **options)
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
    MNIST().read_official(folder, "test", range(10), None)


@cache
def seeds_matlab() -> list[bytes]:
    contents = []
    for compressed in (False, True):
        written = io.BytesIO()
        images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
        savemat(written, {"X": images, "y": np.array([[1], [10]], np.uint8)}, do_compression=compressed)
        contents.append(written.getvalue())
    return contents


def read_house_numbers(folder: Path) -> None:
    """No file but an official one is opened; here those are the seeds."""
    content = (folder / "test_32x32.mat").read_bytes()
    source = SVHN()
    official = md5(content).hexdigest() if content in seeds_matlab() else "another"
    source.checksums = {"test": {"test_32x32.mat": official}}
    source.read_official(folder / "test_32x32.mat", "test", range(10), None)


def seeds_pickle() -> list[bytes]:
    data = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "filenames": ["a", "b"]}
    return [pickle.dumps(data, protocol) for protocol in (2, 4, 5)]


def read_objects(folder: Path) -> None:
    """As for house numbers."""
    content = (folder / "test_batch").read_bytes()
    source = CIFAR10()
    official = md5(content).hexdigest() if content in seeds_pickle() else "another"
    source.checksums = {"test": {"test_batch": official}}
    source.read_official(folder, "test", range(10), None)


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
    "model": Target("model.json", lambda: [files["model.json"] for files in small_models()], read_model, change_json),
    "model-tensors": Target(
        "model.safetensors", lambda: [small_models()[0]["model.safetensors"]], read_tensors_of_model, change_bytes
    ),
    "config": Target("config.yaml", seeds_config, read_request, change_yaml),
    "run-config": Target("config.yaml", seeds_run_config, read_run_config, change_yaml, write_run),
    "search-config": Target("config.yaml", seeds_config, read_searched_for, change_yaml, write_search),
    "sweep": Target("sweep.yaml", lambda: [SWEEP.read_bytes()], read_plan, change_yaml),
    "sweep-state": Target("sweep.json", seeds_sweep_state, read_state, change_json),
    "image": Target("image.png", seeds_images, read_photograph, change_bytes),
    "idx": Target(
        "t10k-images-idx3-ubyte", lambda: [idx(np.zeros((2, 28, 28), np.uint8))], read_idx_files, change_bytes,
        lambda folder: (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(2, dtype=np.uint8))),
    ),
    "matlab": Target("test_32x32.mat", seeds_matlab, read_house_numbers, change_bytes),
    "pickle": Target("test_batch", seeds_pickle, read_objects, change_bytes),
    "arrays": Target("arrays.npz", seeds_arrays, read_and_score, change_zip),
    "metrics": Target("split-0/metrics.json", seeds_metrics, read_comparison, change_json, write_retraining),
    "compared-config": Target("split-0/config.yaml", seeds_run_config, read_comparison, change_yaml, write_retraining),
    "predictions": Target("predictions.csv", lambda: [PREDICTIONS], read_judgements, change_bytes),
}  # fmt: skip

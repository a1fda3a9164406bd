"""Model folders to be broken: small ones of real classes, with fresh weights."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from nas_osr.data.protocols import make_protocol
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.outputs import Outputs
from nas_osr.plans import ObjectivePlan
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.model import Model, inputs_of, write_model
from nas_osr.retrain.model_reading import open_model
from nas_osr.search_spaces.architectures.references import published


@cache
def small_models() -> list[dict[str, bytes]]:
    """The files of a model folder each."""
    protocol = make_protocol("digits")
    architecture = replace(published(), space=replace(published().space, channels=16))
    found = []
    for name, rule in (("gmvae", "nc_distance"), ("cross_entropy", "openmax")):
        settings = resolve_objective_config(name, {}, protocol, "retrain")
        plan = ObjectivePlan(name, objective_class(name), settings, rule, {})
        learner = build_learner(architecture, protocol, plan).eval()
        fitted = plan.make_rule()
        labels = torch.arange(12) % 6
        with torch.inference_mode():
            outputs: Outputs = learner.infer(torch.rand(12, 1, 32, 32))
        fitted.fit(outputs, labels, learner.objective)
        fitted.set_threshold(outputs, labels)
        thresholds = None if name == "gmvae" else (0.5,) * 6
        about = {"protocol": protocol.to_dict(), "metrics": {"auroc": 0.5}}
        with tempfile.TemporaryDirectory() as folder:
            write_model(
                Path(folder), Model(architecture, plan, inputs_of(protocol), learner, fitted, thresholds, about)
            )
            found.append({path.name: path.read_bytes() for path in Path(folder).iterdir()})
    return found


def read_model(folder: Path) -> None:
    """Open a model.json beside the tensors that it was written for."""
    of_gmvae, of_classifier = small_models()
    files = of_gmvae if b"nc_distance" in (folder / "model.json").read_bytes() else of_classifier
    (folder / "model.safetensors").write_bytes(files["model.safetensors"])
    open_model(folder)


def read_tensors_of_model(folder: Path) -> None:
    """Open a model.safetensors, whose checksum has been put right by whoever broke it."""
    content = (folder / "model.safetensors").read_bytes()
    described = json.loads(small_models()[0]["model.json"])
    described["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(described))
    open_model(folder)

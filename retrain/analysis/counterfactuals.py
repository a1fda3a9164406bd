"""Counterfactual images Dec(mu_j, z), what an image would be as a member of each class (NAS-OSR, CAP's first stage)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nas_osr.configuration import UserPath, check_choice
from nas_osr.errors import UserError
from nas_osr.option_docs import POSITIVE, SEEDS
from nas_osr.retrain.analysis.base import NetworkAnalysis, Table, check_picture, runs_table
from nas_osr.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from nas_osr.data.dataset import LabelledImages
    from nas_osr.outputs import Outputs
    from nas_osr.retrain.reopen import Reopened


@dataclass
class Counterfactuals(NetworkAnalysis):
    """Draw images as the decoder sees them under every class, Dec(mu_j, z), and measure how like them they are."""

    name: ClassVar[str] = "counterfactuals"

    part: str = "validation"
    "whose images are used: validation (known ones) or test (known and unknown ones)."
    images: Annotated[int, POSITIVE] = 12
    "so many images in the picture."
    seed: Annotated[int, SEEDS] = 0
    "draws the images of the picture."
    pictures: UserPath | None = None
    "file for the picture: .png, .svg or .pdf."

    def check(self) -> None:
        check_choice(self, "part", ("validation", "test"))
        check_picture(self.pictures)

    def figures(self, run: RunFolder) -> dict[str, Any]:
        """How well the decoder draws, of known images and, in the test part, of unknown ones.

        Returns:
            decoder_share, the squared error of the reconstructions as a share of that of the images' mean; own_is_best,
            the share of known images that are reconstructed best under their own class; error_known, and in the test
            part error_unknown and auroc: the mean least error of a class-conditional reconstruction, in normalised
            pixel units, and how it tells the two apart (CAP's first stage).

        Raises:
            UserError: the run's objective has no counterfactuals.
        """
        from nas_osr.evaluation.judging import collect_outputs, decoder_figures
        from nas_osr.metrics.open_set import auroc
        from nas_osr.retrain.evaluate import fit_rules
        from nas_osr.scoring import make_rule

        opened = self.reopen(run)
        if not hasattr(opened.learner.objective, "redraw"):
            raise UserError(f"{run.path}: {opened.objective.name} decodes no counterfactuals; vae_contrastive does")
        learner, device = opened.learner, opened.fabric.device
        fit_rules([make_rule("cap")], learner, opened.data, device)  # tells the objective the class means
        data = opened.data.validation if self.part == "validation" else opened.data.test()
        unknown = data.labels == opened.protocol.num_known
        outputs: Outputs = collect_outputs(learner.infer, data, device=device)
        errors = outputs.class_reconstruction_error
        assert errors is not None
        least, own = errors.double().min(dim=1)
        figures: dict[str, Any] = {
            **decoder_figures(learner.reconstruct, data.select(~unknown).to(device)),
            "own_is_best": float((own == data.labels)[~unknown].double().mean()),
            "error_known": float(least[~unknown].mean()),
        }
        if unknown.any():
            figures |= {"error_unknown": float(least[unknown].mean()), "auroc": auroc(-least.numpy(), unknown.numpy())}
        self.keep_sample(opened, data)
        return figures

    def keep_sample(self, opened: Reopened, data: LabelledImages) -> None:
        """Leave a sample in the run folder: each image itself, its reconstruction, and itself under every class."""
        import torch

        from nas_osr.data.batches import to_float
        from nas_osr.retrain.analysis.frozen_network import draw_sample, keep_pictures, name_given

        chosen = data.select(draw_sample(len(data), self.images, self.seed, "counterfactuals"))
        chosen = chosen.select(chosen.labels.argsort(stable=True))
        learner = opened.learner
        images = to_float(chosen.images.to(opened.fabric.device))
        with torch.inference_mode():
            columns = [images, learner.reconstruct(images), *learner.objective.redraw(learner.encoder, images)]
            best = learner.infer(images).class_reconstruction_error.argmin(dim=1).tolist()
        names = ["+".join(names) for names in opened.protocol.known]
        rows = [names[label] if label < len(names) else "unknown" for label in chosen.labels.tolist()]
        given, titles = name_given(opened, images), ["image", "redrawn", *names]
        pictures = torch.stack(columns, dim=1).cpu()
        keep_pictures(opened.run, self.name, pictures, rows, given, columns=titles, best=best)

    def tables(self, results: Mapping[str, dict[str, Any]]) -> Iterator[Table]:
        """The figures, a column for each run."""
        yield runs_table(results)

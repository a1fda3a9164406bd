"""Outputs in order and without gradients; metrics and predictions of a fitted rule."""

import numpy as np
import pytest
import torch

from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs, decoder_figures, evaluate_rule, short_classes
from nas_osr.evaluation.predictions import read_predictions, write_predictions
from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule


def make_images(size):
    images = torch.randint(0, 256, (size, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(size) % 3
    return LabelledImages(images, labels, labels + 5)


class Network(torch.nn.Module):
    """Logits linear in the pixels, noting the batch sizes."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 2)
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return Outputs(logits=self.linear(images.flatten(1)), embedding=images.flatten(1))


def test_outputs_of_batches_are_those_of_all_images_in_order():
    data, network = make_images(23), Network()
    outputs = collect_outputs(network, data, batch_size=10, device="cpu")
    assert network.sizes == [10, 10, 3]
    assert outputs.available() == {"logits", "embedding"}
    assert not outputs.logits.requires_grad
    torch.testing.assert_close(outputs.embedding, data.images.float().flatten(1) / 255)
    torch.testing.assert_close(outputs.logits, network.linear(outputs.embedding).detach())


def test_a_decoder_is_measured_by_the_mean_image():
    data = make_images(23)
    images = data.images.float() / 255
    mean = images.mean(dim=0)
    assert decoder_figures(lambda batch: batch, data, batch_size=10)["decoder_share"] < 1e-12
    share = decoder_figures(lambda batch: mean.expand_as(batch), data, batch_size=10)["decoder_share"]
    assert share == pytest.approx(1.0, rel=1e-5)
    halfway = decoder_figures(lambda batch: (batch + mean) / 2, data, batch_size=10)["decoder_share"]
    assert halfway == pytest.approx(0.25, rel=1e-5)
    assert decoder_figures(lambda batch: None, data) == {}
    same = data.select(torch.zeros(5, dtype=torch.int64))
    assert decoder_figures(lambda batch: batch, same) == {}


def test_no_images_is_refused():
    with pytest.raises(UserError, match="no images"):
        collect_outputs(Network(), make_images(0), batch_size=4)


def test_metrics_and_predictions_agree_and_survive_the_file(tmp_path):
    data = make_images(60)
    outputs = collect_outputs(Network(), data, batch_size=64)
    rule = make_rule("mls")
    known = data.labels < 2
    rule.set_threshold(outputs[known], data.labels[known])
    found, predictions = evaluate_rule(
        rule, outputs, data.labels, data.source_labels, known_names={5: "cat"}, unknown_names={5: "fox", 7: "owl"}
    )
    assert predictions.true_class[:3].tolist() == ["cat", "6", "owl"]
    np.testing.assert_array_equal(predictions.predicted_label, rule.decide(rule.scores(outputs)))
    np.testing.assert_array_equal(predictions.knownness, outputs.logits.amax(1))
    assert found["accepted_known"] == pytest.approx(0.95)
    assert found["openness_gradmix"] == pytest.approx(1 - np.sqrt(2 / 3))
    write_predictions(tmp_path / "predictions.csv", predictions)
    assert read_predictions(tmp_path / "predictions.csv").metrics() == found


@pytest.mark.parametrize("name", ["neighbours", "nc_distance"])
def test_without_logits_the_columns_are_the_rules_scores(tmp_path, name):
    """The same embeddings with and without logits: only the columns of class scores differ."""
    data = make_images(60)
    outputs = collect_outputs(Network(), data)
    outputs.latent_mean = outputs.embedding
    rule = make_rule(name)
    known = data.labels < 2
    rule.fit(outputs[known], data.labels[known])
    rule.set_threshold(outputs[known], data.labels[known])
    with_logits, expected = evaluate_rule(rule, outputs, data.labels, data.source_labels)
    bare = Outputs(embedding=outputs.embedding, latent_mean=outputs.latent_mean)
    found, predictions = evaluate_rule(rule, bare, data.labels, data.source_labels)
    assert found == with_logits
    assert (expected.column, predictions.column) == ("logit", "score")
    assert predictions.num_known == 2
    np.testing.assert_array_equal(expected.class_scores, outputs.logits.double())
    np.testing.assert_array_equal(predictions.class_scores, rule.scores(bare).class_scores)
    np.testing.assert_array_equal(predictions.closed_set_label, predictions.class_scores.argmax(axis=1))
    write_predictions(tmp_path / "predictions.csv", predictions)
    assert (tmp_path / "predictions.csv").read_text().partition("\n")[0].endswith(",knownness,score_0,score_1")
    assert read_predictions(tmp_path / "predictions.csv").metrics() == found


def test_scores_that_are_not_numbers_are_refused():
    rule = make_rule("energy")
    rule.threshold = 0.0
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    with pytest.raises(UserError, match="'energy': 1 of 2 scores are not numbers"):
        evaluate_rule(rule, Outputs(logits=logits), torch.tensor([0, 2]), torch.tensor([0, 1]))


def test_classes_of_too_few_images_are_named_where_the_rule_tells_classes_apart() -> None:
    labels, names = torch.tensor([0] * 30 + [1] * 4 + [2] * 5), ["ant", "bee", "cat", "dog"]
    assert short_classes(make_rule("mls"), labels, names) is None
    assert short_classes(make_rule("sml"), labels[:30], names[:1]) is None
    assert short_classes(make_rule("sml"), labels, names) == (
        "scoring rule 'sml': fewer than 5 known validation images of bee, dog: judged on the scale of all classes there"
    )

"""What is known of pytorch-ood's detectors without that library, which takes seconds to import. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping

#: Those of version 0.4 that are scoring rules, with their papers; a later version may have more.
DETECTORS: Mapping[str, str] = {
    "ASH": "Extremely Simple Activation Shaping for Out-of-Distribution Detection (2023)",
    "DICE": "DICE: Leveraging Sparsification for Out-of-Distribution Detection (2022)",
    "EnergyBased": "Energy-based Out-of-distribution Detection (2020)",
    "Entropy": "Entropy Maximization and Meta Classification for Out-of-Distribution Detection in Semantic "
    "Segmentation (2021)",
    "GEN": "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection (2023)",
    "GMM": "a mixture of Gaussians, of no paper",
    "KLMatching": "Scaling Out-of-Distribution Detection for Real-World Settings (2022)",
    "KNN": "Out-of-Distribution Detection with Deep Nearest Neighbors (2022)",
    "LTS": "Logit Scaling for Out-of-Distribution Detection (2025)",
    "Mahalanobis": "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks "
    "(2018)",
    "MaxLogit": "Scaling Out-of-Distribution Detection for Real-World Settings (2022)",
    "MaxSoftmax": "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks (2017)",
    "NCI": "Detecting Out-of-Distribution Through the Lens of Neural Collapse (2025)",
    "NNGuide": "Nearest Neighbor Guidance for Out-of-Distribution Detection (2023)",
    "PNML": "Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution Detection (2021)",
    "RMD": "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection (2021)",
    "ReAct": "ReAct: Out-of-distribution Detection With Rectified Activations (2021)",
    "SCALE": "Scaling for Training Time and Post-hoc Out-of-distribution Detection Enhancement (2024)",
    "SHE": "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern Hopfield "
    "Energy (2023)",
    "TemperatureScaling": "On Calibration of Modern Neural Networks (2017)",
    "VRA": "Variational Rectified Activation for Out-of-distribution Detection (2023)",
    "ViM": "ViM: Out-Of-Distribution with Virtual-logit Matching (2022)",
    "fDBD": "Fast Decision Boundary based Out-of-Distribution Detector (2024)",
}

#: Why the others are none, and which rule to use in their place where there is one.
REFUSED: Mapping[str, str] = {
    "GradNorm": "it takes gradients of the network's weights: use gradnorm, which has those of the last layer",
    "GradUncertainty": "it takes gradients of the network's weights; gradnorm has those of the last layer",
    "Gram": "it reads the maps of several layers; knn_layers looks at several layers",
    "MCD": "it asks the network many times with dropout on",
    "MCM": "it needs a text encoder",
    "MahalanobisODIN": "it changes the images; mahalanobis does without that, and odin changes them",
    "MultiMahalanobis": "it reads several layers; mahalanobis reads the last features, and knn_layers several layers",
    "NACUE": "it takes gradients of several layers; knn_layers looks at several layers",
    "ODIN": "it changes the images: use odin",
    "OpenMax": "there an image's score depends on the others in its batch: use openmax",
    "RankFeat": "it needs whole feature maps",
    "WeightedEBO": "it needs weights that are trained along",
}

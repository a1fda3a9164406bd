"""A trained model as a thing by itself: predictions, calibration, and scikit-learn's interface."""

"""The weight update: the epoch loop, the learner, optimisers, monitors."""

"""From a trained network, or arrays that a user brings, to metrics."""

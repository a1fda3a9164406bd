"""Search spaces: operations, the hierarchical space, its supernet and the discrete networks cut out of it.

What a strategy needs of a space, each a function of the one description:

- `space.Space`: what is chosen from; `spaces` has them by name, `checks.check_space` says what is wrong with one before
  anything starts;
- `supernet.build_supernet(space, ...)`: everything at once, with alphas, betas and gammas as parameters;
- `architectures.decoding.decode(space, weights)`: the best one by what a supernet learnt;
- `architectures.sampling`: `sample_architecture(space, seed)`, one at random, and `mutate_architecture(architecture,
  seed)`, one near another;
- `architectures.canonical`: `canonical` and `fingerprint` of an architecture, by which networks that compute the same
  are one, and how many there are;
- `network.DiscreteNetwork(architecture, ...)`: the network of one, and `network.inherit_weights` from a supernet;
- `zero_cost.zero_cost(name, network, ...)`: what can be said of a network without training it.
"""

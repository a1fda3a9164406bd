"""Search spaces: operations, the hierarchical space, its supernet and the discrete networks cut out of it.

What a strategy needs of a space, each a function of the one description:

- `space.Space`: what is chosen from; `checks.check_space` says what is wrong with it before anything starts;
- `supernet.build_supernet(space, ...)`: everything at once, with alphas and betas as parameters;
- `architectures.references.sample_architecture(space, seed)`: one at random;
- `architectures.decoding.decode(space, alpha, beta)`: the best one by what a supernet learnt;
- `network.DiscreteNetwork(architecture, ...)`: the network of one, and `network.inherit_weights` from a supernet.
"""

"""Search spaces: operations, the hierarchical space, its supernet and the discrete networks cut out of it."""

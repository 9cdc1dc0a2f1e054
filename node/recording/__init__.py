"""Records the inputs of a node's cores, so that what they did can be done again elsewhere."""

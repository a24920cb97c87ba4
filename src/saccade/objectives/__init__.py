"""Short binders: a policy and a function of the mathematics become a loss on a batch."""

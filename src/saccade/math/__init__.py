"""Pure functions on tensors: paths, kernels, credit, surrogates, divergences, preferences."""

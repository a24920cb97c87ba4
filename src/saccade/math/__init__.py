"""Pure functions on tensors: paths, kernels, advantages, surrogates, divergences, boxes, coordinate frames."""

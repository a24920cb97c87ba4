"""Pure functions on tensors: paths, kernels, credit, surrogates, divergences, boxes, coordinate frames."""

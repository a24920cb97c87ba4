"""Gradients written out for small networks on a CPU: the same steps as the generic learners within rounding."""

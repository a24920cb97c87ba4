"""Hand-written gradients of small networks on a CPU: the same updates as the generic learners within rounding.

Nothing depends on this folder but `saccade.algorithms.acceleration`, which works without it: it may be deleted.
"""

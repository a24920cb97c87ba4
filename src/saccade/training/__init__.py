"""Training: the loop, the learner, the feeds that supply it, and the run that remembers."""

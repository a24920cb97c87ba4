"""Networks that act: perceptrons, encoders of observations, critics."""

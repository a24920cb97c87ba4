"""Networks of control policies: perceptrons, encoders of observations, critics."""

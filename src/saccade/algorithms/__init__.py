"""Learning rules, one a file, each whole: configuration, advantage, loss, feed and learner."""

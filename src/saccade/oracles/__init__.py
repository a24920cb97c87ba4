"""Other libraries' learners on our environments, to compare with."""

"""Rewards by models: reward models, dual encoders, questions to a vision-language model."""

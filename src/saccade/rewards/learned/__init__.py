"""Rewards by models: small reward models, dual encoders, vision-language models as VQA judges."""

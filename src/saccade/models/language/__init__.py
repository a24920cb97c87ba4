"""Adapters to transformers' language models: prompts, generation with caches, heads."""

"""Evaluation of trained models: scores of held-out problems, transcripts, prompt templates, sample metrics."""

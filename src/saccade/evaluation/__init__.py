"""How trained models are evaluated and shown: scores of held-out problems, transcripts, prompt templates, sample
metrics.
"""

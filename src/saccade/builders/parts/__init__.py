"""Parts that several builders share: training loops, tokenizers and text configurations, pictures."""

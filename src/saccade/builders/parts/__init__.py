"""What several builders share: stages of training, texts and tokenizers, pictures."""

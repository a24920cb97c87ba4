"""How the embedded miniatures are made: each file pre-trains a tiny checkpoint, written in the Hugging Face layout."""

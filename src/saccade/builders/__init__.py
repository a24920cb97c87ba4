"""How the embedded miniatures are made: each file pre-trains one tiny checkpoint and writes it in the Hugging Face
layout.
"""

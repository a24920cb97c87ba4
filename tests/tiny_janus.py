"""A random tiny Janus model of the real classes with its processor, saved to disk, for tests."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("a red circle", "two blue squares", "a green star above a ring", "three small crosses in pink", "yes no")


def janus(folder: Path, loud: float = 4.0) -> Path:
    """Write a JanusForConditionalGeneration whose weights are scaled up by ``loud``: 16 codes make a picture of 16
    px.
    """
    from saccade.builders.janus_shapes import build
    from saccade.builders.janus_shapes.parts import assemble, make_processor

    torch.manual_seed(0)
    sizes = build.Settings(size=16, codes=24, width=32, layers=2, heads=2, vision_width=32)
    processor = make_processor(sizes.size, WORDS)
    model = assemble(sizes, processor.tokenizer)
    for name, p in model.named_parameters():
        if p.ndim > 1 and "vqmodel" not in name:
            p.data.mul_(loud)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

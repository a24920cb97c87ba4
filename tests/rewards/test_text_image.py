"""The dual-encoder reward: the preprocessing and the score of the official processor and model, with gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.core import Problem
from saccade.models.loading import load_image_encoder
from saccade.policies.unrolling import empty_rollout
from saccade.random import seeds
from saccade.rewards.learned.text_image import TextImage, preprocess


def test_it_scores_as_the_official_model_does_and_passes_gradients(eyes):
    torch.manual_seed(0)
    pictures = torch.rand(3, 3, 20, 28).mul(255).round() / 255
    problems = [Problem(i, f"a {color} ring") for i, color in enumerate(("red", "blue", "red"))]
    rollout = replace(empty_rollout(problems, seeds(0, 3, "test")), outputs=pictures)
    processor, model = load_image_encoder(str(eyes), "cpu", texts=True)
    images = [p.permute(1, 2, 0).mul(255).round().byte().numpy() for p in pictures]
    theirs = processor(images=images, return_tensors="pt")
    ours = preprocess(pictures, processor.image_processor)
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=2e-2, rtol=0)
    score = TextImage(str(eyes))
    rollout.outputs = pictures.clone().requires_grad_()
    score(rollout).sum().backward()
    assert (rollout.outputs.grad.flatten(1).abs().amax(1) > 0).all()
    tokens = processor(text=[problem.inputs for problem in problems], padding=True, return_tensors="pt")
    official = model(**tokens, **theirs)
    expected = torch.cosine_similarity(official.image_embeds, official.text_embeds)
    torch.testing.assert_close(score(rollout).detach(), expected.detach(), atol=2e-2, rtol=0)
    with pytest.raises(ValueError, match="no such folder"):
        TextImage("no/such/folder")(rollout)

"""The embedded miniatures load with plain diffusers and transformers, and are as good as their cards say."""

from __future__ import annotations

import pytest
import torch

from saccade.models.locate import MINIATURES


pytestmark = pytest.mark.skipif(
    not (MINIATURES / "sd3-shapes" / "model_index.json").is_file(), reason="sd3-shapes is not built here"
)


def test_a_third_party_loads_the_picture_model_with_plain_diffusers():
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(MINIATURES / "sd3-shapes", text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    assert sum(p.numel() for p in pipe.transformer.parameters()) <= 3_000_000
    picture = pipe(
        "a red circle", num_inference_steps=8, guidance_scale=2.0, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert picture.size == (32, 32)


def test_a_third_party_loads_the_rewriter_with_plain_transformers():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = MINIATURES / "qwen2-rewriter"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "Qwen2ForCausalLM" and sum(p.numel() for p in model.parameters()) <= 3_000_000
    messages = [{"role": "user", "content": "two red circles"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=32, do_sample=False)
    text = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.startswith("<answer>") and text.endswith("</answer>") and "circle" in text


def test_the_base_has_room_above_it_and_ground_below():
    """Under guidance 0.4 to 0.7 of the judge's points, more with descriptive wordings than with terse ones."""
    from saccade.core import seeds
    from saccade.policies.flow import FlowModel, build
    from saccade.tasks import DrawingTask

    policy, scores = build(FlowModel(guidance=2.0), ()), {}
    for wordings in ("terse", "descriptive"):
        task = DrawingTask(wordings=wordings, held_out_size=96)
        problems = task.kept_back()["train wording"]
        scores[wordings] = float(task.judge(policy.best(problems, seeds(0, len(problems)))).mean())
    assert 0.4 <= sum(scores.values()) / 2 <= 0.7, scores
    assert scores["descriptive"] > scores["terse"] + 0.03, scores


@pytest.mark.parametrize("name", ["sd3-shapes", "qwen2-rewriter"])
def test_every_miniature_has_a_card_and_is_small(name):
    folder = MINIATURES / name
    card = (folder / "README.md").read_text()
    for word in ("saccade miniature build", "seed", "commit"):
        assert word in card.lower(), word
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 12e6

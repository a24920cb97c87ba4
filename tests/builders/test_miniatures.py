"""The embedded miniatures load with plain diffusers and transformers, and are as good as their cards say."""

from __future__ import annotations

import importlib
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saccade.api.models import builders
from saccade.cli.commands import miniature
from saccade.config import flat
from saccade.models.loading import MINIATURES
from saccade.random import seeds
from saccade.worlds import shapes

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
    from saccade.policies.flow import FlowModel, build_flow_policy
    from saccade.worlds.shapes.task import DrawingTask

    policy, scores = build_flow_policy(FlowModel(guidance=2.0), ()), {}
    for wordings in ("terse", "descriptive"):
        task = DrawingTask(wordings=wordings, held_out_size=96)
        problems = task.held_out_problems()["held out"]
        scores[wordings] = float(task.judge(policy.greedy().rollout(problems, seeds(0, len(problems), "test"))).mean())
    assert 0.4 <= sum(scores.values()) / 2 <= 0.7, scores
    assert scores["descriptive"] > scores["terse"] + 0.03, scores


def test_a_third_party_edits_with_plain_diffusers():
    """The call is the one that the folder tells; what it was taught it does, what it was not it does not."""
    from diffusers import FluxKontextPipeline

    from saccade.worlds import edits

    folder = MINIATURES / "kontext-shapes"
    pipe, call = FluxKontextPipeline.from_pretrained(folder), json.loads((folder / "sampling.json").read_text())
    pipe.set_progress_bar_config(disable=True)
    share = {}
    for kind in ("remove", "recolor"):
        problems = edits.sample_problems(10, 3, (kind,), "held_out", 32)
        draw = lambda p: pipe(image=p.inputs.pictures[0][None] / 255.0, prompt=p.inputs.text, output_type="pt",
                              generator=torch.Generator().manual_seed(p.id), **call).images  # fmt: skip
        share[kind] = float(edits.score_edits(torch.cat([draw(p) for p in problems]), problems)["success"].mean())
    assert share["remove"] > 0.7 and share["recolor"] < 0.3, share


def test_the_image_token_generator_draws_its_prompts():
    from transformers import JanusForConditionalGeneration

    from saccade.builders.janus_shapes.build import drawing_scores
    from saccade.models.language.janus import load_image_token_generator

    folder = MINIATURES / "janus-shapes"
    assert sum(p.numel() for p in JanusForConditionalGeneration.from_pretrained(folder).parameters()) < 3_000_000
    scores = drawing_scores(load_image_token_generator(folder), guidances=(3.0,), count=96)
    assert 0.28 < scores["guidance 3, held out"] < 0.6, scores  # relations are judged as strictly as published


def test_the_image_token_generator_is_built_in_stages(tmp_path):
    from saccade.builders.janus_shapes import build
    from saccade.models.language.janus import load_image_token_generator

    cfg = build.Settings(
        scenes=48, codes=24, vq_steps=2, vq_batch=4, width=32, layers=1, heads=2, vision_width=32, steps=20, batch=4,
        single_object_share=0.2, single_wording_share=0.5, wrong_caption_share=1.0, questions=8, questions_every=2,
    )  # fmt: skip
    parts: list[str] = []
    facts = build.build(cfg, tmp_path, lambda part, step, steps, loss: parts.append(part))
    assert parts[2:] == ["codes of captions"] * 10 + ["codes of captions", "answers"] * 5
    assert 0 < facts["loss per code"] < 10 and "pixel loss of the codes" in facts
    again = build.build(replace(cfg, codebook=str(tmp_path)), tmp_path / "again", lambda *told: None)
    assert again["codes"] == "those of an earlier build"
    assert load_image_token_generator(tmp_path / "again").codes_per_picture == 64
    meanings = shapes.meanings_of(40, np.random.default_rng(0), cfg.tags)
    curriculum, rng = build.Curriculum(cfg, meanings), np.random.default_rng(0)
    for step, kinds in ((0, {"single_object", "colors"}), (8, set(cfg.tags))):
        index, captions = curriculum.captions(step, rng)
        assert {meanings[i]["tag"] for i in index} <= kinds
        assert captions == [shapes.caption(meanings[i], shapes.TRAIN_WORDINGS[0]) for i in index]
    index, captions = curriculum.captions(19, rng)
    known = lambda i: {shapes.caption(meanings[i], w) for w in shapes.TRAIN_WORDINGS}
    alike = lambda i: set().union(*(known(j) for j, m in enumerate(meanings) if m["tag"] == meanings[i]["tag"]))
    assert all(words in alike(i) for i, words in zip(index, captions)) and any(
        words not in known(i) for i, words in zip(index, captions)
    )


def test_the_editor_is_built_and_kept_small(tmp_path):
    from saccade.builders import kontext_shapes

    cfg = kontext_shapes.Settings(width=32, double_blocks=1, single_blocks=1, problems=24, steps=6, batch=4)
    parts: list[str] = []
    facts = kontext_shapes.build(cfg, tmp_path, lambda part, step, steps, loss: parts.append(part))
    assert parts[:3] == ["drawing"] * 3 and set(parts) == {"drawing", "editing"} and facts["velocity loss of edits"] > 0
    weights = load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16} and (tmp_path / "sampling.json").is_file()
    assert kontext_shapes.opened(tmp_path).greedy().rollout(edits_of(2), seeds(0, 2, "test")).outputs.shape == (
        2,
        3,
        32,
        32,
    )


def edits_of(count: int) -> list:
    from saccade.worlds import edits

    return edits.sample_problems(count, 0, ("remove",), "train", 32)


@pytest.mark.parametrize("name", ["sd3-shapes", "qwen2-rewriter", "kontext-shapes", "janus-shapes"])
def test_every_miniature_has_a_card_and_is_small(name):
    folder = MINIATURES / name
    card = (folder / "README.md").read_text()
    for word in ("saccade miniature build", "seed", "commit"):
        assert word in card.lower(), word
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 12e6


@pytest.mark.parametrize("name", list(builders()))
def test_the_command_on_a_card_has_the_settings_of_the_builder(name):
    (line,) = re.findall("^saccade miniature build .*$", (MINIATURES / name / "README.md").read_text(), re.M)
    settings = importlib.import_module(f"saccade.builders.{builders()[name]}").Settings
    given = re.findall(r"--([\w.-]+)", line)
    assert sorted(given) == sorted(key.replace("_", "-") for key in flat(settings()))


def test_no_configuration_tells_where_it_was_made():
    for file in MINIATURES.rglob("*.json"):
        assert "_name_or_path" not in file.read_text(encoding="utf-8"), file


def test_a_build_tells_its_time_and_leaves_its_places_behind(tmp_path):
    class Builder:
        @staticmethod
        def build(settings, out, progress):
            (out / "config.json").write_text(
                '{\n  "_class_name": "X",\n  "_name_or_path": "/somewhere/else",\n  "a": 1\n}'
            )
            time.sleep(1.1)
            return {"parameters": 3}

    facts = miniature._train(Builder, None, tmp_path / "made")
    assert facts["seconds"] >= 1 and facts["parameters"] == 3
    assert json.loads((tmp_path / "made/config.json").read_text()) == {"_class_name": "X", "a": 1}

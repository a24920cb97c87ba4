"""What is exported is loaded by the libraries alone, by the call that its README.md gives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade.api import cards
from saccade.models.adapters import trainable
from saccade.models.language.model import load_language_model
from saccade.policies.tokens import TokenPolicy

QUICK = {"steps": 1, "prompts_per_step": 2, "group_size": 2, "held_out_size": 4, "save_every": 1}


def code_in(text: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    return block


@pytest.fixture
def run(sd3_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = QUICK | {"size": 16, "sampling_steps": 3, "text_length": 2, "window": 1, "guidance": 3.0, "lr": 0.01}
    recipe = saccade.load("flow_grpo")
    return recipe.train(model=str(sd3_folder), lora_rank=2, out="r", display=False, **settings)


def test_folded_weights_and_an_adapter_draw_the_same_by_the_call_of_their_readme(run, tmp_path):
    drawn = {}
    for name, lora in (("folded", False), ("adapter", True)):
        folder = run.export(name, lora=lora)
        scope: dict = {}
        torch.manual_seed(0)
        exec(code_in((folder / "README.md").read_text()), scope)
        drawn[name] = np.array(Image.open("out.png")).astype(int)
    assert (tmp_path / "adapter/pytorch_lora_weights.safetensors").is_file()
    assert not (tmp_path / "adapter/model_index.json").exists()
    assert np.abs(drawn["folded"] - drawn["adapter"]).max() <= 2 and drawn["folded"].std() > 0
    plain = run.policies["policy"].backbone.pipe.name_or_path
    assert np.abs(drawn["folded"] - draw(plain, tmp_path / "folded")).max() > 2  # the adapter does something


def draw(model: str, arguments: Path) -> np.ndarray:
    """The picture of a model without the adapter."""
    code = code_in(cards.usage(arguments, str(arguments)))
    torch.manual_seed(0)
    exec(code.replace(f"from_pretrained('{arguments}'", f"from_pretrained('{model}'"), {})
    return np.array(Image.open("out.png")).astype(int)


def test_an_adapter_of_a_language_model_is_one_of_peft(lm_folder, tmp_path):
    language = load_language_model(lm_folder)
    policy = TokenPolicy(language, trainable(language.model, 2), max_new_tokens=4)
    with torch.no_grad():
        for p in policy.trained:
            p.add_(0.1)
    base = policy.export_lora(tmp_path / "adapter")
    ids = torch.tensor([[1, 2, 3]])
    expected = language.model(ids).logits
    scope: dict = {}
    exec(code_in(cards.usage(tmp_path / "adapter", str(tmp_path / "adapter"), base)), scope)
    torch.testing.assert_close(scope["model"](ids).logits, expected, atol=1e-4, rtol=0)


def test_where_all_weights_were_trained_there_is_no_adapter(sd3_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = QUICK | {"size": 16, "sampling_steps": 2, "text_length": 2, "window": 1}
    run = saccade.load("flow_grpo").train(model=str(sd3_folder), out="r", display=False, **settings)
    with pytest.raises(ValueError, match="all weights were trained, so there is no LoRA: export without --lora"):
        run.export("adapter", lora=True)
    assert not any((tmp_path / "adapter").glob("*"))

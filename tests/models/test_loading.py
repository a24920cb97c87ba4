"""Names of models lead to a miniature, a folder or a hub id, and everything else to one clear line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tiny_language

from saccade.models import loading as places
from saccade.models.language.model import load_language_model
from saccade.models.loading import locate, miniatures


@pytest.fixture
def folder(tmp_path):
    language = tiny_language.qwen2()
    language.model.save_pretrained(tmp_path / "model")
    language.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def one_line(call, *args) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_miniature_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "MINIATURES", tmp_path / "inside")
    (tmp_path / "inside/sd3-shapes").mkdir(parents=True)
    (tmp_path / "inside/sd3-shapes/model_index.json").write_text("{}")
    (tmp_path / "inside/unfinished").mkdir()
    (tmp_path / "sd3-shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert miniatures() == ["sd3-shapes"]
    assert locate("sd3-shapes") == str(tmp_path / "inside/sd3-shapes")
    assert locate("./sd3-shapes") == "sd3-shapes"
    assert "nearest: sd3-shapes (miniatures are " in one_line(locate, "/sd3-shape")


def test_folders_and_hub_ids_are_themselves(tmp_path):
    assert locate(tmp_path) == str(tmp_path)
    assert locate("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert locate("gpt2") == "gpt2"


@pytest.mark.parametrize(
    "name", ["", "/no/such/folder", "./nowhere", "a/b/c", "a//b", "~no-such-user/x", "what is this", "a\nb"]
)
def test_nonsense_is_refused(name):
    one_line(locate, name)


def test_a_file_is_refused(folder):
    assert "is a file" in one_line(locate, folder / "config.json")


def test_load_reads_a_folder(folder):
    language = load_language_model(folder)
    assert type(language.model).__name__ == "Qwen2ForCausalLM"
    assert not any(p.requires_grad for p in language.model.parameters())


def edit(folder, **change) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))


def test_broken_folders_say_what_is_wrong(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json" in one_line(load_language_model, tmp_path / "empty")
    edit(folder, architectures=["Qwen2ForTokenClassification"])
    assert "Qwen2ForTokenClassification" in one_line(load_language_model, folder)
    edit(folder, model_type="qwen22")
    assert "nearest: qwen2" in one_line(load_language_model, folder)
    edit(folder, model_type="qwen2", architectures=None, hidden_size=48)
    assert str(folder) in one_line(load_language_model, folder)
    (folder / "config.json").write_text("[1, 2]")
    assert "broken" in one_line(load_language_model, folder)
    (folder / "config.json").write_text('{"model_type": ')
    assert "broken" in one_line(load_language_model, folder)


def test_missing_weights_are_never_made_up(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "lacks the weight model.layers.1.mlp.up_proj.weight" in one_line(load_language_model, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "could not be loaded" in one_line(load_language_model, folder)
    (folder / "model.safetensors").unlink()
    assert "could not be loaded" in one_line(load_language_model, folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert str(folder) in one_line(load_language_model, folder)


def test_an_unreachable_hub_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    text = one_line(load_language_model, "somebody/does-not-exist-anywhere")
    assert "somebody/does-not-exist-anywhere" in text and "no route to host" in text


def test_a_module_is_loaded_when_it_is_used_and_not_before():
    code = """
import sys
from saccade.models.diffusion.pipelines import imported_when_used
with imported_when_used("wave"):
    import wave as early
    assert not hasattr(early, "__file__") and not hasattr(early, "no such name")
with imported_when_used("colorsys"):
    import colorsys as late
assert "colorsys" not in sys.modules
assert late.rgb_to_hsv(0, 0, 0) == (0, 0, 0) and "colorsys" in sys.modules
assert early.open is sys.modules["wave"].open
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pipeline_is_loaded_without_statistics():
    code = "import sys; from saccade.models.diffusion.pipelines import load_backbone; load_backbone('sd3-shapes');"
    code += "assert 'scipy.stats' not in sys.modules; import scipy.stats; scipy.stats.beta"
    subprocess.run([sys.executable, "-c", code], check=True)

"""The README.md of an exported model: what it is, how it is loaded without this package, and its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def card(title: str, about: str, usage: str, scores: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The text of a README.md; ``about`` says what trained the model, ``usage`` how it is loaded."""
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in scores.items() if isinstance(value, (int, float)))
    table = f"\n## Scores on held-out problems\n\n| score | value |\n|---|---|\n{rows}\n" if rows else ""
    told = json.dumps(settings, indent=2, ensure_ascii=False)
    use = f"\n## Use\n\n{usage}\n" if usage else ""
    return f"# {title}\n\n{about}\n{use}{table}\n## Settings\n\n```json\n{told}\n```\n"


def usage(folder: Path, place: str, base: str = "") -> str:
    """How the libraries load what was exported to ``folder``, which is named ``place``; "" for weights of this package.

    ``base`` is the model that an adapter was trained on.
    """
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        return _python(
            "import json",
            "from diffusers import DiffusionPipeline",
            _pipeline(Path(base), base),
            f"pipe.load_lora_weights({place!r})",
            *_drawing(place),
        )
    if (folder / "adapter_config.json").is_file():
        kind = _language_class(base)
        return _python(
            "from peft import PeftModel",
            f"from transformers import {kind}",
            f"model = PeftModel.from_pretrained({kind}.from_pretrained({base!r}), {place!r})",
        )
    if (folder / "model_index.json").is_file():
        lines = "import json", "from diffusers import DiffusionPipeline", _pipeline(folder, place)
        return _python(*lines, *_drawing(place))
    if (folder / "config.json").is_file():
        kind = _language_class(str(folder))
        reader = "AutoProcessor" if kind.endswith("ImageTextToText") else "AutoTokenizer"
        return _python(
            f"from transformers import {kind}, {reader}",
            f"model = {kind}.from_pretrained({place!r})",
            f"{reader[4:].lower()} = {reader}.from_pretrained({place!r})",
        )
    return ""


def _pipeline(folder: Path, place: str) -> str:
    """The line that loads the pipeline in ``folder`` from ``place``; parts that it lacks must be named."""
    index = folder / "model_index.json"
    parts = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    absent = "".join(f", {name}=None" for name, part in parts.items() if part == [None, None])
    return f"pipe = DiffusionPipeline.from_pretrained({place!r}{absent})"


def _drawing(place: str) -> tuple[str, ...]:
    """The lines that draw as the model was trained; sampling.json has steps, guidance and size."""
    return (
        f"arguments = json.load(open({place + '/sampling.json'!r}))",
        'pipe("a red cube", **arguments).images[0].save("out.png")',
    )


def _language_class(folder: str) -> str:
    """The class of transformers that loads a language model: with pictures where its config has a part that sees."""
    file = Path(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    sees = "vision_config" in config or "vl" in folder.lower()
    return "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"


def _python(*lines: str) -> str:
    return "\n".join(("```python", *lines, "```"))

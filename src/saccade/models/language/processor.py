"""Transformers' processors, which prepare pictures for a vision-language model: loaded, bounded and saved.

Some of them process videos too and require torchvision even where only pictures are used; here they do not.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

FILES = ("processor_config.json", "preprocessor_config.json")


def load_processor(place: str, tokenizer: Any, model_type: str) -> Any | None:
    """The processor that was saved with a model, None if none was."""
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name
    from transformers.utils import cached_file, is_torchvision_available

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    if not any(cached_file(place, file, **quiet) for file in FILES):
        return None
    kind = processor_class_from_name(PROCESSOR_MAPPING_NAMES.get(model_type, ""))
    if kind is None or is_torchvision_available() or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(place)
    settings, _ = kind.get_processor_dict(place)
    accepted = set(inspect.signature(kind.__init__).parameters) - set(kind.get_attributes())
    images = AutoImageProcessor.from_pretrained(place)
    return without_videos(kind, images, tokenizer, **{k: v for k, v in settings.items() if k in accepted})


def without_videos(kind: Any, image_processor: Any, tokenizer: Any, **settings: Any) -> Any:
    """A processor of class ``kind`` for pictures and no videos, which does not need torchvision."""
    processor = kind.__new__(kind)
    processor.check_argument_for_proper_class = lambda *_: None  # it refuses None in place of the video processor
    processor.__init__(image_processor=image_processor, tokenizer=tokenizer, video_processor=None, **settings)
    del processor.check_argument_for_proper_class
    return processor


def save_processor(processor: Any, folder: str | Path) -> None:
    """Write a processor in transformers' layout, with its tokenizer and chat template."""
    if getattr(processor, "video_processor", True) is not None:
        processor.save_pretrained(folder)
        return
    processor.image_processor.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if processor.chat_template is not None:
        (Path(folder) / "chat_template.jinja").write_text(processor.chat_template)


def set_pixel_bounds(processor: Any, name: str, min_pixels: int | None, max_pixels: int | None) -> None:
    """Set the smallest and the largest number of pixels that pictures are resized to; None keeps a bound.

    ValueError if the processor of model ``name`` has no such bounds.
    """
    size = getattr(processor, "image_processor", None) and processor.image_processor.size
    if size is None or not has_pixel_bounds(processor):
        option = "min_pixels" if min_pixels is not None else "max_pixels"
        raise ValueError(
            f"model '{name}': {option} has no effect, its pictures have a fixed size ({size or 'none'}) instead"
        )
    smallest = size["shortest_edge"] if min_pixels is None else min_pixels
    largest = size["longest_edge"] if max_pixels is None else max_pixels
    if not 0 < smallest <= largest:
        raise ValueError(f"min_pixels {smallest} is not between 1 and max_pixels {largest}")
    processor.image_processor.size = type(size)(shortest_edge=smallest, longest_edge=largest)


def has_pixel_bounds(processor: Any) -> bool:
    """Whether pictures keep their aspect ratio and are resized between two numbers of pixels (as in Qwen-VL)."""
    images = getattr(processor, "image_processor", None)
    return images is not None and "min_pixels" in getattr(images.valid_kwargs, "__annotations__", {})

"""Two small parts that everything stands on: pictures in two layouts, and where weights live."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.math.pixels import to_float, to_uint8
from saccade.models.device import device_of


def test_bytes_come_back_from_numbers():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    shown = to_float(pixels)
    assert shown.shape == (2, 3, 4, 5) and float(shown[0, 1, 0, 0]) == pytest.approx(1 / 255)
    assert torch.equal(shown, to_float(torch.from_numpy(pixels))) and (to_uint8(shown) == pixels).all()
    pixels.flags.writeable = False
    assert torch.equal(to_float(pixels[0]), shown[0])


def test_what_is_no_colour_is_clipped_and_nan_is_black():
    odd = torch.tensor([-1.0, 0.5, float("inf"), float("nan")]).reshape(1, 1, 4).expand(3, 1, 4)
    assert to_uint8(odd)[0, :, 0].tolist() == [0, 128, 255, 0]


def test_a_device_that_is_not_there_is_told_in_one_line():
    assert device_of("cpu") == "cpu" and device_of("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=r"^device 'gpu' is not available(; nearest: \w+)? \(of auto, cpu.*\)$"):
        device_of("gpu")

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.contracts import Prediction, UserError
from segkit.predictors.sliding import Sliding
from segkit.predictors.whole_image import Whole


def pixelwise(images: torch.Tensor) -> Prediction:
    """Logits that depend on each pixel alone: however an image is cut, the same must come out."""
    return Prediction(images.float() * 2 - 7)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    window=st.integers(1, 20),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    batch_size=st.integers(1, 5),
)
def test_windows_cover_every_pixel_and_agree_with_the_whole_image(
    height: int, width: int, window: int, overlap: float, batch_size: int
):
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    sliding = Sliding(pixelwise, window=window, overlap=overlap, batch_size=batch_size)
    torch.testing.assert_close(sliding(images).logits, Whole(pixelwise)(images).logits)


def test_overlapping_logits_are_averaged():
    calls = 0

    def model(images: torch.Tensor) -> Prediction:
        nonlocal calls
        calls += 1
        return Prediction(torch.full_like(images[:, :1].float(), float(calls)))

    # A row of 6 pixels in windows of 4 with half overlap: [0, 4) says 1, [2, 6) says 2.
    logits = Sliding(model, window=(1, 4), overlap=0.5, batch_size=1)(torch.zeros(1, 3, 1, 6)).logits
    assert logits.flatten().tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_a_models_coarse_logits_are_resized_to_the_window():
    def coarse(images: torch.Tensor) -> Prediction:
        return Prediction(images.float()[:, :, ::4, ::4])

    assert Sliding(coarse, window=16)(torch.zeros(1, 3, 20, 20)).logits.shape == (1, 3, 20, 20)


def test_a_window_of_no_pixels_is_refused():
    with pytest.raises(UserError, match=r"predictor\.window"):
        Sliding(pixelwise, window=0)

"""Steps that change the colours of a crop and leave its mask alone: jitter, distortion, blur and noise.

Images are (H, W, C), uint8 or float32. Those in units of their own, such as Hounsfield's, are changed in a range of
their own (`ValueRange`). Whatever needs hue or saturation leaves images of other than three channels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.contracts import UserError
from segkit.data.transforms.crop_window import probability
from segkit.data.transforms.value_range import ValueRange

Image = NDArray[Any]
RGB_TO_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as OpenCV weighs them


class PixelStep:
    """A step done to the share `p` of samples; a subclass gives `apply`."""

    def __init__(self, p: float) -> None:
        probability(p, f"transform: p of {type(self).__name__}")
        self.p = p

    def __call__(self, image: Image, random: Generator) -> Image:
        values = ValueRange.of(image)
        if values is None:
            return self.in_unit_range(image, random)
        return values.from_unit(self.in_unit_range(values.to_unit(image), random))

    def in_unit_range(self, image: Image, random: Generator) -> Image:
        """The step done to the share `p` of images, uint8 or float32 in 0..1."""
        return self.apply(image, random) if random.random() < self.p else image

    def apply(self, image: Image, random: Generator) -> Image:
        """The changed image, uint8 or float32 in 0..1, of the same shape and type; the one given is left as it is."""
        raise NotImplementedError


class ColorJitter(PixelStep):
    """Brightness, contrast, saturation and hue changed in random order, as torchvision and Albumentations do.

    Args:
        brightness: factor of 1 +- this, never below 0; the same for contrast and saturation.
        hue: share of the colour circle, +- this, up to 0.5.
        p: share of samples.
    """

    def __init__(
        self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2, hue: float = 0.05, p: float = 0.5
    ) -> None:
        super().__init__(p)
        named = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, value in named.items():
            most = 0.5 if name == "hue" else float("inf")
            if not 0 <= value <= most:
                raise UserError(f"transform: {name}={value} of ColorJitter; allowed: 0 to {most}")
        self.factors = [(max(0.0, 1 - value), 1 + value) for value in (brightness, contrast, saturation)]
        self.hue = hue

    def apply(self, image: Image, random: Generator) -> Image:
        values = [random.uniform(*bounds) for bounds in self.factors] + [random.uniform(-self.hue, self.hue)]
        changes: list[Callable[[Image, float], Image]] = [brighter, contrasted, saturated, hue_turned]
        for number in random.permutation(4):
            image = changes[number](image, values[number])
        return image


class PhotometricDistortion(PixelStep):
    """Brightness, contrast, saturation and hue, each for half of the samples, as in mmsegmentation.

    Contrast comes first or last, evenly; it scales around 0, and saturation is that of HSV.

    Args:
        brightness_delta: added to 8-bit pixels, +- this.
        contrast_range: least and largest factor.
        saturation_range: least and largest factor.
        hue_delta: turn of the hue in OpenCV's half degrees (180 are a full circle), +- this.
        p: share of samples.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: float = 18,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.brightness_delta = brightness_delta
        self.contrast_range = increasing(contrast_range, "contrast_range of PhotometricDistortion")
        self.saturation_range = increasing(saturation_range, "saturation_range of PhotometricDistortion")
        self.hue_delta = hue_delta

    def apply(self, image: Image, random: Generator) -> Image:
        if random.random() < 0.5:
            image = affine(image, 1.0, random.uniform(-self.brightness_delta, self.brightness_delta) / 255)
        contrast = random.uniform(*self.contrast_range) if random.random() < 0.5 else 1.0
        contrast_first = random.random() < 0.5
        if contrast_first:
            image = affine(image, contrast)
        if random.random() < 0.5:
            image = _in_hsv(image, saturation=random.uniform(*self.saturation_range))
        if random.random() < 0.5:
            image = hue_turned(image, random.uniform(-self.hue_delta, self.hue_delta) / 180)
        return image if contrast_first else affine(image, contrast)


class GaussianBlur(PixelStep):
    """Gaussian blur.

    Args:
        kernel: smallest and largest edge of the kernel in pixels; even draws count as the next odd.
        sigma: smallest and largest standard deviation in pixels.
        p: share of samples.
    """

    def __init__(self, kernel: Sequence[int] = (3, 7), sigma: Sequence[float] = (0.5, 3.0), p: float = 0.5) -> None:
        super().__init__(p)
        low, high = increasing(kernel, "kernel of GaussianBlur")
        self.kernel = (int(low), int(high))
        self.sigma = increasing(sigma, "sigma of GaussianBlur")

    def apply(self, image: Image, random: Generator) -> Image:
        sigma = random.uniform(*self.sigma)
        edge = int(random.integers(self.kernel[0], self.kernel[1] + 1)) | 1
        return cv2.GaussianBlur(image, (edge, edge), sigma).reshape(image.shape)


class GaussianNoise(PixelStep):
    """Independent normal noise on every pixel and channel.

    Args:
        std: smallest and largest standard deviation, as a share of the full range.
        p: share of samples.
    """

    def __init__(self, std: Sequence[float] = (0.02, 0.1), p: float = 0.5) -> None:
        super().__init__(p)
        self.std = increasing(std, "std of GaussianNoise")

    def apply(self, image: Image, random: Generator) -> Image:
        std = random.uniform(*self.std)
        if image.dtype == np.uint8:
            # Three times as fast as NumPy's; its generator is seeded for each image, so nothing is carried over.
            noise = np.empty(image.shape, np.int16)
            cv2.setRNGSeed(int(random.integers(2**31)))
            # As one channel: OpenCV wants a deviation for each.
            cv2.randn(noise.reshape(len(noise), -1), np.zeros(1), np.full(1, 255 * std))
            return cv2.add(image, noise, dtype=cv2.CV_8U).reshape(image.shape)
        return np.clip(image + np.float32(std) * random.standard_normal(image.shape, np.float32), 0, 1)


def brighter(image: Image, factor: float) -> Image:
    return affine(image, factor)


def contrasted(image: Image, factor: float) -> Image:
    """Distances from the mean grey of the image multiplied by `factor`."""
    means = np.array(cv2.mean(image)[:3]) if image.shape[2] <= 4 else image.mean(axis=(0, 1))
    grey = means @ RGB_TO_GREY if image.shape[2] == 3 else means[: image.shape[2]].mean()
    full = 255 if image.dtype == np.uint8 else 1
    return affine(image, factor, (1 - factor) * float(grey) / full)


def saturated(image: Image, factor: float) -> Image:
    """Distances from each pixel's own grey multiplied by `factor`."""
    if image.shape[2] != 3:
        return image
    matrix = factor * np.eye(3) + (1 - factor) * RGB_TO_GREY
    return _clipped(cv2.transform(image, matrix.astype(np.float32)))


def hue_turned(image: Image, turn: float) -> Image:
    """Hue moved by `turn` of the colour circle."""
    return image if turn == 0 else _in_hsv(image, turn=turn)


def affine(image: Image, factor: float, shift: float = 0.0) -> Image:
    """`image * factor + shift`, clipped to the range of its type; `shift` is a share of the full range."""
    if factor == 1 and shift == 0:
        return image
    if image.dtype == np.uint8:
        return cv2.addWeighted(image, factor, image, 0, 255 * shift).reshape(image.shape)
    return np.clip(image * np.float32(factor) + np.float32(shift), 0, 1)


def increasing(values: Sequence[float], key: str) -> tuple[float, float]:
    """`values` as (least, most). Raises UserError naming `key` unless they are that."""
    if len(values) != 2 or not 0 <= values[0] <= values[1]:
        raise UserError(f"transform: {key} is {list(values)}; allowed: [least, most], both 0 or more")
    return values[0], values[1]


def _in_hsv(image: Image, *, turn: float = 0.0, saturation: float = 1.0) -> Image:
    """Hue turned by a share of the circle and saturation multiplied, in HSV as OpenCV stores it."""
    if image.shape[2] != 3:
        return image
    scaling = np.diag([1, saturation, 1]).astype(np.float32)
    if image.dtype == np.uint8:
        hsv = cv2.transform(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), scaling)
        # A full circle is 256 here, so that adding wraps around as hues do.
        hsv.reshape(len(hsv), -1)[:] += np.tile(np.array([round(256 * turn) % 256, 0, 0], np.uint8), hsv.shape[1])
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    return _clipped(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _clipped(image: Image) -> Image:
    """A float image within 0..1; 8-bit ones OpenCV has clipped already."""
    return image if image.dtype == np.uint8 else np.clip(image, 0, 1)

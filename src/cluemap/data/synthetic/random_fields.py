"""Random numbers by seed and path, smooth random fields and blur: float64, plain numpy."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Seed = tuple[int, ...]  # a number, then the path of what is seeded: (seed, patch)


def stream(seed: Seed, *path: int) -> np.random.Generator:
    """-> the random numbers that belong to `seed` and `path`, independent of every other path's."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed[0], spawn_key=(*seed[1:], *path))))


def smooth_field(height: int, width: int, length: float, rng: np.random.Generator) -> Floats:
    """-> h w: Gaussian field, mean 0, deviation 1, alike over about `length` pixels."""
    return _shaped(height, width, rng, lambda squared: np.exp(-0.5 * (2 * np.pi * length) ** 2 * squared / 2))


def rough_field(height: int, width: int, roughness: float, rng: np.random.Generator) -> Floats:
    """-> h w: field with structure at all scales (power law), mean 0, deviation 1; more `roughness`, finer grain."""
    return _shaped(height, width, rng, lambda squared: (squared + 1e-5) ** (roughness / 2 - 1))


def _shaped(height: int, width: int, rng: np.random.Generator, gain) -> Floats:
    white = rng.standard_normal((height, width))
    squared = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    spectrum = np.fft.rfft2(white) * gain(squared)
    spectrum[0, 0] = 0.0
    shaped = np.fft.irfft2(spectrum, s=(height, width))
    return shaped / shaped.std()


def blur(image: Floats, deviation: float, margin: int) -> Floats:
    """... (h + 2 margin) (w + 2 margin) -> ... h w: Gaussian point spread; the margin is used up."""
    reach = min(margin, int(np.ceil(3 * deviation)))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    weights /= weights.sum()
    for axis in (-2, -1):
        image = np.moveaxis(image, axis, -1)
        size = image.shape[-1] - 2 * margin
        image = sum(w * image[..., margin + s : margin + s + size] for w, s in zip(weights, steps, strict=True))
        image = np.moveaxis(image, -1, axis)
    return image

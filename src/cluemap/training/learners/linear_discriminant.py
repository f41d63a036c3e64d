"""Linear discriminant analysis from sums that add up over any number of pixels: one mean a class, one covariance.

scikit-learn's wants all pixels in memory and weights the classes' covariances by their priors; this one takes a country
pixel by pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

SHRINKAGE = 0.01  # of the covariance: how much of its diagonal is added to it
FARTHEST = 5.0  # standard deviations at which features are cut off: clouds must not rule


@dataclass
class Moments:
    """Mean and standard deviation of each feature (f), from sums over pixels."""

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def none(cls, features: int) -> "Moments":
        return cls(0, np.zeros(features), np.zeros(features))

    @classmethod
    def of(cls, x: NDArray[np.float32]) -> "Moments":
        """p f."""
        return cls(len(x), x.sum(axis=0, dtype=np.float64), np.einsum("pf,pf->f", x, x, dtype=np.float64))

    def add(self, part: "Moments") -> None:
        self.count += part.count
        self.total += part.total
        self.squares += part.squares

    def scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """f, f: mean and standard deviation."""
        mean = self.total / max(self.count, 1)
        return mean, np.sqrt(np.maximum(self.squares / max(self.count, 1) - mean**2, 0)) + 1e-6

    def standardised(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """p f -> p f: mean 0, standard deviation 1, cut off at FARTHEST."""
        mean, deviation = self.scale()
        return np.clip((x - mean) / deviation, -FARTHEST, FARTHEST).astype(np.float32)


class LinearDiscriminant:
    """Add the sums of pixels, `solve`, then ask. even: every class is as likely as any other, however many pixels."""

    def __init__(self, features: int, classes: int, even: bool, shrinkage: float = SHRINKAGE):
        self.even, self.shrinkage = even, shrinkage
        self.sizes, self.sums = np.zeros(classes), np.zeros((classes, features))
        self.second = np.zeros((features, features))

    def sums_of(self, x: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray, ...]:
        """Features p f and the class 0..k-1 of each pixel -> what `add` takes: pixels k, sums k f, products f f."""
        one_hot = (labels[:, None] == np.arange(len(self.sizes))).astype(np.float32)
        return one_hot.sum(axis=0, dtype=np.float64), one_hot.T @ x, x.T @ x

    def add(self, sizes: NDArray, sums: NDArray, second: NDArray) -> None:
        self.sizes += sizes
        self.sums += sums
        self.second += second

    def solve(self) -> "LinearDiscriminant":
        """From the sums to the discriminants. A class without pixels gets no probability."""
        means = self.sums / np.maximum(self.sizes, 1e-9)[:, None]  # k f
        covariance = (self.second - (means * self.sizes[:, None]).T @ means) / max(self.sizes.sum(), 1e-9)
        covariance += np.diag(self.shrinkage * np.diag(covariance) + 1e-6)
        directions = cho_solve(cho_factor(covariance), means.T)  # f k
        shift = -0.5 * (means.T * directions).sum(axis=0)
        if not self.even:
            shift += np.log(np.maximum(self.sizes, 1e-9) / max(self.sizes.sum(), 1e-9))
        self.directions = directions.astype(np.float32)
        self.shift = np.where(self.sizes > 0, shift, -np.inf).astype(np.float32)
        return self

    def probabilities(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """p f -> p k, each row sums to 1."""
        scores = x @ self.directions + self.shift
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

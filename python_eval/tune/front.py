"""Two objectives, both to be small: which points are not beaten, and how much of the plane they beat."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]  # (bits a value, mean KLD in nats)

# Hypervolume is measured in bits times decades of KLD, from this corner: what nobody would accept, twice the bits of an
# 8-bit cache and predictions one nat away. Points beyond it add nothing.
CORNER: Point = (16.0, 1.0)
# A divergence that a float32 softmax cannot tell from none: the best a point can be.
LEAST_KLD = 1e-7


def pareto(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other beats in one objective without losing in the other, by the first objective.

    Of equal points the first counts.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i], i))
    front: list[int] = []
    least = math.inf
    for i in order:
        if points[i][1] < least:
            front.append(i)
            least = points[i][1]
    return front


def hypervolume(points: Sequence[Point], corner: Point = CORNER) -> float:
    """Area between the front and `corner`, in bits times decades (log10) of KLD; 0 without a point inside.

    Source: the hypervolume indicator of Zitzler and Thiele (1998), here for two objectives, after taking the logarithm
    of the second.
    """
    scaled = [(bits, math.log10(max(kld, LEAST_KLD))) for bits, kld in points]
    right, top = corner[0], math.log10(corner[1])
    inside = [point for point in scaled if point[0] < right and point[1] < top]
    front = [inside[i] for i in pareto(inside)]
    # From one point's bits to the next one's, this point is the lowest.
    ends = [*(bits for bits, _ in front[1:]), right] if front else []
    return sum((end - bits) * (top - kld) for (bits, kld), end in zip(front, ends, strict=True))


def hypervolume_over_trials(points: Sequence[Sequence[Point]]) -> list[float]:
    """The hypervolume after each trial; a trial that gave no point has an empty entry."""
    found: list[Point] = []
    areas = []
    for of_trial in points:
        found += of_trial
        areas.append(hypervolume(found))
    return areas

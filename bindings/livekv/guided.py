"""The scalar reference of importance-guided widths on plain arrays: which of a prompt's tokens a layer keeps, at how
many bits, and what they are stored as. engine/kv/kv_guided.h has the formulas.

    layer = livekv.kv.GuidedLayer(livekv.kv.GuidedMethod(propagate="cache"), layer=0, n_layer=32, n_prompt=1000)
    for chunk in layer.add(q, k, v):               # float32 [heads, n, head_dim], after RoPE
        error = k - chunk.k_reconstruction
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from livekv import _livekv
from livekv._livekv import Error
from livekv.arguments import instance, instances, shown, whole

__all__ = ["GuidedChunk", "GuidedLayer", "GuidedMethod", "guided_statistics"]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class GuidedMethod:
    """How tokens are scored and stored."""

    alpha: float = 0.4
    beta: float = 0.3
    gamma: float = 0.3
    """Weights of attention, position and the guide's length in a score; 0 to 1 each."""
    theta_h: float = 0.7
    theta_m: float = 0.3
    """Least scores for high and for mid bits."""
    level_bits: tuple[int, int, int] = (8, 4, 2)
    """High, mid and low, of 16, 8, 5, 4, 3, 2, not rising; the last may be 0: such tokens are dropped."""
    early_ratio: float = 0.8
    middle_ratio: float = 0.6
    later_ratio: float = 0.4
    """Share of a chunk that the first three tenths of the layers keep, the next four, the rest; not rising."""
    guide_norm: str = "minmax"
    """minmax, or zscore: what attention is brought to before it is weighed."""
    guide: str = "first"
    """first, or last: of the prompt."""
    guide_tokens: int = 0
    """0: a fifth of the prompt, 1 to 128."""
    propagate: str = "layers"
    """off: a layer keeps all its tokens; cache: it drops; layers: what it drops does not come into later ones."""
    budget: str = "tokens"
    """tokens, or bits (with propagate cache): what a share is a share of."""
    protect: bool = True
    """Sinks (exact), guide and the last tokens are never dropped and have mid bits at least."""
    sink_tokens: int = 4
    keep_last: int = 8
    key_axis: str = "channel"
    """channel, or token: what of keys has a minimum and a scale of its own. Values: a token."""
    min_class: int = 32
    """A level of fewer tokens in a chunk joins the next wider one."""


@dataclass(frozen=True)
class GuidedChunk:
    """A chunk of n tokens that was decided on. H: kv heads, D: head_dim."""

    positions: npt.NDArray[np.int64]
    attention: F32
    """float32 [n]: mean over query heads of the weight a token gives to the guide, or takes from it."""
    attention_low: float
    attention_high: float
    """What the layer's were so far."""
    attention_hat: F32
    layer_weight: float
    position_bias: F32
    relevance: float
    score: F32
    label: Bytes
    """uint8 [n]: 2 high, 1 mid, 0 low."""
    protected: npt.NDArray[np.bool_]
    kept: Ints
    """int32, ascending: indices into positions."""
    bits_assigned: Bytes
    """uint8 [n]: 0 not stored, 16 exact."""
    bits: Bytes
    """The same after levels of few tokens joined wider ones."""
    k_codes: Bytes
    """uint8 [H, n, D]; 0 where there is none."""
    v_codes: Bytes
    k_low: F32 | dict[int, F32]
    """float32 [H, n], or of keys with a minimum a channel, by the level's bits, [H, D]; k_scale likewise."""
    k_scale: F32 | dict[int, F32]
    v_low: F32
    v_scale: F32
    k_reconstruction: F32
    """float32 [H, n, D]; 0 where not stored."""
    v_reconstruction: F32


class GuidedLayer:
    """One layer of one prompt of n_prompt tokens. Raises Error for a method that contradicts itself, a layer there is
    not, or a guide longer than the prompt."""

    def __init__(self, method: GuidedMethod | None = None, *, layer: int, n_layer: int, n_prompt: int) -> None:
        self.method = GuidedMethod() if method is None else instance("method", method, GuidedMethod)
        self._core = _livekv.GuidedLayer(asdict(self.method), layer, n_layer, n_prompt)
        self._next = 0

    def add(self, q: F32, k: F32, v: F32, positions: Sequence[int] | None = None,
            n_chunk: int | None = None) -> list[GuidedChunk]:  # fmt: skip
        """The prompt's next tokens: q [n_head, n, D], k and v [H, n, D], float32, contiguous, finite. positions:
        rising; None: the next ones. n_chunk: tokens of the chunk before earlier layers dropped some; None: n. Returns
        what is decided now: the chunk, or with a guide at the end all of them after the last token. Raises Error for
        other shapes."""
        n = k.shape[1] if isinstance(k, np.ndarray) and k.ndim == 3 else 0
        if positions is None:
            at = list(range(self._next, self._next + n))
        elif isinstance(positions, Iterable):
            at = [whole(f"positions[{i}]", p, 0, 2**31 - 1) for i, p in enumerate(positions)]
        else:
            raise Error(f"positions is {shown(positions)}; it must be a list of whole numbers")
        chunks = [GuidedChunk(**c) for c in self._core.add(q, k, v, at, n if n_chunk is None else n_chunk)]
        self._next = at[-1] + 1
        return chunks


def guided_statistics(layers: Iterable[Iterable[GuidedChunk]], n_prompt: int) -> dict[str, object]:
    """What the published system reports of the chunks of some layers of a prompt, by its names. Ratios are of the
    tokens that came into a layer; sizes are of codes beside 16 bits of the whole prompt. Raises Error when there are
    none, or it is given something else."""
    if not isinstance(layers, Iterable):
        raise Error(f"layers is {shown(layers)}; it must be a list for each layer of its livekv.kv.GuidedChunk")
    of_layers = [instances(f"layers[{i}]", chunks, GuidedChunk) for i, chunks in enumerate(layers)]
    if not of_layers or not all(of_layers):
        raise Error("there are no chunks to make statistics of")
    n_prompt = whole("n_prompt", n_prompt, 1, 2**31 - 1)
    labels = np.concatenate([c.label for chunks in of_layers for c in chunks])
    bits = sum(int(c.bits.sum(dtype=np.int64)) for chunks in of_layers for c in chunks)
    ratio = bits / (16 * n_prompt * len(of_layers))
    return {
        "precision_distribution": {
            f"{name}_ratio": float(np.mean(labels == level)) for level, name in ((2, "high"), (1, "medium"), (0, "low"))
        },
        "compression_ratio": ratio,
        "overall_memory_savings": 1 - ratio,
    }

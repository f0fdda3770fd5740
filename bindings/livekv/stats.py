"""What a cache holds and what sealing did to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KVBytes:
    """Where a cache's bytes are, measured from its allocations. The parts sum up to total."""

    codes: int
    scales: int
    """With zero points and block headers."""
    outliers: int
    """Values and places."""
    sinks: int
    warm_up: int
    """Chunks kept in 16 bits: keys during the warm-up, or unsealed generated text."""
    bypass: int
    """All of the layers kept at higher precision."""
    tail: int
    """The newest tokens, not yet sealed, raw in 16 bits."""
    statistics: int
    padding: int
    total: int


@dataclass(frozen=True)
class KVStats:
    """A session's cache in numbers; the same as in the command line's --stats."""

    n_tokens: int
    bits_per_value: float
    """8 * bytes.total / (2 * n_layer * n_head_kv * head_dim * n_tokens); 0 for an empty cache."""
    compression_ratio: float
    """bytes.total over the bytes of the same tokens in 16-bit floats."""
    memory_savings: float
    """1 - compression_ratio."""
    bytes: KVBytes
    workspace_bytes: int
    """Beside the cache, whatever the context."""
    outlier_fraction: float
    """Of the values in blocks, those stored apart."""
    saturated_fraction: float | None
    """Of the values in blocks, those beyond the range their codes cover. None unless measured (measure_error)."""
    snr_k: tuple[float, ...] | None
    """Signal to noise of sealed keys, dB, one a layer. None unless measured (measure_error)."""
    snr_v: tuple[float, ...] | None
    seal_s: float
    """Seconds spent sealing."""


def kv_stats_from(raw: dict[str, Any]) -> KVStats:
    def share(n: int, of: int) -> float:
        return n / of if of > 0 else 0.0

    ratio = share(raw["bytes"]["total"], raw["f16_bytes"])
    measured = raw["measured"]
    return KVStats(
        n_tokens=raw["n_tokens"],
        bits_per_value=raw["bits_per_value"],
        compression_ratio=ratio,
        memory_savings=1.0 - ratio if raw["f16_bytes"] > 0 else 0.0,
        bytes=KVBytes(**raw["bytes"]),
        workspace_bytes=raw["workspace_bytes"],
        outlier_fraction=share(raw["n_outliers"], raw["n_sealed"]),
        saturated_fraction=share(raw["n_saturated"], raw["n_sealed"]) if measured else None,
        snr_k=tuple(raw["snr_k"]) if measured else None,
        snr_v=tuple(raw["snr_v"]) if measured else None,
        seal_s=raw["seal_s"],
    )

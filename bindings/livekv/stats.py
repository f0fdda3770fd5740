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
    f16_bytes: int
    """What the same tokens take in 16-bit floats."""
    bits_per_value: float | None
    """8 * bytes.total / (2 * n_layer * n_head_kv * head_dim * n_tokens); None for an empty cache."""
    compression_ratio: float | None
    """bytes.total / f16_bytes; None for an empty cache."""
    memory_savings: float | None
    """1 - compression_ratio."""
    bytes: KVBytes
    workspace_bytes: int
    """Beside the cache, whatever the context."""
    values_given_back: int
    outlier_fraction: float | None
    """Of the values in blocks, those stored apart. None while there are no blocks."""
    saturated_fraction: float | None
    """Of the values in blocks, those beyond the range their codes cover. None unless measured (measure_error), and
    while there are no blocks."""
    snr_k: tuple[float | None, ...] | None
    """Signal to noise of sealed keys, dB, one a layer: None for a layer that has sealed nothing, or without any error.
    None as a whole unless measured (measure_error)."""
    snr_v: tuple[float | None, ...] | None
    seal_s: float
    """Seconds spent sealing."""
    stream: dict[str, Any] | None = None
    """Of kvstream: avg_key_bits and the other numbers of livekv.kv.stream_statistics, once there is a chunk, and
    layers, a dict each with what its running maxima have become, from which flags are told
    (engine/policy/stream_report.h)."""
    guided: dict[str, Any] | None = None
    """Of guided, of the prompt's tokens in chunks: compression_ratio and overall_memory_savings of codes beside 16
    bits, high_ratio, medium_ratio, low_ratio and dropped_ratio of the tokens in all layers, once there is a chunk, and
    layers, a dict each: tokens_in, tokens_kept, bits_per_kept, score_mean, score_std, score_min, score_max and
    budget_use. With a guide at the end, once the prompt is complete, also peak_bytes of the cache while it was read."""
    fastkv: dict[str, int] | None = None
    """Of fastkv, once its prompt is complete: prompt_tokens, tokens_going_on to the later layers, tokens_kept by each
    kv head of a layer up to the one that chose, tokens_kept_later by one of a later layer, and peak_bytes of the cache
    while the prompt was read."""
    finch: dict[str, int] | None = None
    """Of finch, once there is a context: context_tokens that were read, tokens_kept of these in each layer,
    question_tokens behind each chunk, factor (of so many tokens one is kept), and peak_bytes of the cache while a chunk
    was condensed."""


def kv_stats_from(raw: dict[str, Any]) -> KVStats:
    def share(n: int, of: int) -> float | None:
        return n / of if of > 0 else None

    ratio = share(raw["bytes"]["total"], raw["f16_bytes"])
    measured = raw["measured"]
    return KVStats(
        n_tokens=raw["n_tokens"],
        f16_bytes=raw["f16_bytes"],
        bits_per_value=raw["bits_per_value"],
        compression_ratio=ratio,
        memory_savings=None if ratio is None else 1.0 - ratio,
        bytes=KVBytes(**raw["bytes"]),
        workspace_bytes=raw["workspace_bytes"],
        values_given_back=raw["n_given_back"],
        outlier_fraction=share(raw["n_outliers"], raw["n_sealed"]),
        saturated_fraction=share(raw["n_saturated"], raw["n_sealed"]) if measured else None,
        snr_k=tuple(raw["snr_k"]) if measured else None,
        snr_v=tuple(raw["snr_v"]) if measured else None,
        seal_s=raw["seal_s"],
        stream=raw["stream"],
        guided=raw["guided"],
        fastkv=raw["fastkv"],
        finch=raw["finch"],
    )

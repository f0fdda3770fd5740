"""KVQuant in double precision: its quantizer, and a small LLaMA whose cache is sealed by it, written to be read. Only
what a cache holds is rounded: keys and values to f16, as are the numbers of a block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, quants


def turned(model, layer: int, keys: np.ndarray, first: int = 0) -> np.ndarray:
    """Keys or queries [H, n, D] by RoPE, from position `first` on."""
    angles, magnitude, neighbours = model._core.rope(layer)
    n_pairs = len(angles)
    pairs = (slice(0, 2 * n_pairs, 2), slice(1, 2 * n_pairs, 2)) if neighbours else (
        slice(0, n_pairs), slice(n_pairs, 2 * n_pairs))  # fmt: skip
    at = (first + np.arange(keys.shape[1]))[:, None] * angles
    cos, sin = magnitude * np.cos(at), magnitude * np.sin(at)
    out = keys.astype(np.float64)
    x, y = out[..., pairs[0]].copy(), out[..., pairs[1]].copy()
    out[..., pairs[0]], out[..., pairs[1]] = x * cos - y * sin, x * sin + y * cos
    return out


def f16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float64)


def quantized(x: np.ndarray, low: np.ndarray, high: np.ndarray, book: np.ndarray, n_exact: int, rounds=np.float64):
    """(outlier, codes, what they stand for, whether two entries of the codebook are as near) of x [H, n, D]. low and
    high as they are broadcast; rounds: how a block has its numbers."""
    x, low, high, book = (a.astype(np.float64) for a in (x, low, high, book))
    outlier = (x < low) | (x > high) | (np.arange(x.shape[1]) < n_exact)[None, :, None]
    middle, half = (low + high) / 2, (high - low) / 2
    y = np.divide(x - middle, half, out=np.zeros_like(x), where=np.broadcast_to(half > 0, x.shape))
    distance = np.abs(y[..., None] - book)
    codes = np.where(outlier, 0, distance.argmin(axis=-1))
    close_call = np.diff(np.sort(distance, axis=-1)[..., :2], axis=-1)[..., 0] < 1e-6
    return outlier, codes, np.where(outlier, x, rounds(middle) + rounds(half) * rounds(book)[codes]), close_call


def token_thresholds(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each token of v [H, n, D], as they are broadcast."""
    tokens = v.transpose(1, 0, 2).reshape(v.shape[1], -1)
    low = np.quantile(tokens, 0.005, axis=1, method="nearest")
    return low[None, :, None], -np.quantile(-tokens, 0.005, axis=1, method="nearest")[None, :, None]


class Sequence:
    """A sequence of a model (livekv.Model, for its shape and RoPE, and its file's weights) with a calibration."""

    def __init__(self, model, path: Path, calibration, chunk: int) -> None:
        self._m, self._calibration, self._chunk = model, calibration, chunk
        self._w = {t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in GGUFReader(path).tensors}
        fields = GGUFReader(path).fields
        self._eps = fields["llama.attention.layer_norm_rms_epsilon"].contents()
        self._sealed = [[] for _ in range(model.n_layer)]  # (keys before RoPE, values) [H, n, D], of each chunk
        self._open = [(np.zeros((model.n_head_kv, 0, model.head_dim)),) * 2 for _ in range(model.n_layer)]
        self._n = 0

    def read(self, tokens: list[int]) -> np.ndarray:
        """Logits of each token, [n, n_vocab]; as a prompt, cut where chunks end."""
        rows = []
        while tokens:
            n = self._chunk - self._n % self._chunk
            rows.append(self._pass(tokens[:n]))
            tokens = tokens[n:]
        return np.concatenate(rows)

    def _pass(self, tokens: list[int]) -> np.ndarray:
        x = self._w["token_embd.weight"][tokens]
        for layer in range(self._m.n_layer):
            w = {name: self._w[f"blk.{layer}.{name}.weight"] for name in
                 ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")}  # fmt: skip
            x = x + self._attention(layer, self._norm(x, w["attn_norm"]), w) @ w["attn_output"].T
            y = self._norm(x, w["ffn_norm"])
            gate = y @ w["ffn_gate"].T
            x = x + (gate / (1 + np.exp(-gate)) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
        self._n += len(tokens)
        return self._norm(x, self._w["output_norm.weight"]) @ self._w.get("output.weight", self._w["token_embd.weight"]).T

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self._eps) * weight

    def _attention(self, layer: int, x: np.ndarray, w: dict) -> np.ndarray:
        m, n = self._m, len(x)

        def heads(rows: np.ndarray) -> np.ndarray:
            return rows.reshape(n, -1, m.head_dim).transpose(1, 0, 2)

        q = turned(m, layer, heads(x @ w["attn_q"].T), self._n)
        k, v = (np.concatenate([old, f16(heads(x @ w[name].T))], axis=1)
                for old, name in zip(self._open[layer], ("attn_k", "attn_v"), strict=True))  # fmt: skip
        parts = [*self._sealed[layer], (k, v)]
        keys = turned(m, layer, np.concatenate([part[0] for part in parts], axis=1))
        values = np.concatenate([part[1] for part in parts], axis=1)
        group = m.n_head // m.n_head_kv
        scores = q @ keys.repeat(group, 0).transpose(0, 2, 1) / np.sqrt(m.head_dim)
        scores += np.where(np.arange(keys.shape[1]) > (self._n + np.arange(n))[:, None], -np.inf, 0)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out = p / p.sum(-1, keepdims=True) @ values.repeat(group, 0)
        self._store(layer, k, v)
        return out.transpose(1, 0, 2).reshape(n, -1)

    def _store(self, layer: int, k: np.ndarray, v: np.ndarray) -> None:
        if k.shape[1] < self._chunk:
            self._open[layer] = (k, v)
            return
        of = self._calibration.layers[layer]
        n_exact = 0 if self._sealed[layer] else 1
        keys = quantized(k, of.lower[:, None], of.upper[:, None], of.k_codebook, n_exact, f16)[2]
        values = quantized(v, *token_thresholds(v), of.v_codebook, n_exact, f16)[2]
        self._sealed[layer].append((keys, values))
        self._open[layer] = (k[:, :0], v[:, :0])

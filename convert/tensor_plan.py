"""Which GGUF tensors a checkpoint becomes, and their bytes, made slab by slab."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quants

from convert_error import ConvertError
from hf_checkpoint import StoredTensor
from hf_config import Hparams

TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}

SLAB_ELEMENTS = 1 << 19  # 2 MB of float32, and a few times that while it is quantized

MAX_TENSORS = 16384  # engine/model/gguf_precheck.cpp

# Old checkpoints store buffers that are functions of the configuration.
IGNORED_SUFFIXES = (".rotary_emb.inv_freq", ".masked_bias")


class TensorStream:
    """One tensor of the output. GGUFWriter.write_tensor_data takes it for an array: it has nbytes and tofile()."""

    def __init__(
        self,
        name: str,
        source: StoredTensor,
        type_: GGMLQuantizationType,
        n_head: int | None = None,
        plus: float = 0.0,
    ):
        self.name = name
        self.source = source
        self.type = type_
        self.n_head = n_head  # set for q and k whose rows are reordered, head by head
        self.plus = plus  # added to every value
        self.written: Callable[[int], None] = lambda n_bytes: None

    @property
    def nbytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return math.prod(self.source.shape) // block * block_bytes

    def tofile(self, file: BinaryIO) -> None:
        if self.n_head and len(self.source.shape) == 1:  # a bias: a value for each row of the matrix
            values = self.source.read(0, 1).reshape(-1, 1)
            self._write(file, interleave_rope_rows(values, len(values) // self.n_head).reshape(1, -1))
            return
        n_rows = self.source.n_rows
        unit = n_rows // self.n_head if self.n_head else 1  # rows that must lie in one slab
        step = max(1, SLAB_ELEMENTS // (self.source.n_cols * unit)) * unit
        for begin in range(0, n_rows, step):
            rows = self.source.read(begin, min(begin + step, n_rows))
            if self.plus:
                rows = rows + np.float32(self.plus)
            if self.n_head:
                rows = interleave_rope_rows(rows, unit)
            self._write(file, rows)

    def _write(self, file: BinaryIO, rows: np.ndarray) -> None:
        data = encode(rows, self.type, self.source.name)
        write_array(file, data)
        self.written(data.nbytes)


def interleave_rope_rows(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of whole heads, [n * head_dim, n_cols], from Hugging Face's order to that of ggml's RoPE of type NORM.

    Hugging Face turns row i of a head together with row i + head_dim/2; NORM turns neighbours, 2i and 2i + 1.
    """
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def write_array(file: BinaryIO, data: np.ndarray) -> None:
    """What data.tofile(file) writes, whose error of a full disk has no reason."""
    file.write(np.ascontiguousarray(data).data)


def encode(rows: np.ndarray, type_: GGMLQuantizationType, name: str) -> np.ndarray:
    """float32 [n, n_cols] in the bytes of a GGUF type; throws when a value is too large for it, or is none."""
    if not np.isfinite(rows).all():
        raise ConvertError(f"{name} holds values that are not numbers (NaN or infinite): the checkpoint is broken")
    try:
        with np.errstate(over="raise"):
            return quants.quantize(rows, type_)
    except FloatingPointError as problem:
        kind = type_.name.lower()
        raise ConvertError(f"{name} holds values beyond the range of {kind}; use bf16 or f32") from problem


def pick_type(requested: str, name: str, shape: tuple[int, ...]) -> GGMLQuantizationType:
    type_ = TYPES[requested][0]
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if shape[-1] % GGML_QUANT_SIZES[type_][0]:
        return GGMLQuantizationType.F16
    if type_ == GGMLQuantizationType.Q4_0 and name in ("token_embd.weight", "output.weight"):
        return GGMLQuantizationType.Q8_0
    return type_


def _equal(a: StoredTensor, b: StoredTensor | None) -> bool:
    if b is None or a.shape != b.shape:
        return False
    step = max(1, SLAB_ELEMENTS // a.n_cols)
    slabs = ((begin, min(begin + step, a.n_rows)) for begin in range(0, a.n_rows, step))
    return all(np.array_equal(a.read(*slab), b.read(*slab)) for slab in slabs)


def _vector(name: str, values: np.ndarray) -> TensorStream:
    source = StoredTensor(name, values.shape, lambda begin, end: values.reshape(1, -1)[begin:end])
    return TensorStream(name + ".weight", source, GGMLQuantizationType.F32)


def plan_tensors(
    stored: dict[str, StoredTensor], hparams: Hparams, requested: str
) -> tuple[list[TensorStream], list[str]]:
    """The output's tensors in file order, and notes for the user. Every stored tensor must be used or be known."""
    left = {name: tensor for name, tensor in stored.items() if not name.endswith(IGNORED_SUFFIXES)}
    plan, notes = [], []

    def add(name: str, hf_name: str, shape: tuple[int, ...], n_head: int | None = None, plus: float = 0.0) -> None:
        tensor = left.pop(hf_name, None)
        if tensor is None:
            raise ConvertError(f"the checkpoint lacks {hf_name}")
        if tensor.shape != shape:
            raise ConvertError(f"{hf_name} is {list(tensor.shape)}, config.json asks for {list(shape)}")
        plan.append(TensorStream(name, tensor, pick_type(requested, name, shape), n_head, plus))

    def add_norm(name: str, hf_name: str, n: int) -> None:
        add(name, hf_name, (n,), plus=1.0 if hparams.family.norm_from_one else 0.0)

    h = hparams
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    if h.tied and embed not in left and head in left:  # tied weights may be stored under either name
        left[embed] = left.pop(head)
    tied = h.tied and (head not in left or _equal(left[head], left.get(embed)))
    if tied:
        left.pop(head, None)
    elif h.tied:
        notes.append(f"{head} is kept: config.json ties it to the embedding, from which it differs, as in transformers")
    add("token_embd.weight", embed, (h.n_vocab, h.n_embd))
    for il in range(h.n_layer):
        hf, out = f"model.layers.{il}.", f"blk.{il}."
        n_q, n_kv = h.n_head * h.head_dim, h.n_head_kv * h.head_dim
        add_norm(out + "attn_norm.weight", hf + "input_layernorm.weight", h.n_embd)
        q_turns, k_turns = (h.n_head, h.n_head_kv) if h.family.rope_neighbours else (None, None)
        if h.family.fused:
            add(out + "attn_qkv.weight", hf + "self_attn.qkv_proj.weight", (n_q + 2 * n_kv, h.n_embd))
        else:
            add(out + "attn_q.weight", hf + "self_attn.q_proj.weight", (n_q, h.n_embd), q_turns)
            add(out + "attn_k.weight", hf + "self_attn.k_proj.weight", (n_kv, h.n_embd), k_turns)
            add(out + "attn_v.weight", hf + "self_attn.v_proj.weight", (n_kv, h.n_embd))
        add(out + "attn_output.weight", hf + "self_attn.o_proj.weight", (h.n_embd, n_q))
        if h.family.post_norms:
            add_norm(out + "post_attention_norm.weight", hf + "post_attention_layernorm.weight", h.n_embd)
            add_norm(out + "ffn_norm.weight", hf + "pre_feedforward_layernorm.weight", h.n_embd)
            add_norm(out + "post_ffw_norm.weight", hf + "post_feedforward_layernorm.weight", h.n_embd)
        else:
            add_norm(out + "ffn_norm.weight", hf + "post_attention_layernorm.weight", h.n_embd)
        if h.family.fused:
            add(out + "ffn_up.weight", hf + "mlp.gate_up_proj.weight", (2 * h.n_ff, h.n_embd))
        else:
            add(out + "ffn_gate.weight", hf + "mlp.gate_proj.weight", (h.n_ff, h.n_embd))
            add(out + "ffn_up.weight", hf + "mlp.up_proj.weight", (h.n_ff, h.n_embd))
        add(out + "ffn_down.weight", hf + "mlp.down_proj.weight", (h.n_embd, h.n_ff))
        if h.family.head_norms:
            add_norm(out + "attn_q_norm.weight", hf + "self_attn.q_norm.weight", h.head_dim)
            add_norm(out + "attn_k_norm.weight", hf + "self_attn.k_norm.weight", h.head_dim)
        if h.qkv_bias:
            add(out + "attn_q.bias", hf + "self_attn.q_proj.bias", (n_q,), q_turns)
            add(out + "attn_k.bias", hf + "self_attn.k_proj.bias", (n_kv,), k_turns)
            add(out + "attn_v.bias", hf + "self_attn.v_proj.bias", (n_kv,))
        if h.output_bias:
            add(out + "attn_output.bias", hf + "self_attn.o_proj.bias", (h.n_embd,))
        if h.mlp_bias:
            add(out + "ffn_gate.bias", hf + "mlp.gate_proj.bias", (h.n_ff,))
            add(out + "ffn_up.bias", hf + "mlp.up_proj.bias", (h.n_ff,))
            add(out + "ffn_down.bias", hf + "mlp.down_proj.bias", (h.n_embd,))
    add_norm("output_norm.weight", "model.norm.weight", h.n_embd)
    if not tied:
        add("output.weight", head, (h.n_vocab, h.n_embd))
    if left:
        some = ", ".join(sorted(left)[:3]) + (", ..." if len(left) > 3 else "")
        raise ConvertError(f"{len(left)} tensors have no place in a {h.family.gguf} GGUF: {some}")
    divisors = {"rope_freqs": h.rope.freqs}
    if h.rope.long is not None:
        divisors |= {"rope_factors_short": h.rope.long.short, "rope_factors_long": h.rope.long.long}
    plan[:0] = [_vector(name, values) for name, values in divisors.items() if values is not None]

    if len(plan) > MAX_TENSORS:
        raise ConvertError(f"{len(plan)} tensors are more than the {MAX_TENSORS} that the engine reads")
    kept = [t.name for t in plan if len(t.source.shape) == 2 and t.source.n_cols % 32]
    if kept and requested in ("q8_0", "q4_0"):
        notes.append(f"{len(kept)} matrices stay f16, as their rows are no multiple of 32 long: {kept[0]}, ...")
    return plan, notes

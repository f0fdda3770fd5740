"""config.json -> the numbers a GGUF carries. What the engine cannot compute is refused here."""

from __future__ import annotations

from dataclasses import dataclass, field

from config_keys import refuse_unread
from convert_error import ConvertError
from families import FAMILIES, Family
from hf_rope import KINDS, Rope, positive, read_rope
from json_fields import Fields

# The engine's own limits (engine/model/hparams.cpp and arch/common_shape.cpp); a file beyond them would not load.
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_VOCAB = 1 << 24
MAX_HEAD_DIM = 4096
MAX_CONTEXT = (1 << 32) - 1
HEAD_DIM_UNIT = 8
MAX_EPS = 1 - 1e-7  # rounds to a float32 below 1


@dataclass
class Hparams:
    family: Family
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    rms_eps: float
    rope: Rope
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False  # of attention's output matrix
    mlp_bias: bool = False  # of gate, up and down
    window: int | None = None  # tokens seen by layers that do not see all
    window_layers: list[bool] = field(default_factory=list)  # [n_layer] which these are, where there is a window
    attention_scale: float | None = None  # of products of queries and keys, where it is not head_dim ** -0.5
    notes: list[str] = field(default_factory=list)


def read_hparams(config: dict) -> Hparams:
    """Throws ConvertError for anything that is not a plain decoder of one of the families."""
    fields = Fields(config, "config.json")
    architecture = _architecture(fields)
    family = FAMILIES[architecture]
    for key, has_it in (("attention_bias", family.qkv_bias), ("mlp_bias", None if family.mlp_bias else False)):
        asked = fields.flag(key)
        if has_it is not None and asked is not None and asked != has_it:
            kind = "no biases there" if asked else "biases on q, k and v"
            raise ConvertError(f"{fields.wrong(key, str(has_it).lower())}: {architecture} has {kind}")
    if fields.data.get("quantization_config"):
        raise ConvertError("the checkpoint is quantized already (quantization_config); convert the original one")
    if fields.text(family.act_key, family.act[0]) not in family.act:
        found = fields.text(family.act_key)
        raise ConvertError(f"{family.act_key} '{found}' is not supported ({family.act[0]} is)")

    n_embd = _count(fields, "hidden_size", MAX_WIDTH)
    n_head = _count(fields, "num_attention_heads", MAX_WIDTH)
    # The classes' own defaults where the key is absent, and as many as heads where it is null.
    n_head_kv = family.kv_heads if family.kv_heads and "num_key_value_heads" not in config else n_head
    attention_bias = fields.flag("attention_bias", False)
    head_dim = _count(fields, "head_dim", MAX_HEAD_DIM, family.head_dim or n_embd // n_head)
    n_ctx = _count(fields, "max_position_embeddings", MAX_CONTEXT)
    hparams = Hparams(
        family=family,
        n_embd=n_embd,
        n_layer=_count(fields, "num_hidden_layers", MAX_LAYERS),
        n_head=n_head,
        n_head_kv=_count(fields, "num_key_value_heads", MAX_WIDTH, n_head_kv),
        head_dim=head_dim,
        n_ff=_count(fields, "intermediate_size", MAX_WIDTH),
        n_vocab=_count(fields, "vocab_size", MAX_VOCAB),
        n_ctx=n_ctx,
        rms_eps=fields.number("rms_norm_eps", family.rms_eps),
        rope=read_rope(fields, head_dim, n_ctx, family),
        tied=fields.flag("tie_word_embeddings", family.tied),
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=attention_bias and family.qkv_bias is None,
        mlp_bias=fields.flag("mlp_bias", False),
    )
    if hparams.n_head % hparams.n_head_kv:
        raise ConvertError(f"{hparams.n_head} heads cannot share {hparams.n_head_kv} key/value heads evenly")
    if "head_dim" not in fields and not family.head_dim and n_embd % n_head:
        raise ConvertError(f"hidden_size {n_embd} is not a multiple of {n_head} heads, and there is no head_dim")
    if hparams.head_dim % HEAD_DIM_UNIT:
        raise ConvertError(f"head_dim {hparams.head_dim} is no multiple of {HEAD_DIM_UNIT}, which the engine asks for")
    if not 0 <= hparams.rms_eps < MAX_EPS:
        raise fields.wrong("rms_norm_eps", "a number from 0 to 1")
    if family.pattern:
        _set_windows(hparams, fields)
    elif family.all_see_window:
        hparams.window = fields.integer("sliding_window")
        hparams.window_layers = []
        if hparams.window is not None and not 1 <= hparams.window <= MAX_CONTEXT:
            raise fields.wrong("sliding_window", f"null or 1 to {MAX_CONTEXT}")
    else:
        _cut_to_window(hparams, fields)
    unknown = refuse_unread(fields, hparams.head_dim, n_embd, hparams.n_layer, family)
    if unknown:
        hparams.notes.append(f"config.json has keys that are not known and not read: {', '.join(unknown)}")
    if fields.text("model_type", family.model_type) != family.model_type:
        hparams.notes.append(
            f"taken for the architecture {architecture}, though model_type is {fields.text('model_type')}"
        )
    hparams.notes += hparams.rope.notes
    return hparams


def _architecture(fields: Fields) -> str:
    names = fields.list("architectures") or []
    if len(names) != 1 or names[0] not in list(FAMILIES):
        found, known = ", ".join(map(str, names)) or "none", ", ".join(FAMILIES)
        raise ConvertError(f"architecture {found} is not supported ({known} are)")
    if fields.text("model_type", "llama") not in [family.model_type for family in FAMILIES.values()]:
        raise fields.wrong("model_type", "one that the architecture has: " + FAMILIES[names[0]].model_type)
    return names[0]


def _count(fields: Fields, key: str, most: int, default: int | None = None) -> int:
    value = fields.integer(key, default)
    if value is None:
        raise ConvertError(f"config.json lacks {key}")
    if not 1 <= value <= most:
        raise fields.wrong(key, f"1 to {most}")
    return value


def _set_windows(hparams: Hparams, fields: Fields) -> None:
    hparams.window = _count(fields, "sliding_window", MAX_CONTEXT, hparams.family.window)
    kinds = fields.list("layer_types")
    if kinds is None:
        each = _count(fields, "sliding_window_pattern", MAX_LAYERS, hparams.family.pattern)
        hparams.window_layers = [(il + 1) % each != 0 for il in range(hparams.n_layer)]
    else:
        if len(kinds) != hparams.n_layer or any(kind not in KINDS for kind in kinds):
            raise fields.wrong("layer_types", f"{' or '.join(KINDS)} for each of {hparams.n_layer} layers")
        hparams.window_layers = [kind == "sliding_attention" for kind in kinds]
    scaled_by = positive(fields, "query_pre_attn_scalar", float(hparams.family.head_dim))
    if scaled_by != hparams.head_dim:
        hparams.attention_scale = scaled_by**-0.5


def _cut_to_window(hparams: Hparams, fields: Fields) -> None:
    window = None
    if hparams.family.uses_window is None:
        if fields.integer("sliding_window") is not None:
            hparams.notes.append("sliding_window is not read, as in transformers: the class has none")
    elif fields.flag("use_sliding_window", hparams.family.uses_window):
        # The class's default, for configurations that leave it out; newer models say null.
        window = fields.integer("sliding_window") if "sliding_window" in fields.data else hparams.family.window
    known = ("full_attention", "sliding_attention") if window else ("full_attention",)
    kinds = fields.list("layer_types")
    if kinds is not None and (len(kinds) != hparams.n_layer or any(kind not in known for kind in kinds)):
        raise fields.wrong("layer_types", f"{' or '.join(known)} for each of {hparams.n_layer} layers")
    if window is None:
        return
    if window < 1:
        raise fields.wrong("sliding_window", "null or at least 1")
    if window < hparams.n_ctx:
        hparams.notes.append(
            f"context length {hparams.n_ctx} cut to the sliding window of {window}: within it, attention is full"
        )
        hparams.n_ctx = window

"""Give a LLaMA in a GGUF file the heavy key and value channels of large models without changing what it computes.

    python -m python_eval.testbed.inject_outliers IN.gguf OUT.gguf [--key-share 0.04] [--value-share 0.03]

Small models lack the channels, 10 to 30 times the median, that make real caches hard to quantize. Attention sees keys
only through q.k and values only through attn_output, so a channel of either may be multiplied by any factor that is
divided out on the other side. A key factor holds for both channels of a RoPE pair, as only then it commutes with the
rotation. All factors are powers of two, so that nothing is rounded but what becomes subnormal in f16.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFReader, ReaderTensor, quants

from ..convert_folder import CONVERT_FOLDERS

sys.path.extend(CONVERT_FOLDERS)

from convert_error import ConvertError, named, run_tool
from tensor_plan import TYPES, encode, write_array
from whole_file import refuse_input, whole_output

# A channel this far below its head's median is as good as dead: lifting it would need a factor whose inverse f16
# queries cannot hold.
MIN_SIZE = 0.1
MAX_RATIO = 100.0  # well beyond what is reported; with MIN_SIZE it keeps keys, queries and values in f16's range
# Other types, which gguf-py cannot write or which are too coarse to be written anew, become f16.
KEPT_TYPES = {TYPES[name][0] for name in ("f32", "f16", "bf16", "q8_0")}


@dataclass(frozen=True)
class Recipe:
    key_share: float = 0.04  # of the RoPE pairs of each kv head
    value_share: float = 0.03  # of the channels of each kv head
    low: float = 10.0  # size of a heavy channel as a multiple of the median, drawn log-uniformly up to `high`
    high: float = 30.0
    seed: int = 1

    def check(self) -> None:
        for name, share in (("--key-share", self.key_share), ("--value-share", self.value_share)):
            if not 0.0 <= share < 0.5:
                raise ConvertError(f"{name} is {share:g}, expected at least 0 and less than 0.5")
        if not (self.low >= 1.0 and 2.0 * self.low <= self.high <= MAX_RATIO):
            limits = f"1 <= low, 2 * low <= high, high <= {MAX_RATIO:g}"
            raise ConvertError(f"--low {self.low:g} and --high {self.high:g}: expected {limits}")
        if self.seed < 0:
            raise ConvertError(f"--seed is {self.seed}, expected 0 or more")


class Model:
    """A llama GGUF: its attention shape, and its tensors as float32."""

    def __init__(self, path: Path):
        try:
            self.reader = GGUFReader(path)
        except (ValueError, KeyError, IndexError) as problem:
            raise ConvertError(f"{path} is no complete GGUF file: {problem}") from problem
        self.path = path
        if self.reader.endianess != GGUFEndian.LITTLE:
            raise ConvertError(f"{path} is big-endian")
        architecture = self.read("general.architecture")
        if architecture != "llama":
            raise ConvertError(f"{path} is of architecture {architecture}, expected llama")
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.n_layer = self.read_count("llama.block_count")
        self.n_embd = self.read_count("llama.embedding_length")
        self.n_head = self.read_count("llama.attention.head_count")
        self.n_head_kv = self.read_count("llama.attention.head_count_kv", self.n_head)
        self.head_dim = self.read_count("llama.attention.key_length", self.n_embd // self.n_head)
        if self.n_head % self.n_head_kv or self.head_dim % 2:
            shape = f"{self.n_head} heads over {self.n_head_kv} kv heads of {self.head_dim} channels"
            raise ConvertError(f"{path} has {shape}, which no attention fits")
        if self.read_count("llama.attention.value_length", self.head_dim) != self.head_dim:
            raise ConvertError(f"{path}: keys and values of different length")
        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        self.shapes = {  # of what is read here, rows first
            "attn_norm.weight": (self.n_embd,),
            "attn_q.weight": (n_q, self.n_embd),
            "attn_k.weight": (n_kv, self.n_embd),
            "attn_v.weight": (n_kv, self.n_embd),
            "attn_output.weight": (self.n_embd, n_q),
            "attn_q.bias": (n_q,),
            "attn_k.bias": (n_kv,),
            "attn_v.bias": (n_kv,),
        }

    def read(self, key: str) -> object:
        entry = self.reader.get_field(key)
        return entry.contents() if entry else None

    def read_count(self, key: str, default: int | None = None) -> int:
        value = self.read(key)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise ConvertError(f"{self.path}: key {key} is {value}, expected a number above 0")
        return value

    def decode(self, il: int, part: str) -> np.ndarray | None:
        """A tensor of layer `il` as float32, rows first; None for a bias that is not there."""
        name = f"blk.{il}.{part}"
        tensor = self.tensors.get(name)
        if tensor is None:
            if part.endswith(".bias"):
                return None
            raise ConvertError(f"{self.path} lacks {name}")
        stored = tuple(int(n) for n in reversed(tensor.shape))
        if stored != self.shapes[part]:
            raise ConvertError(f"{self.path}: {name} is {list(stored)}, expected {list(self.shapes[part])}")
        try:
            return quants.dequantize(tensor.data, tensor.tensor_type).reshape(stored)
        except NotImplementedError as problem:
            raise ConvertError(f"{name} is {tensor.tensor_type.name.lower()}, which cannot be read") from problem

    def channel_sizes(self, il: int, part: str) -> np.ndarray:
        """[n_head_kv, head_dim]: the rms of each channel when attn_norm's input is white noise of rms 1."""
        names = (part + ".weight", "attn_norm.weight")
        weight, norm = (np.asarray(self.decode(il, name), np.float64) for name in names)
        bias = self.decode(il, part + ".bias")
        power: np.ndarray = np.square(weight * norm).sum(axis=1)
        if bias is not None:
            power += np.square(np.asarray(bias, np.float64))
        sizes: np.ndarray = np.sqrt(power).reshape(self.n_head_kv, self.head_dim)
        return sizes


@dataclass
class Layer:
    """What a layer's channels are multiplied by, and a line that says what this changes."""

    key_factors: np.ndarray  # [n_head_kv, head_dim], equal within a RoPE pair
    value_factors: np.ndarray  # [n_head_kv, head_dim]
    summary: str


def pick_factors(sizes: np.ndarray, share: float, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """[n] factors for one head's channels of sizes [n]; 1 but for the chosen ones.

    A chosen channel's size becomes about u times the median, u log-uniform: the factor is the power of two nearest to
    that with which the result lies within [low, high]. The median is the one the head has afterwards.
    """
    factors = np.ones_like(sizes)
    if share == 0 or not np.median(sizes) > 0:  # a head that is pruned away, or not finite, stays as it is
        return factors
    alive = np.flatnonzero(sizes > MIN_SIZE * np.median(sizes))
    n_heavy = min(max(1, round(share * len(sizes))), (len(sizes) - 1) // 2, len(alive))
    chosen = rng.choice(alive, n_heavy, replace=False)
    rest = sizes.copy()
    rest[chosen] = np.inf
    unit = np.log2(np.median(rest) / sizes[chosen])  # exponent that lifts a channel to the median
    low, high = math.log2(recipe.low), math.log2(recipe.high)
    wanted = np.round(unit + rng.uniform(low, high, n_heavy))
    factors[chosen] = np.exp2(np.clip(wanted, np.ceil(unit + low), np.floor(unit + high)))
    return factors


def plan_layer(model: Model, il: int, recipe: Recipe) -> Layer:
    keys, values = model.channel_sizes(il, "attn_k"), model.channel_sizes(il, "attn_v")
    # Channels 2i and 2i+1 of a head turn together (RoPE of type NORM), so each takes on the rms of the two.
    pairs = np.sqrt(np.square(keys).reshape(model.n_head_kv, -1, 2).mean(axis=2))

    def pick(kind: int, sizes: np.ndarray, share: float) -> np.ndarray:
        # A generator for each head, so that one share does not change what the other draws.
        rngs = [np.random.default_rng((recipe.seed, il, head, kind)) for head in range(len(sizes))]
        return np.stack([pick_factors(row, share, recipe, rng) for row, rng in zip(sizes, rngs, strict=True)])

    pair_factors, value_factors = pick(0, pairs, recipe.key_share), pick(1, values, recipe.value_share)
    summary = f"layer {il}: {describe('key pairs', pairs, pair_factors)}, {describe('values', values, value_factors)}"
    return Layer(np.repeat(pair_factors, 2, axis=1), value_factors, summary)


def describe(what: str, sizes: np.ndarray, factors: np.ndarray) -> str:
    """Sizes and factors [n_head_kv, n]; the ratio is that of the head where it is largest, pruned ones left out."""
    before, after = 0.0, 0.0
    for old, new in zip(sizes, sizes * factors, strict=True):
        if np.median(old) > 0:
            before, after = max(before, old.max() / np.median(old)), max(after, new.max() / np.median(new))
    n_heavy = np.count_nonzero(factors != 1)
    return f"{what} largest/median {before:.1f} -> {after:.1f} ({n_heavy} of {factors.size} scaled)"


def rewrite(model: Model, il: int, part: str, layer: Layer) -> np.ndarray:
    """float32 weights or bias, times the layer's factors or, in attn_q and attn_output, divided by those they undo."""
    group = model.n_head // model.n_head_kv  # query head h reads kv head h / group
    factors = {
        "attn_k": layer.key_factors,
        "attn_q": 1 / np.repeat(layer.key_factors, group, axis=0),
        "attn_v": layer.value_factors,
        "attn_output": 1 / np.repeat(layer.value_factors, group, axis=0),
    }[part.split(".")[0]].ravel()
    along_columns = part in ("attn_output.weight", "attn_q.bias", "attn_k.bias", "attn_v.bias")
    return np.asarray(model.decode(il, part) * (factors if along_columns else factors[:, None]), np.float32)


def pick_type(tensor: ReaderTensor, requested: str) -> GGMLQuantizationType:
    if len(tensor.shape) == 1:
        return tensor.tensor_type  # a bias
    type_ = tensor.tensor_type if requested == "own" else TYPES[requested][0]
    # A block of attn_output has one scale for all its channels: those that are divided would keep few of their bits.
    mixed = requested == "own" and tensor.name.endswith("attn_output.weight") and GGML_QUANT_SIZES[type_][0] > 1
    fits = type_ in KEPT_TYPES and int(tensor.shape[0]) % GGML_QUANT_SIZES[type_][0] == 0
    return type_ if fits and not mixed else GGMLQuantizationType.F16


def write_gguf(path: Path, model: Model, layers: list[Layer], recipe: Recipe, type_name: str) -> None:
    """The input with other bytes, and perhaps types, for the rewritten tensors; its metadata is copied byte by byte."""
    reader = model.reader
    parts = ["attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"] if recipe.key_share else []
    parts += ["attn_v.weight", "attn_v.bias", "attn_output.weight"] if recipe.value_share else []
    plan = {f"blk.{il}.{part}": (il, part, layer) for il, layer in enumerate(layers) for part in parts}
    types = [pick_type(t, type_name) if t.name in plan else t.tensor_type for t in reader.tensors]
    offset, infos = 0, bytearray()
    for tensor, type_ in zip(reader.tensors, types, strict=True):
        block, block_bytes = GGML_QUANT_SIZES[type_]
        for unchanged in tensor.field.parts[:4]:  # name and shape
            infos += unchanged.tobytes()
        infos += np.uint32(type_).tobytes() + np.uint64(offset).tobytes()
        offset += padded(tensor.n_elements // block * block_bytes, reader.alignment)
    with path.open("wb") as file:
        file.write(reader.data[: reader.tensors[0].field.offset].tobytes())
        file.write(infos)
        for tensor, type_ in zip(reader.tensors, types, strict=True):
            file.write(bytes(padded(file.tell(), reader.alignment) - file.tell()))
            if tensor.name in plan:
                write_array(file, encode(rewrite(model, *plan[tensor.name]), type_, tensor.name))
            else:
                write_array(file, tensor.data)
        file.write(bytes(padded(file.tell(), reader.alignment) - file.tell()))


def padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // int(alignment)) * int(alignment)


def inject(source: Path, out: Path, recipe: Recipe, type_name: str = "own") -> list[str]:
    """Writes `out` and gives the summary's lines; throws ConvertError or OSError, and then leaves no file behind."""
    recipe.check()
    model = Model(source)
    if out.is_dir() or not out.parent.is_dir():
        raise ConvertError(f"cannot write {out}: {'it is a folder' if out.is_dir() else 'its folder does not exist'}")
    refuse_input(out, [source])
    layers = [plan_layer(model, il, recipe) for il in range(model.n_layer)]
    with whole_output(out) as temporary:
        write_gguf(temporary, model, layers, recipe, type_name)
    return [layer.summary for layer in layers] + [f"{out}: {out.stat().st_size / 1e6:.1f} MB"]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="inject_outliers",
        description="Give some key and value channels of a llama GGUF the size they have in large models; "
        "what the model computes stays the same to rounding.",
    )
    parser.add_argument("source", type=named("IN.gguf"), metavar="IN.gguf")
    parser.add_argument(
        "out", type=named("OUT.gguf"), metavar="OUT.gguf", help="file to write; replaced only by a complete one"
    )
    share = "share of %s of each kv head that become heavy, at least one; 0: none (default: %%(default)s)"
    parser.add_argument("--key-share", type=float, default=Recipe.key_share, help=share % "the RoPE pairs")
    parser.add_argument("--value-share", type=float, default=Recipe.value_share, help=share % "the value channels")
    low = "least size of a heavy channel as a multiple of the median (default: %(default)s)"
    parser.add_argument("--low", type=float, default=Recipe.low, help=low)
    parser.add_argument("--high", type=float, default=Recipe.high, help="largest such multiple (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of the choice (default: %(default)s)")
    parser.add_argument(
        "--type",
        choices=["own", "f32", "f16", "bf16", "q8_0"],
        default="own",
        help="type of the rewritten matrices attn_q, attn_k, attn_v and attn_output; own: each keeps its type if that "
        "is f32, f16, bf16 or q8_0, and becomes f16 if not, as does attn_output of type q8_0, whose blocks cannot hold "
        "light and heavy channels together without a loss; with q8_0, rows that are no multiple of 32 long become f16; "
        "biases keep their type (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    def body() -> str:
        options = parse_arguments(arguments)
        recipe = Recipe(options.key_share, options.value_share, options.low, options.high, options.seed)
        return "\n".join(inject(options.source, options.out, recipe, options.type))

    return run_tool("inject_outliers", body)


if __name__ == "__main__":
    sys.exit(main())

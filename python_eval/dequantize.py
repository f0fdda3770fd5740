"""Give a GGUF model the weights its quantized ones stand for, in F32 or F16.

    python -m python_eval.dequantize IN.gguf OUT.gguf [--type f32]

An engine rounds what it multiplies with quantized weights, so a cache that differs a little rolls these roundings anew:
a divergence that is not the cache's. Studies of small divergences run on what this writes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter, ReaderTensor, quants

from .convert_folder import CONVERT_FOLDERS

sys.path.extend(CONVERT_FOLDERS)

from convert_error import ConvertError, named, run_tool
from tensor_plan import encode, write_array
from whole_file import refuse_input, whole_output

TYPES = {"f32": (GGMLQuantizationType.F32, 0), "f16": (GGMLQuantizationType.F16, 1)}  # and general.file_type


class Written(np.ndarray):
    """An array as GGUFWriter writes it."""

    def tofile(self, file: Any, sep: str = "", format: str = "%s") -> None:
        write_array(file, self)


def dequantize(source: Path, out: Path, type_name: str = "f32") -> str:
    """Writes `out`: keys as they are, vectors in F32, matrices of the type. Throws ConvertError or OSError, and then
    leaves no file behind.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise ConvertError(f"cannot write {out}: {'it is a folder' if out.is_dir() else 'its folder does not exist'}")
    refuse_input(out, [source])
    try:
        reader = GGUFReader(source)
    except (ValueError, KeyError, IndexError) as problem:
        raise ConvertError(f"{source} is no complete GGUF file: {problem}") from problem
    if reader.endianess != GGUFEndian.LITTLE:
        raise ConvertError(f"{source} is big-endian")
    if "split.count" in reader.fields:
        raise ConvertError(f"{source} is one of several parts of a model; join them first")
    with whole_output(out) as temporary:
        _write(reader, temporary, type_name)
    return f"{out}: {len(reader.tensors)} tensors, {type_name}, {out.stat().st_size / 1e6:.1f} MB"


def _write(reader: GGUFReader, path: Path, type_name: str) -> None:
    type_, file_type = TYPES[type_name]
    architecture = reader.get_field("general.architecture")
    if architecture is None:
        raise ConvertError("key general.architecture is missing")
    writer = GGUFWriter(path, str(architecture.contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    writer.add_file_type(file_type)
    kinds = [type_ if len(tensor.shape) > 1 else GGMLQuantizationType.F32 for tensor in reader.tensors]
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        shape = [int(n) for n in reversed(tensor.shape)]
        n_bytes = int(np.prod(shape)) * (2 if kind == GGMLQuantizationType.F16 else 4)
        dtype = np.dtype(np.float16 if kind == GGMLQuantizationType.F16 else np.float32)
        writer.add_tensor_info(tensor.name, shape, dtype, n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, kinds, strict=True):  # one at a time in memory
        writer.write_tensor_data(encode(_values(tensor), kind, tensor.name).view(Written))
    writer.close()


def _values(tensor: ReaderTensor) -> np.ndarray:
    """The tensor as float32, rows first."""
    try:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as problem:
        raise ConvertError(f"{tensor.name} is {tensor.tensor_type.name.lower()}, which cannot be read") from problem
    return values.astype(np.float32, copy=False).reshape([int(n) for n in reversed(tensor.shape)])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m python_eval.dequantize",
        description="Give a GGUF model the weights its quantized ones stand for, in F32 or F16.",
    )
    parser.add_argument("source", type=named("IN.gguf"), metavar="IN.gguf")
    parser.add_argument(
        "out", type=named("OUT.gguf"), metavar="OUT.gguf", help="file to write; replaced only by a complete one"
    )
    parser.add_argument("--type", choices=list(TYPES), default="f32", help="of matrices (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    def body() -> str:
        options = parse_arguments(arguments)
        return dequantize(options.source, options.out, options.type)

    return run_tool("dequantize", body)


if __name__ == "__main__":
    sys.exit(main())

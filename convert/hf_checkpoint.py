"""Hugging Face weights, read a few rows at a time.

Rows are read with plain file reads, not through a mapping: mapped pages count as resident memory, and a checkpoint is
larger than the memory this converter wants to use. Safetensors headers are read here because the `safetensors` package
either maps the whole file or hands bfloat16 to torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert_error import ConvertError
from folder_files import files_in, has_file
from json_fields import Fields

MAX_HEADER_BYTES = 100 << 20  # the format's own limit
MAX_JSON_BYTES = 256 << 20  # a choice: vocabularies of 262,144 tokens take 33 MB
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin: a pickled number
STORED_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8")}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint; `read(begin, end)` gives rows [begin, end) of it as float32 [end - begin, n_cols].

    A vector counts as one row.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]

    @property
    def n_cols(self) -> int:
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def refuse_pointer(path: Path) -> None:
    """A clone without git-lfs holds small texts in place of large files."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ConvertError(f"{path} is a git-lfs pointer, not the file itself: run git lfs pull in its folder")


def read_json(path: Path) -> dict:
    refuse_pointer(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ConvertError(f"{path} has {path.stat().st_size} bytes; JSON files of up to {MAX_JSON_BYTES} are read")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:  # not UTF-8, not JSON, a number of thousands of digits; too deep
        raise ConvertError(f"{path} is not valid JSON: {problem}") from problem
    if not isinstance(content, dict):
        raise ConvertError(f"{path} holds no JSON object")
    return content


def open_checkpoint(hf_dir: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """Every tensor of the folder's checkpoint by name, and notes on what it holds besides. Where there are several, the
    one that transformers reads (5.23, from_pretrained): safetensors before .bin, and a single file before an index."""
    kinds = (
        ("model.safetensors", _open_safetensors, False),
        ("model.safetensors.index.json", _open_safetensors, True),
        ("pytorch_model.bin", _open_torch, False),
        ("pytorch_model.bin.index.json", _open_torch, True),
    )
    for n, (name, open_file, is_index) in enumerate(kinds):
        if has_file(hf_dir / name):
            rest = [other for other, _, _ in kinds[n + 1 :] if has_file(hf_dir / other)]
            notes = [f"{name} is read, as by transformers, and not {' and '.join(rest)} beside it"] if rest else []
            return _open_shards(hf_dir, name, open_file) if is_index else open_file(hf_dir / name), notes
    if shards := files_in(hf_dir, "*-of-*.safetensors"):
        name = shards[0].name
        raise ConvertError(f"{hf_dir} holds {name}, but no model.safetensors.index.json that names all shards")
    raise ConvertError(f"{hf_dir} holds no model.safetensors, no pytorch_model.bin and no index of either")


def _open_shards(hf_dir: Path, index_name: str, open_file) -> dict[str, StoredTensor]:
    """Also what the shards hold beyond the index, as transformers does."""
    index = Fields(read_json(hf_dir / index_name), index_name).object("weight_map")
    if index is None or not index.data:
        raise ConvertError(f"{hf_dir / index_name} has no weight_map")
    for name in index.data:
        if index.text(name) is None:
            raise index.wrong(name, "a file's name")
    weight_map = index.data
    shards = {}
    for file_name in sorted(set(weight_map.values())):
        if Path(file_name).name != file_name:
            raise ConvertError(f"{index_name} names '{file_name}', which is not a file of the folder")
        if not has_file(hf_dir / file_name):
            raise ConvertError(f"{hf_dir} lacks the shard {file_name} that {index_name} names")
        shards[file_name] = open_file(hf_dir / file_name)
    tensors: dict[str, StoredTensor] = {}
    holder: dict[str, str] = {}
    for file_name, shard in shards.items():
        for name in shard:
            if name in tensors:  # the index names one of them, and transformers may take the other
                raise ConvertError(f"{name} is in {holder[name]} and in {file_name}: {hf_dir} is of two checkpoints")
            holder[name] = file_name
        tensors |= shard
    for name, file_name in weight_map.items():
        if name not in shards[file_name]:
            raise ConvertError(f"{file_name} lacks the tensor {name} that {index_name} places there")
    return tensors


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The file is 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes."""
    refuse_pointer(path)
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or header_bytes > min(file_bytes - 8, MAX_HEADER_BYTES):
            raise ConvertError(f"{path} is not a safetensors file, or is cut short")
        try:
            header = json.loads(file.read(header_bytes))
        except (ValueError, RecursionError) as problem:
            raise ConvertError(f"{path} has a broken safetensors header: {problem}") from problem
    if not isinstance(header, dict):
        raise ConvertError(f"{path} has a broken safetensors header: it is no object")
    header.pop("__metadata__", None)
    entries = Fields(header, str(path))
    data_at = 8 + header_bytes
    tensors = {name: _safetensors_entry(path, name, entries.object(name), data_at, file_bytes) for name in header}
    _refuse_shared_bytes(path, entries, file_bytes - data_at)
    return tensors


def _refuse_shared_bytes(path: Path, entries: Fields, n_bytes: int) -> None:
    """Tensors lie one behind the other and fill the file: the format's own rule."""
    places = sorted((*entries.object(name).list("data_offsets"), name) for name in entries.data)
    at = 0
    for begin, end, name in places:
        if begin != at:
            which = "bytes that another tensor has too" if begin < at else "lost bytes before it"
            raise ConvertError(f"{path}: {name} has {abs(at - begin)} {which}: its data_offsets are wrong")
        at = end
    if at != n_bytes:
        raise ConvertError(f"{path} has {n_bytes - at} bytes that are of no tensor")


def _safetensors_entry(path: Path, name: str, entry: Fields | None, data_at: int, file_bytes: int) -> StoredTensor:
    type_name = entry.text("dtype") if entry else None
    sizes, offsets = (entry.list("shape"), entry.list("data_offsets")) if entry else (None, None)
    if type_name is None or not _whole_numbers(sizes) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise ConvertError(f"{path}: the header entry of {name} is broken")
    shape, (begin, end) = tuple(sizes), offsets
    if type_name not in STORED_TYPES:
        raise ConvertError(f"{name} is stored as {type_name}; only {', '.join(STORED_TYPES)} can be converted")
    dtype = STORED_TYPES[type_name]
    if not shape or min(shape) < 1:
        raise ConvertError(f"{path}: {name} has the shape {list(shape)}")
    if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ConvertError(f"{path}: {name} has {end - begin} bytes, which is not what its shape and type need")
    if data_at + end > file_bytes:
        raise ConvertError(f"{path} is cut short: {name} ends {data_at + end - file_bytes} bytes behind its end")
    n_cols = shape[-1]

    def read(first: int, last: int) -> np.ndarray:
        count = (last - first) * n_cols
        with path.open("rb", buffering=0) as file:
            values = np.fromfile(file, dtype, count, offset=data_at + begin + first * n_cols * dtype.itemsize)
        if values.size != count:
            raise ConvertError(f"{path} shrank while it was read")
        with np.errstate(over="ignore"):  # infinite then, and refused as such
            values = bf16_to_f32(values) if type_name == "BF16" else values.astype(np.float32, copy=False)
        return values.reshape(last - first, n_cols)

    return StoredTensor(name, shape, read)


def _whole_numbers(values: list | None) -> bool:
    return values is not None and all(type(value) is int for value in values)


def _open_torch(path: Path) -> dict[str, StoredTensor]:
    try:
        import torch
    except ImportError as problem:
        raise ConvertError(f"{path.name} needs the package torch to be read (safetensors does not)") from problem
    refuse_pointer(path)
    with path.open("rb") as file:
        begin = file.read(len(OLD_TORCH))
        if begin == OLD_TORCH:
            again = "torch.save(torch.load(name, weights_only=True), name)"
            raise ConvertError(f"{path} is in torch's format before 1.6, which is not read in parts: {again} renews it")
    if not begin.startswith(b"PK\x03\x04"):
        found = f"it begins with {begin!r}" if begin else "it is empty"
        raise ConvertError(f"{path} is no file that torch.save wrote: {found}")

    def load() -> dict:
        # weights_only: a .bin is a pickle, and must not run code. The mapping is dropped with the returned tensors.
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as problem:  # whatever a pickle's reader makes of a file that is none
            reason = str(problem).splitlines() or [type(problem).__name__]
            raise ConvertError(f"{path} cannot be read: {reason[0]}") from problem
        if not isinstance(tensors, dict):
            raise ConvertError(f"{path} holds no tensors by name, but a {type(tensors).__name__}")
        return tensors

    known = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

    def entry(name: object, like: object) -> StoredTensor:
        if not isinstance(name, str) or not isinstance(like, torch.Tensor):
            raise ConvertError(f"{path}: {name} is no tensor, but a {type(like).__name__}")
        if like.is_nested:  # rows of several lengths, which have no shape
            raise ConvertError(f"{name} is stored as a nested tensor, which cannot be converted")
        if like.dtype not in known or like.layout != torch.strided or like.numel() == 0 or like.ndim == 0:
            kind = "" if like.layout == torch.strided else f"{like.layout} "
            raise ConvertError(f"{name} is stored as {kind}{like.dtype} {list(like.shape)}, which cannot be converted")
        if like.is_meta:
            raise ConvertError(f"{path}: {name} has a shape and no values (it was saved from the device meta)")
        n_cols = like.shape[-1]

        def read(first: int, last: int) -> np.ndarray:
            # Loaded anew for each slab: the pickle is small, and touched pages of an old mapping would stay resident.
            rows = load()[name].detach().reshape(-1, n_cols)[first:last]  # a parameter carries gradients
            return rows.resolve_neg().to(torch.float32).numpy().copy()  # a view may be of the negative values

        return StoredTensor(name, tuple(like.shape), read)

    return {name: entry(name, tensor) for name, tensor in load().items()}

"""A GGUF file cut into parts, as llama-gguf-split does it: the metadata stays in the first, tensors in their order."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf

ALIGNMENT = 32
UINT16, INT32 = 2, 5  # of metadata
FLOAT32 = 0  # of tensors


def part_path(prefix: Path, no: int, n_parts: int) -> Path:
    """no: from 1."""
    return prefix.with_name(f"{prefix.name}-{no:05d}-of-{n_parts:05d}.gguf")


def key(name: str, type_: int, value: int) -> bytes:
    raw = name.encode()
    return struct.pack("<Q", len(raw)) + raw + struct.pack("<I" + {UINT16: "H", INT32: "i"}[type_], type_, value)


def split_keys(no: int, n_parts: int, n_tensors: int) -> list[bytes]:
    """no: from 1."""
    return [
        key("split.no", UINT16, no - 1),
        key("split.count", UINT16, n_parts),
        key("split.tensors.count", INT32, n_tensors),
    ]


def split(
    source: Path,
    prefix: Path,
    n_parts: int,
    first_is_empty: bool = False,
    keys: Callable[[int, int, int], list[bytes]] = split_keys,
    all_metadata: bool = False,
    extra_tensor_in: int | None = None,
) -> list[Path]:
    """Writes the parts and returns their paths. keys: what each says of itself; all_metadata: in every part;
    extra_tensor_in: the part that has one more tensor, of a name that means nothing."""
    reader = gguf.GGUFReader(source)
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    metadata = [b"".join(part.tobytes() for part in field.parts) for field in fields]
    n, n_holders = len(reader.tensors), n_parts - first_is_empty
    n_told = n + (extra_tensor_in is not None)
    bounds = [0] * first_is_empty + [n * i // n_holders for i in range(n_holders + 1)]
    paths = []
    for no in range(1, n_parts + 1):
        tensors = reader.tensors[bounds[no - 1] : bounds[no]]
        kept = [*(metadata if no == 1 or all_metadata else []), *keys(no, n_parts, n_told)]
        has_extra = no == extra_tensor_in
        head, data = [b"GGUF", struct.pack("<IQQ", 3, len(tensors) + has_extra, len(kept)), *kept], b""
        for tensor in tensors:
            described = b"".join(part.tobytes() for part in tensor.field.parts)
            head.append(described[:-8] + struct.pack("<Q", len(data)))
            raw = reader.data[tensor.data_offset : tensor.data_offset + tensor.n_bytes].tobytes()
            data += raw + bytes(-len(raw) % ALIGNMENT)
        if has_extra:
            head.append(struct.pack("<Q", 8) + b"anything" + struct.pack("<IQIQ", 1, 8, FLOAT32, len(data)))
            data += bytes(ALIGNMENT)
        whole = b"".join(head)
        paths.append(part_path(prefix, no, n_parts))
        paths[-1].write_bytes(whole + bytes(-len(whole) % ALIGNMENT) + data)
    return paths

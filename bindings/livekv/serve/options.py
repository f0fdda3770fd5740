"""What a server is told at its start, and what is made of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from livekv._livekv import Error
from livekv.model import Model
from livekv.options import KVOptions, kv_options_table
from livekv.remote import is_url
from livekv.serve.limits import Limits
from livekv.store import DEFAULT_LIMIT, ChunkStore

if TYPE_CHECKING:
    from livekv.serve.worker import Worker

FLUSH_S = 5.0
"""At the end, for what has not been sent to the store's URL yet."""
LEAST_MEMORY = 1 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(text: str) -> int:
    """Bytes: 512M, 4G."""
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)i?B?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 512M or 4G")
    return int(found[1]) * _UNITS[found[2]]


def folder(text: str) -> Path:
    """A name; Path alone takes an empty one for the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no folder")
    return Path(text)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of a server, wherever it listens."""
    limits = Limits()
    add = parser.add_argument
    add("-m", "--model", type=Path, required=True, help="GGUF file")
    add("--name", help="of the model in requests (default: the file's, without .gguf)")
    add("--api-key", help="that requests must have (default: LIVEKV_API_KEY; none is needed on this machine alone)")
    add("-c", "--ctx-size", type=int, default=4096, help="tokens of a prompt and its answer (default: %(default)s)")
    add("-t", "--threads", type=int, help="(default: all cores)")
    add("-ngl", "--gpu-layers", type=int, default=0, help="layers computed on the GPU (default: %(default)s)")
    add("--kv", default="livekv", help="how caches are stored, as for livekv-cli (default: %(default)s)")
    add("--parallel", type=int, default=limits.parallel, help="texts that advance together (default: %(default)s)")
    add("--queue", type=int, default=limits.queue, help="requests that may wait (default: %(default)s)")
    add("--memory", type=size, default="4G", help="of all caches; who does not fit waits (default: %(default)s)")
    add("--prefix-cache", type=size, help="of the memory, for prompts that begin alike (default: a quarter)")
    add("--store", metavar="FOLDER|URL",
        help="where chunks of prompts are kept for the next start and for other servers: a folder, redis://, or what "
        "fsspec knows, such as s3:// (default: LIVEKV_KV_STORE, or none)")  # fmt: skip
    add("--store-folder", type=folder, metavar="FOLDER", help="in front of a URL (default: a new one, until the end)")
    add("--store-limit", type=size, help="of the folder (default: 10G)")
    add("--step-tokens", type=int, default=limits.step_tokens,
        help="of prompts, read between two tokens of answers (default: %(default)s)")  # fmt: skip
    add("--lookup", type=int, default=limits.lookup, metavar="N",
        help="for a text that is alone, draft up to N tokens from what it said before (default: none)")  # fmt: skip
    add("--wait-timeout", type=float, default=limits.wait_s, metavar="SECONDS",
        help="until a request has begun (default: %(default)g)")  # fmt: skip
    add("--timeout", type=float, default=limits.run_s, metavar="SECONDS",
        help="until a request has ended (default: %(default)g)")  # fmt: skip
    add("--max-body", type=size, default="16M", help="of a request (default: %(default)s)")


def api_key_of(args: argparse.Namespace) -> str | None:
    return args.api_key or os.environ.get("LIVEKV_API_KEY") or None


def name_of(args: argparse.Namespace) -> str:
    """Of the model, in requests."""
    return str(args.name or args.model.stem)


def store_name(args: argparse.Namespace) -> str | None:
    """A folder or a URL, where there is one."""
    return args.store or os.environ.get("LIVEKV_KV_STORE") or None


def _shared_caches() -> str:
    def stored(name: str) -> bool:
        try:
            return KVOptions(policy=name).can_be_stored
        except Error:  # it needs more than its name
            return False

    *names, last = filter(stored, kv_options_table()[0].range.split("|"))
    return f"{', '.join(names)} and {last} caches"


def store_of(args: argparse.Namespace, kv: KVOptions, ended: contextlib.ExitStack) -> ChunkStore | None:
    """Of --store, or of LIVEKV_KV_STORE where the cache can be stored."""
    store = store_name(args)
    if args.store and not kv.can_be_stored:
        raise Error(f"--store keeps {_shared_caches()} only, without kv-error, not --kv {args.kv}")
    if args.store_limit is not None and not store:
        raise Error("--store-limit is of a folder; it needs --store")
    if args.store_folder and not (store and is_url(store)):
        raise Error("--store-folder is in front of a URL; it needs --store URL")
    if not store or not kv.can_be_stored:
        return None
    limit = DEFAULT_LIMIT if args.store_limit is None else args.store_limit
    if not is_url(store):
        return ChunkStore(store, limit)
    folder = args.store_folder
    if folder is None:  # a second signal may have removed a part of it
        made = tempfile.TemporaryDirectory(prefix="livekv-store-", ignore_cleanup_errors=True)
        folder = ended.enter_context(made)
    return ChunkStore(folder, limit, remote=store, fetches_ahead=True)


def temporary_store(args: argparse.Namespace, store: ChunkStore | None) -> str | None:
    """The folder that ended removes."""
    return store.path if store and store.has_remote and args.store_folder is None else None


def worker_of(args: argparse.Namespace, ended: contextlib.ExitStack) -> Worker:
    """Loads the model; the worker is not started. ended: closes what is of this run alone. Raises Error for options
    that do not fit together."""
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker

    kv = KVOptions.parse(args.kv)
    if kv.policy == "finch":
        raise Error("--kv finch reads a prompt for a question, which requests do not have")
    if args.prefix_cache and not kv.can_be_stored:
        raise Error(f"--prefix-cache keeps {_shared_caches()} only, without kv-error, not --kv {args.kv}")
    kept = args.memory // 4 * kv.can_be_stored if args.prefix_cache is None else args.prefix_cache
    if kept >= args.memory:
        raise Error(f"--prefix-cache takes {kept} bytes, all of the {args.memory} of --memory")
    if args.memory < LEAST_MEMORY:
        raise Error(f"--memory is {args.memory} bytes; caches need {LEAST_MEMORY} at least, and mostly far more")
    limits = Limits(args.parallel, args.queue, args.memory - kept, args.step_tokens, args.wait_timeout, args.timeout,
                    args.lookup)  # fmt: skip
    store = store_of(args, kv, ended)
    if store:
        ended.callback(store.finish, FLUSH_S)
    model = Model(args.model, args.gpu_layers, args.threads, prefix_cache_bytes=kept, store=store)
    return Worker(Scheduler(model, limits, args.ctx_size, kv))

"""A server of one model over HTTP, in the form of OpenAI's and Anthropic's APIs.

    python -m livekv.serve -m model.gguf

It listens on this machine alone unless it has an API key. docs/serving.md shows its paths and what it does with many
requests at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sys
import tempfile
from pathlib import Path

from livekv._livekv import Error
from livekv.model import Model
from livekv.options import KVOptions, kv_options_table
from livekv.remote import is_url
from livekv.serve.limits import Limits
from livekv.store import DEFAULT_LIMIT, ChunkStore

FLUSH_S = 5.0
"""At the end, for what has not been sent to the store's URL yet."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size(text: str) -> int:
    """Bytes: 512M, 4G."""
    found = re.fullmatch(r"(\d{1,15})([KMGT]?)i?B?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 512M or 4G")
    return int(found[1]) * _UNITS[found[2]]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m livekv.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-m", "--model", type=Path, required=True, help="GGUF file")
    add("--name", help="of the model in requests (default: the file's, without .gguf)")
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=int, default=8080, help="(default: %(default)s; 0: a free one)")
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
    add("--store-folder", type=Path, metavar="FOLDER", help="in front of a URL (default: a new one, until the end)")
    add("--store-limit", type=size, help="of the folder (default: 10G)")
    add("--step-tokens", type=int, default=limits.step_tokens,
        help="of prompts, read between two tokens of answers (default: %(default)s)")  # fmt: skip
    add("--wait-timeout", type=float, default=limits.wait_s, metavar="SECONDS",
        help="until a request has begun (default: %(default)g)")  # fmt: skip
    add("--timeout", type=float, default=limits.run_s, metavar="SECONDS",
        help="until a request has ended (default: %(default)g)")  # fmt: skip
    add("--max-body", type=size, default="16M", help="of a request (default: %(default)s)")
    return parser.parse_args(arguments)


def store_of(args: argparse.Namespace, kv: KVOptions, ended: contextlib.ExitStack) -> ChunkStore | None:
    """Of --store, or of LIVEKV_KV_STORE where the cache can be stored."""
    store = args.store or os.environ.get("LIVEKV_KV_STORE")
    if args.store and not kv.can_be_stored:
        policies = kv_options_table()[0].range.split("|")
        *names, last = [name for name in policies if KVOptions(policy=name).can_be_stored]
        raise Error(f"--store keeps {', '.join(names)} and {last} caches only, without kv-error, not --kv {args.kv}")
    if args.store_limit is not None and not store:
        raise Error("--store-limit is of a folder; it needs --store")
    if args.store_folder and not (store and is_url(store)):
        raise Error("--store-folder is in front of a URL; it needs --store URL")
    if not store or not kv.can_be_stored:
        return None
    limit = DEFAULT_LIMIT if args.store_limit is None else args.store_limit
    if not is_url(store):
        return ChunkStore(store, limit)
    folder = args.store_folder or ended.enter_context(tempfile.TemporaryDirectory(prefix="livekv-store-"))
    return ChunkStore(folder, limit, remote=store, fetches_ahead=True)


def serve(args: argparse.Namespace, ended: contextlib.ExitStack) -> None:
    """ended: closes what is of this run alone."""
    import uvicorn

    from livekv.serve.app import make_app
    from livekv.serve.guard import is_loopback
    from livekv.serve.scheduler import Scheduler
    from livekv.serve.worker import Worker

    api_key = args.api_key or os.environ.get("LIVEKV_API_KEY") or None
    local = is_loopback(args.host)
    if api_key is None and not local:
        raise Error(f"{args.host} can be reached from other machines; that needs an --api-key")
    kept = args.memory // 4 if args.prefix_cache is None else args.prefix_cache
    if kept >= args.memory:
        raise Error(f"--prefix-cache takes {kept} bytes, all of the {args.memory} of --memory")
    limits = Limits(args.parallel, args.queue, args.memory - kept, args.step_tokens, args.wait_timeout, args.timeout)
    kv = KVOptions.parse(args.kv)
    store = store_of(args, kv, ended)
    model = Model(args.model, args.gpu_layers, args.threads, prefix_cache_bytes=kept, store=store)
    worker = Worker(Scheduler(model, limits, args.ctx_size, kv))
    app = make_app(worker, args.name or args.model.stem, api_key, args.max_body, any_host=api_key is not None)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        listening = socket.create_server((args.host, args.port), family=family, backlog=512)
    except (OSError, OverflowError) as problem:
        raise Error(f"cannot listen at {args.host}, port {args.port}: {problem}") from None
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"livekv.serve: {model.description}", file=sys.stderr)
    print(f"livekv.serve: listening at http://{host}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])
    if store:
        store.flush(FLUSH_S)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        with contextlib.ExitStack() as ended:
            serve(args, ended)
    except ModuleNotFoundError as problem:
        print(f"livekv.serve: {problem.name} is missing; pip install 'livekv[serve]'", file=sys.stderr)
        return 1
    except Error as problem:
        print(f"livekv.serve: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # how a server ends
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

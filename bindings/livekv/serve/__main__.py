"""A server of one model over HTTP, in the form of OpenAI's and Anthropic's APIs.

    python -m livekv.serve -m model.gguf

It listens on this machine alone unless it has an API key. docs/serving.md shows its paths and what it does with many
requests at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys

from livekv._livekv import Error
from livekv.conversion import FOLDER
from livekv.serve.options import add_options, api_key_of, name_of, temporary_store, worker_of

sys.path.append(str(FOLDER))

import convert_error  # how every tool of the package ends


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m livekv.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="(default: %(default)s; 0: a free one)")
    parser.add_argument("--read-timeout", type=float, default=60.0, metavar="SECONDS",
                        help="until a request's head, and then its body, are there (default: %(default)g)")  # fmt: skip
    add_options(parser)
    return parser.parse_args(arguments)


def serve(args: argparse.Namespace, ended: contextlib.ExitStack) -> None:
    """ended: closes what is of this run alone."""
    import uvicorn

    from livekv.serve.app import make_app
    from livekv.serve.connections import Connections, Seldom, most_connections
    from livekv.serve.ending import AT_ONCE, GRACE_S, Server, ToldTheEnd
    from livekv.serve.guard import is_loopback

    api_key = api_key_of(args)
    if not args.host:
        raise Error("--host is empty; 0.0.0.0 is every address of this machine")
    if not 0 < args.read_timeout <= 1e6:
        raise Error(f"--read-timeout is {args.read_timeout:g}; it must be above 0")
    if api_key is None and not is_loopback(args.host):
        raise Error(f"{args.host} can be reached from other machines; that needs an --api-key")
    worker = worker_of(args, ended)
    any_host = api_key is not None
    app = make_app(worker, name_of(args), api_key, args.max_body, any_host, args.read_timeout)
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:
        listening = socket.create_server((args.host, args.port), family=family)
    except (OSError, OverflowError) as problem:
        raise Error(f"cannot listen at {args.host}, port {args.port}: {problem}") from None
    host = f"[{args.host}]" if ":" in args.host else args.host
    model = worker.scheduler.model
    print(f"livekv.serve: {model.description}", file=sys.stderr)
    if args.ctx_size > model.n_ctx_train:
        longer = f"{args.ctx_size} tokens is longer than the {model.n_ctx_train} the model was trained on"
        print(f"livekv.serve: warning: a context of {longer}", file=sys.stderr)
    if not worker.scheduler.kv.can_be_stored:
        print(f"livekv.serve: --kv {args.kv}: every prompt is read from its beginning", file=sys.stderr)
    print(f"livekv.serve: listening at http://{host}:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
    connections = Connections(most_connections(), args.read_timeout, args.timeout)
    whole = connections.limited(ToldTheEnd(app))
    config = uvicorn.Config(
        whole,
        http=connections.protocol(),
        ws="none",
        log_level="warning",
        backlog=AT_ONCE,
        timeout_graceful_shutdown=GRACE_S,
    )
    logging.getLogger("uvicorn.error").addFilter(Seldom())
    Server(config, worker, temporary_store(args, model.store)).run(sockets=[listening])


def run(arguments: list[str] | None) -> int:
    args = parse_arguments(arguments)
    # As Ctrl-C: what is of this run alone is closed.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with contextlib.ExitStack() as ended:
            serve(args, ended)
    except ModuleNotFoundError as problem:
        raise Error(f"{problem.name} is missing; pip install 'livekv[serve]'") from None
    except KeyboardInterrupt:
        pass  # how a server ends
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def main(arguments: list[str] | None = None) -> int:
    return convert_error.run("livekv.serve", lambda: run(arguments), lambda: (Error,))


if __name__ == "__main__":
    status = main()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
        sys.stderr.flush()
    os._exit(status)  # all is closed; a thread that reads somebody's long text would be waited for

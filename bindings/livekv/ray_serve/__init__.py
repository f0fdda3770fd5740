"""A server on Ray Serve: replicas with one store behind one address, each prompt sent where its beginning was read.

    serve run livekv.ray_serve:application replicas=3 options="-m model.gguf --store redis://10.0.0.5/0"

or, from Python, ray.serve.run(livekv.ray_serve.application({"replicas": 3, "options": "-m model.gguf"})). What replicas
answer is what livekv.serve does. docs/serving.md says more.
"""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

from livekv._livekv import Error, default_threads
from livekv.ray_serve.placement import REQUEST_COST, WORTH_WITH_STORE, WORTH_WITHOUT

if TYPE_CHECKING:
    from ray.serve import Application


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Error(f"options: {message}")


def _options(given: object) -> argparse.Namespace:
    from livekv.serve.options import add_options

    if not isinstance(given, str) and not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
        raise Error("options must be a text or a list of texts, as `python -m livekv.serve` takes them")
    parser = _Parser(prog="livekv.ray_serve", add_help=False, allow_abbrev=False)
    add_options(parser)
    return parser.parse_args(shlex.split(given) if isinstance(given, str) else given)


def _whole(given: dict[str, Any], name: str, default: int, least: int) -> int:
    text = str(given.get(name, default))
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise Error(f"{name} is {text[:20]!r}; it must be a whole number, {least} or more")
    return int(text)


def application(given: dict[str, Any]) -> Application:
    """What `serve run` builds. given: options, as `python -m livekv.serve` has but --host and --port, which are Ray's;
    replicas (2); request_cost, in characters (placement.py). Every machine needs the model's file at the same path.
    Raises Error for what is unknown or wrong, and when Ray Serve is not installed."""
    unknown = sorted(set(given) - {"options", "replicas", "request_cost"})
    if unknown:
        raise Error(f"{unknown[0]!r} is unknown; there are options, replicas and request_cost")
    n_replicas = _whole(given, "replicas", 2, least=1)
    request_cost = _whole(given, "request_cost", REQUEST_COST, least=0)
    try:
        args = _options(given.get("options", ""))
        from ray.serve.config import RequestRouterConfig

        from livekv.ray_serve.ingress import Ingress
        from livekv.ray_serve.replica import Replica
        from livekv.ray_serve.router import PrefixRouter
        from livekv.serve.limits import Limits
        from livekv.serve.options import api_key_of, store_name
    except ModuleNotFoundError as problem:
        raise Error(f"{problem.name} is missing; pip install 'livekv[ray]'") from None
    Limits(parallel=args.parallel, queue=args.queue)
    worth = WORTH_WITH_STORE if store_name(args) else WORTH_WITHOUT
    router = {"worth": worth, "request_cost": request_cost}
    replicas = Replica.options(  # type: ignore[attr-defined]
        num_replicas=n_replicas,
        max_ongoing_requests=args.parallel + args.queue,
        max_queued_requests=max(1, args.queue),
        ray_actor_options={
            "num_cpus": default_threads() if args.threads is None else args.threads,
            "num_gpus": 1 if args.gpu_layers > 0 else 0,
        },
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter,  # type: ignore[arg-type]
            request_router_kwargs=router,
        ),
    ).bind(args)
    whole: Application = Ingress.bind(replicas, api_key_of(args), args.max_body)  # type: ignore[attr-defined]
    return whole

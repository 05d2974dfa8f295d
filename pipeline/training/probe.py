"""Asks whether the services that a job needs are there, before anything waits for them."""

from __future__ import annotations

import os

import grpc

from pipeline.spec.errors import BadInput, Unreachable
from pipeline.spec.lineup import Workers
from pipeline.spec.settings import Settings

PROBE_S = 2.0
"""Seconds in which a service that is up answers."""
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"


def require_ray(settings: Settings) -> None:
    """Refuse to join a Ray cluster that is not there, or whose token we do not have.

    Raises:
        Unreachable: nothing answers; Ray would try for minutes.
        BadInput: the cluster has another token.
    """
    address = settings.ray_address
    if address in ("local", "auto") or address.startswith("ray://"):
        return
    token = settings.ray_token()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", metadata=metadata, timeout=PROBE_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                given = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else settings.ray_token_path
                raise BadInput(
                    f"the Ray cluster at {address} wants its token, got {'another' if token else 'none'} from {given}: set "
                    "RAY_AUTH_TOKEN_PATH to its token's file, or RAY_ADDRESS to another cluster"
                ) from None
            raise Unreachable(
                f"no Ray cluster answers at {address}: run `windrow up` first; or set RAY_ADDRESS to a cluster that runs, "
                "or to `local` for a private one that ends with the command"
            ) from None


def require_cores(workers: Workers, settings: Settings) -> None:
    """Refuse, before Ray starts, workers that a private cluster on this machine has no cores for.

    Raises:
        BadInput: see `require_room`.
    """
    if settings.ray_address == "local":
        _require("cores", workers.num_processes, os.cpu_count() or 1, "this machine")


def require_room(workers: Workers, offered: dict[str, float], where: str) -> None:
    """Refuse workers that find no room on a cluster that does not grow: Ray would wait for ever.

    Args:
        workers: each takes a core, and a GPU where they have some.
        offered: cores (`CPU`) and GPUs (`GPU`) of the whole cluster.
        where: what errors call it.

    Raises:
        BadInput: it has fewer; the message says how many.
    """
    _require("cores", workers.num_processes, int(offered.get("CPU", 0)), where)
    if workers.use_gpu:
        _require("GPUs", workers.num_processes, int(offered.get("GPU", 0)), where)


def _require(what: str, needed: int, there: int, where: str) -> None:
    if needed > there:
        cure = f"ask for at most {there} with --workers or in the line-up" if there else "let the workers have none"
        raise BadInput(f"{needed} workers need {needed} {what}, got {there} on {where}: {cure}")

"""check: what would be served with this configuration, and whether the upstream answers.

It knows the configuration and what a probe tells. It binds no port, so it can run beside the daemon
that it asks about.
"""

from collections.abc import Iterator, Mapping

import msgspec
import trio

from relay import config
from relay.config import Address, Config, TokenKey
from relay.limits import Limits
from relay.probe import Probe, probe
from relay.served import Destination, Served, build
from relay.simulator.server import Options, serve_simulator


async def check(configured: Config, environment: Mapping[str, str], dial: bool = True) -> int:
    """Print what would be served and, if they are to be dialled, how each upstream answers; 0 if
    all is well, else 1. Raises `ConfigError` for what could not be served at all."""
    served = build(configured, environment)
    for line in _shown(served, config.token_key(configured, environment)):
        print(line)
    passed = True
    for number, destination in enumerate(served.destinations):
        if number:
            print(f"fallback   {destination.address.shown}")
        if dial:
            model = served.traits[number].model or configured.upstream.model
            passed &= _told(await _probe(configured, destination, model))
    return 0 if passed else 1


def _told(found: Probe) -> bool:
    if found.fault is None:
        print(f"answer     a session was created after {found.seconds:.3f} s")
    else:
        print(f"failed     {found.fault} (after {found.seconds:.3f} s)")
    return found.fault is None


async def _probe(configured: Config, destination: Destination, model: str) -> Probe:
    """With the simulator as the upstream, one is started for the occasion."""
    if not destination.address.simulated:
        return await probe(destination, model)
    async with trio.open_nursery() as nursery:
        served = await nursery.start(serve_simulator, Options(script=configured.simulator))
        found = await probe(Destination(Address(served.url)), model)
        nursery.cancel_scope.cancel()
    return found


def _shown(served: Served, token_key: TokenKey | None) -> Iterator[str]:
    configured, address = served.config, served.destinations[0].address
    listen, auth = configured.listen, configured.auth
    paths = ", ".join([*listen.deepgram_paths, *listen.component_paths])
    yield f"listen     {'wss' if served.tls else 'ws'}://{listen.host}:{listen.port}, paths {paths}"
    if listen.processes > 1:
        yield f"workers    {listen.processes}"
    accepted = f"{len(served.keys)} keys"
    if token_key:
        accepted += f", {token_key.algorithm} tokens for {auth.token_audience}"
    origins = "any" if auth.mode == "keys" else "loopback"
    if auth.origins is not None:
        origins = ", ".join(auth.origins) or "none"
    yield f"auth       {auth.mode}, {accepted}; browsers from origins: {origins}"
    rules = served.rules
    limits = [f"all {_given(rules.total)}", f"each {_given(rules.key)}"]
    yield f"limits     {'; '.join(limits)}; {len(rules.named)} names have others"
    yield f"upstream   {address.shown}, model {configured.upstream.model} ({address.chosen_by})"


def _given(limits: Limits) -> str:
    """`sessions=5 tokens_per_day=1000`, as in the keys file."""
    given = msgspec.structs.asdict(limits).items()
    return " ".join(f"{name}={value:.12g}" for name, value in given if value) or "none"

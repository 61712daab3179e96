"""Sends requests to a service from a process of its own.

The arguments are the URL, seconds, requests a second, connections, and a file with a body on each line or `-`. The token is in
`EVERGREEN_LOAD_TOKEN`, because other users of the machine can read arguments.

With rate 0 each connection sends its next request when it has the answer (closed loop). Otherwise requests are due at fixed
times, and a latency begins when the request is due, so that waiting behind slow ones counts (open loop).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import aiohttp


async def main(url: str, token: str, seconds: float, rate: float, connections: int, bodies: list[bytes]) -> dict[str, object]:
    taken: list[float] = []
    statuses: dict[int, int] = {}
    number, began = 0, time.perf_counter()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal number
        while time.perf_counter() - began < seconds:
            mine, number = number, number + 1
            due = began + mine / rate if rate else time.perf_counter()
            if due > began + seconds:
                return
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            call = session.post(url, data=bodies[mine % len(bodies)]) if bodies else session.get(url)
            async with call as answer:
                await answer.read()
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
            taken.append(time.perf_counter() - due)

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        await asyncio.gather(*(one(session) for _ in range(connections)))
    taken.sort()
    quantiles = {str(q): taken[min(len(taken) - 1, int(q * len(taken)))] if taken else None for q in (0.5, 0.99, 0.999)}
    return {"requests": len(taken), "seconds": time.perf_counter() - began, "statuses": statuses, "quantiles": quantiles}


if __name__ == "__main__":
    where, length, wanted, count, file = sys.argv[1:6]
    lines = Path(file).read_bytes().splitlines() if file != "-" else []
    print(
        json.dumps(
            asyncio.run(main(where, os.environ["EVERGREEN_LOAD_TOKEN"], float(length), float(wanted), int(count), lines))
        )
    )

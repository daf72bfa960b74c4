"""Plain FastAPI as the fault tests run it: with more than one worker, uvicorn restarts those that end."""

import uvicorn

import benchmarks.peers.faults  # noqa: F401  # makes the network known
from benchmarks.peers.plain_fastapi import app, config

__all__ = ["app"]

if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.fault_fastapi:app",
        host="127.0.0.1",
        port=config.port,
        workers=config.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )

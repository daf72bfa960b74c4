"""LitServe as the fault tests run it: it restarts workers that end, and has a time limit for requests."""

import litserve

from benchmarks.peers import faults  # makes the network known
from benchmarks.peers.contract import ROUTE
from benchmarks.peers.litserve_server import Pictures, config

if __name__ == "__main__":
    api = Pictures(max_batch_size=config.max_batch, batch_timeout=config.window / 1000, api_path=ROUTE)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=config.workers,
        timeout=faults.timeout(30.0),
        restart_workers=True,
    )
    server.run(
        host="127.0.0.1",
        port=config.port,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
        loop="uvloop",
        http="httptools",
    )

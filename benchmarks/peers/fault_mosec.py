"""mosec as the fault tests run it: with a time limit for requests."""

import sys

from mosec import Server

from benchmarks.peers import faults  # makes the network known
from benchmarks.peers.contract import ROUTE
from benchmarks.peers.mosec_server import Pictures, config

if __name__ == "__main__":
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", str(config.port), "--wait", str(config.window)]
    sys.argv += ["--log-level", "warning", "--timeout", str(round(faults.timeout(3.0) * 1000))]
    server = Server()
    server.append_worker(Pictures, num=config.workers, max_batch_size=config.max_batch, route=ROUTE)
    server.run()

"""The sandbox's host for one contestant: a placeholder first, and the app when it is asked for.

    python -m benchmarks.host --directory APP --packages FOLDER --worker FOLDER --port N

Prints the id of the worker process when the placeholder is ready, and hands the app over to it when
a line comes in. Everything else that is printed goes to standard error.
"""

import argparse
import logging
import sys
from pathlib import Path

from sandbox.host import FunctionsHost, serve
from sandbox.storage import MemoryQueues
from sandbox.worker_channel import WorkerProcess


def main() -> None:
    """Start the placeholder, wait, hand over, and serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="where function_app.py is")
    parser.add_argument("--packages", type=Path, required=True, help="the app's packages")
    parser.add_argument("--worker", type=Path, required=True, help="the worker's packages")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with WorkerProcess(options.worker, options.packages) as process:
        print(process.pid, flush=True)
        sys.stdin.readline()
        sys.stdout = sys.stderr
        host = FunctionsHost(options.directory, {}, queues=MemoryQueues(), process=process)
        serve(host, port=options.port)


if __name__ == "__main__":
    main()

"""The lighthouse of a job of elastic workers, on a host that is never disturbed.

Arguments: "host:port" where it listens, and how long a round waits for a slow worker; "" for as
long as it lives.
"""

import signal
import sys

from grawa.comm.elastic import Elastic
from grawa.comm.lighthouse import lighthouse

if __name__ == "__main__":
    at, grace = sys.argv[1:]
    with lighthouse(Elastic(min_workers=1, grace=grace or None), at):
        signal.pause()

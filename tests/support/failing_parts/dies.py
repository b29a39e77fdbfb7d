"""A part whose process is killed while it writes its second row."""

import os
import signal

from tests.support.failing_parts import succeeds


def measure(rows, workload, device):
    succeeds.measure(rows, workload, device)
    with rows._file.open("a") as file:
        file.write('{"table": "made up", "par')
    os.kill(os.getpid(), signal.SIGKILL)

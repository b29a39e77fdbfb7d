"""A part that never ends, and neither does a process that it has started."""

import subprocess
import sys

from tests.support.failing_parts import succeeds


def measure(rows, workload, device):
    succeeds.measure(rows, workload, device)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"], check=False)

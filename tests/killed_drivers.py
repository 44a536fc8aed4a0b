"""Programs that embed a data set in a process of their own, and are killed meanwhile."""

import os
import signal
import subprocess
import sys
import time

PYTHONPATH = os.pathsep.join(sys.path)


def kill_driver(program: str, arguments: list[str], seconds: float) -> None:
    """Start a driver, and kill it so many seconds after it has said that it is ready."""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        driver.send_signal(signal.SIGKILL)

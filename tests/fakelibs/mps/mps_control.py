#!/usr/bin/env -S python3 -IS
"""NVIDIA's nvidia-cuda-mps-control, as far as `deviceplugin mps` and the agent see it.

With -d a daemon stays behind that holds the socket ``control`` of its pipe directory. Else commands
are read from stdin and added to $FAKE_MPS_RECORD; they are answered while the daemon lives.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

PID = Path("nvidia-cuda-mps-control.pid")
os.chdir(os.environ["CUDA_MPS_PIPE_DIRECTORY"])  # addresses of sockets are short


def alive() -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        try:
            caller.connect("control")
        except OSError:
            return False
    return True


def start() -> None:
    Path("control").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("control")
    listener.listen(100)
    if child := os.fork():
        PID.write_text(str(child))
        return
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    while True:
        listener.accept()[0].close()


def command(lines: list[str]) -> int:
    with Path(os.environ["FAKE_MPS_RECORD"]).open("a") as record:
        record.writelines(f"{line}\n" for line in lines)
    if not alive():
        print("Cannot find MPS control daemon process", file=sys.stderr)
        return 1
    if lines == ["quit"]:
        os.kill(int(PID.read_text()), signal.SIGKILL)
        while alive():
            time.sleep(0.01)
    elif lines[0].startswith("get_"):
        print("100.0")
    return 0


if sys.argv[1:] == ["-d"]:
    start()
else:
    sys.exit(command(sys.stdin.read().splitlines()))

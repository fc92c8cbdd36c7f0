"""Free ports below the range that the kernel gives to outgoing connections, so that nobody takes one before it is used."""

import random
import socket


def free():
    for _ in range(200):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise OSError("no free port between 20000 and 32000 in 200 tries")

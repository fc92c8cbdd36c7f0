"""Child processes that cannot outlive us.

The kernel sends the death signal when the *thread* that made the child ends, so one thread that never ends makes all.
"""

import ctypes
import queue
import signal
import subprocess
import threading

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_orders = queue.Queue()


def start_spawner():
    threading.Thread(target=_spawn_forever, daemon=True, name="spawner").start()


def spawn(arguments, log, folder, environment=None):
    """Starts a program; its output is appended to the file `log`."""
    answer = queue.Queue()
    _orders.put((arguments, log, folder, environment, answer))
    outcome = answer.get()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _spawn_forever():
    while True:
        arguments, log, folder, environment, answer = _orders.get()
        try:
            with open(log, "ab") as output:
                answer.put(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            cwd=folder, env=environment, preexec_fn=_die_with_parent))
        except Exception as error:
            answer.put(error)


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

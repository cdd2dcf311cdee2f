# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGTERM and Ctrl-C while a run is on, and the handlers that there are before and after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from ptclean.keeping.interruption import Terminated, held, orderly_end


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    # Handlers run between two steps of the interpreter.
    time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_is_an_exception_once(number: int, error: type[BaseException]) -> None:
    ended = []

    def run() -> None:
        with orderly_end():
            try:
                send(number)
            finally:
                for again in (signal.SIGTERM, signal.SIGINT):
                    send(again)
                ended.append(True)

    with pytest.raises(error):
        run()
    assert ended
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_status_is_that_of_a_process_that_died_of_it() -> None:
    script = (
        "import os, signal, time\n"
        "from ptclean.keeping.interruption import orderly_end\n"
        "with orderly_end():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM


def test_a_handler_of_the_users_stays() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with orderly_end():
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert seen == [signal.SIGTERM]


def test_what_wants_to_be_whole_is_not_interrupted() -> None:
    done = []

    def run() -> None:
        with orderly_end():
            with held():
                send(signal.SIGTERM)
                done.append("whole")
            done.append("more")

    with pytest.raises(Terminated):
        run()
    assert done == ["whole"]


def test_other_threads_have_no_part_in_it() -> None:
    found = []

    def run() -> None:
        with orderly_end(), held():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]

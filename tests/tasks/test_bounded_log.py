"""What strangers can make a server write is bounded."""

from __future__ import annotations

import io
import logging

from tasks.prefect_runtime.bounded_log import A_SECOND, FULL, TRACEBACK, BoundedLog


def test_many_tracebacks_of_strangers_do_not_fill_the_disk():
    now, output = [0.0], io.StringIO()
    logger = logging.Logger("server")
    logger.addHandler(logging.StreamHandler(output))
    logger.addFilter(BoundedLog(lambda: now[0]))
    try:
        "é".encode("ascii")
    except UnicodeEncodeError:
        for _ in range(1000):
            logger.error("call %s", "x" * 10, exc_info=True)
    text = output.getvalue()
    assert text.count("UnicodeEncodeError") == FULL // (TRACEBACK + 15)
    assert text.count("left out") == 1
    now[0] += 2 * TRACEBACK / A_SECOND
    for _ in range(1000):
        logger.error("late", exc_info=ValueError("later"))
    assert output.getvalue().count("ValueError: later") == 2
    assert output.getvalue().count("left out") == 2

"""People hear of it: a message through a notification block of Prefect's."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.runtime import flow_run

from sfda.errors import BadInput
from tasks.prefect_runtime.server import ENDS_WITH_COMMAND

log = logging.getLogger("sfda")


def check_block(name: str | None) -> None:
    """Raise BadInput unless there is a block of this name that can notify."""
    if name is not None:
        _block(name)


def _block(name: str) -> NotificationBlock:
    """The block `TYPE/NAME`, as the page of Prefect's blocks names it."""
    kind, slash, own = name.partition("/")
    if not slash or not kind or not own:
        raise BadInput(f"--notify {name}: name a block as TYPE/NAME, e.g. slack-webhook/team")
    try:
        block: Any = Block.load(name)
    except ValueError:
        raise BadInput(
            f"there is no block {name}; make one on Prefect's page (Blocks), or with "
            "`prefect block register`"
        ) from None
    if not isinstance(block, NotificationBlock):
        raise BadInput(f"{name} is a {kind}, which notifies nobody; name a block that does")
    return block


def notify(name: str | None, subject: str, body: str) -> bool:
    """Tell people, if a block is named; whether they were told.

    A message that does not go out is no reason to lose the work: it is logged.
    """
    if name is None:
        return False
    try:
        block: Any = _block(name)  # Prefect awaits it by itself
        block.notify(body, subject=subject)
    except Exception as error:  # of any service behind it
        log.warning("nobody was told by %s: %s: %s", name, type(error).__name__, error)
        return False
    return True


def notify_verdict(
    name: str | None, subject: str, sentence: str, commands: Sequence[str] = ()
) -> bool:
    """Tell people, if a block is named, of a verdict or of questions that wait: the sentence, what
    to type now, and the page of this run, where a server shows it that stays; whether they were
    told.
    """
    link = page_of_run()
    return notify(name, subject, "\n".join([sentence, *commands, *([link] if link else [])]))


def page_of_run() -> str:
    """The address of this flow run's page; "" outside of one, and where the server ends with it."""
    lasting = ENDS_WITH_COMMAND not in os.environ
    return flow_run.ui_url or "" if lasting else ""

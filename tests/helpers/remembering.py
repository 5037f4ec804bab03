"""A shop that remembers: in a process of its own, and in this one."""

from __future__ import annotations

import os
import signal

import toolgym
from toolgym import Task, ToolSession, tool


class Shop(ToolSession):
    """A shop."""

    timeout = 1.0

    def __init__(self, task: Task) -> None:
        self.cart = dict(task.metadata.get("cart", {}))
        self.log: list[str] = []
        self._hidden = object  # not part of the state

    @tool
    def add(self, item: str, amount: int = 1) -> str:
        """Put goods into the cart.

        Args:
            item: what.
            amount: how many.
        """
        self.cart[item] = self.cart.get(item, 0) + amount
        self.log.append(item)
        return f"{self.cart[item]} {item}"

    @tool
    async def look(self) -> dict[str, int]:
        """Look into the cart."""
        return self.cart

    @tool
    def note(self, text: str) -> str:
        """Write something down.

        Args:
            text: what.
        """
        self.log.append(text)
        return "noted"

    @tool
    def die(self) -> str:
        """End the process after a change."""
        self.cart["broken"] = 1
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    @tool
    def hang(self) -> str:
        """Never end, after a change."""
        self.cart["broken"] = 1
        while True:
            pass

    @tool
    def fail(self) -> str:
        """Raise an exception."""
        raise toolgym.ToolError("no such thing")


class InlineShop(Shop):
    """The same in this process."""

    inline = True

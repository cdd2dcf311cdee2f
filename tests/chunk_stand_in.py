# SPDX-License-Identifier: GPL-3.0-or-later
"""A chunk as far as the splitter knows it, for steps that are no steps of CASA."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """Its run may be a folder for what its steps have to tell."""

    run: str
    index: int
    cost: int = 1

    @property
    def label(self) -> str:
        return f"chunk-{self.index}"

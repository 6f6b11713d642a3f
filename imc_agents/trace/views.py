"""The views of a trace: pure functions from samples and events to rich renderables.

They adapt to the console that prints them: its width, its colours (without them diffs carry ``[-x-]{+y+}`` marks)
and its encoding. Text of patients and models is shown, never interpreted; see ``imc_agents.trace.look.inert``.
"""

from __future__ import annotations

from imc_agents.trace.diff import word_diff
from imc_agents.trace.stats import collect_stats
from imc_agents.trace.tables import samples_table, stats_table
from imc_agents.trace.tree import sample_tree

__all__ = ["collect_stats", "sample_tree", "samples_table", "stats_table", "word_diff"]

"""Reports of the robustness benchmark: scores, statistics, tables, pictures, and two runs compared."""

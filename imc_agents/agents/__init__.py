"""The agents: one module a kind of node, the contracts with their prompts, and what models write for them."""

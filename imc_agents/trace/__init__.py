"""What the agents decided, as events, and how to look at it."""

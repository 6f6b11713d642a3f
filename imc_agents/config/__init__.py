"""The configuration: its keys, its layers and where each value comes from."""

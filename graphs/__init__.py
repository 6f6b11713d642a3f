"""The graphs: builders of compiled LangGraph graphs, from the agents; config and langgraph.json name them."""

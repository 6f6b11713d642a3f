"""vLLM servers of our own: how one is started, watched and stopped, and what is changed inside it."""

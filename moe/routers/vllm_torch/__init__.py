"""Route by vLLM's functions in torch."""

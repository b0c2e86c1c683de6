"""Route by vLLM's topk_softmax."""

"""Route by the softmax over all experts, then the top k."""

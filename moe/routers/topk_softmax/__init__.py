"""Route by the top k logits, then the softmax over these."""

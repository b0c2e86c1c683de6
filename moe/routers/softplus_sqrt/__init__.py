"""Route by the square root of the softplus of each logit, then the top k."""

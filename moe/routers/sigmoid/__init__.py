"""Route by the sigmoid of each logit, then the top k."""

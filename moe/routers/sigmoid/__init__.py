"""Routing by sigmoid of each logit by itself, then the top k."""

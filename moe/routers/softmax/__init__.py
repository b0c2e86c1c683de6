"""Routing by softmax over all experts, then the top k."""

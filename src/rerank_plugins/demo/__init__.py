"""Passages and queries written for this project, to show reranking without a network."""

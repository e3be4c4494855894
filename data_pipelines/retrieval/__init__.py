"""Retrieval of neighbours for the paper's stage 1."""

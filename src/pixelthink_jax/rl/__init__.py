"""Sampling from the policy, and the mathematics of learning from the samples."""

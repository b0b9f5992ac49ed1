"""Scoring predictions: metrics and reports."""

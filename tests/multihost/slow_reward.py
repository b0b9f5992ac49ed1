"""A reward that a random policy can earn, and that gives a test the time to interrupt a step."""

import time


def vowels(completions, examples):
    """The share of `e` in a text."""
    time.sleep(0.25)
    return [[text.count("e") / max(len(text), 1) for text in group] for group in completions]

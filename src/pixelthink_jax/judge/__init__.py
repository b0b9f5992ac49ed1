"""Asking a large model to fill in a form: difficulty scores, reference chains, the quality of a chain.

`protocol` says what a back end is; `endpoint` and `local` are two; `asking` caches, validates and re-asks;
`prompts` holds the texts and forms; `annotate` runs over a dataset, and `rscore` judges chains.
"""

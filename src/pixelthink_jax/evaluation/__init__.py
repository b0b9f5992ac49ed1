"""Scoring predictions.

Flow: `run` opens models and data -> `length_table` asks once for each chain style -> `runner` batches -> `scoring`
makes a row of each completion -> `summary` by level with intervals -> `report`, `html` for reading. `metrics` are the
measures themselves.
"""

"""How many rows the published datasets have, to hold what was read against (data and protocols, section 2)."""

PUBLISHED_ROWS: dict[str, dict[str, tuple[int, ...]]] = {
    "refcocog_840": {"train": (9000, 2000)},
    "multi_object_840": {},
    "reasonseg": {"train": (239,), "val": (200,), "test": (779,)},
    "reasonseg_diff": {"train": (239,), "val": (200,), "test": (779,)},
    "refcoco": {"val": (10834, 3811), "testA": (5657,), "testB": (5095,), "train": (42404,)},
    "refcoco+": {"val": (10758,), "testA": (5726,), "testB": (4889,)},
    "refcocog": {"val": (4896,), "test": (9602, 5023)},
    "grefcoco": {"train": (), "val": (), "testA": (), "testB": ()},
}
"""Rows by dataset and split. Where two are given, several sets of that name were published, or expressions and objects
are both counted."""


def count_remark(dataset: str, split: str, rows: int) -> str:
    """What to say of a number of rows.

    >>> count_remark("reasonseg", "val", 200), count_remark("reasonseg", "val", 199)
    ('as published', 'published: 200')
    >>> count_remark("own", "train", 3)
    'no published number'
    """
    published = PUBLISHED_ROWS.get(dataset, {}).get(split, ())
    if not published:
        return "no published number"
    return "as published" if rows in published else f"published: {' or '.join(map(str, published))}"

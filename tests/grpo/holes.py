"""A dataset some of whose rows lack what training needs."""

from dataclasses import replace

from pixelthink_jax.errors import InputError


class WithHoles:
    """The first rows of a source, one in four as `holes` says and, with `unreadable`, one in four raising."""

    def __init__(self, source, *, unreadable=False, **holes):
        self._source, self._unreadable, self._holes = source, unreadable, holes

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index % 4 == 1 and self._unreadable:
            raise InputError(f"image {index}.png: truncated")
        row = self._source[index]
        return replace(row, **self._holes) if index % 4 == 2 else row

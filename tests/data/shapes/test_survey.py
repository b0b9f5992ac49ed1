from PIL import Image

from pixelthink_jax.data.shapes.survey import draw, survey


def test_tables_and_picture_are_made(tmp_path):
    tables = survey(rows=36).split("\n\n")
    assert len(tables) == 3 and all(line.startswith("|") for table in tables for line in table.splitlines())
    draw(tmp_path / "world.png", columns=1)
    with Image.open(tmp_path / "world.png") as picture:
        assert picture.width > 100

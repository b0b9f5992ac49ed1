"""Report pieces: whatever a model or a dataset says, it stays text."""

from html.parser import HTMLParser

import numpy as np
import pytest

from pixelthink_jax.evaluation import report
from pixelthink_jax.evaluation.html import Html, image, page, table, tag
from pixelthink_jax.evaluation.summary import summarise
from pixelthink_jax.types import Answer, Example, Segmentation
from tests.evaluation.test_summary import ROWS, row
from tests.evaluation.tiny import completion

HOSTILE = "</figcaption><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\ud800"


class Reader(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def hostile_answer(mask: np.ndarray) -> tuple[Example, Segmentation]:
    example = Example(id="a", image=np.full((*mask.shape, 3), 90, np.uint8), query=HOSTILE, mask=mask)
    answer = Answer((4.0, 4.0, 20.0, 12.0), ((6.0, 6.0), (9.0, 9.0)))
    said = completion(HOSTILE)
    return example, Segmentation(HOSTILE, said, HOSTILE, answer, HOSTILE, mask, 0.5, 3, {"total": 1.0})


def test_every_text_is_escaped():
    example, result = hostile_answer(np.eye(24, 32, dtype=bool))
    rows = [row(failure=HOSTILE, level=None)]
    text = page(
        HOSTILE,
        tag("p", HOSTILE, title=HOSTILE),
        report.answer_card(example, result, width=64, note=HOSTILE),
        report.failure_table(rows),
        report.level_table({HOSTILE: summarise(rows)["all"]}),
        table([HOSTILE], [[HOSTILE]]),
    )
    read = Reader(text)
    assert "script" not in read.tags and read.tags.count("img") == 1
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert [value for name, value in read.attributes if name == "src"][0].startswith("data:image/png;base64,")
    # Title, p, note, question, thought, error, cause, level, heading and cell.
    assert read.text.count("<script>alert(1)</script>") == 10
    text.encode("utf-8")


def test_the_page_needs_nothing_else_and_runs_nothing():
    read = Reader(page("t", tag("p", "x")))
    assert not {"link", "script", "iframe", "object"} & set(read.tags)
    policy = dict(read.attributes)["content"]
    assert any("default-src 'none'" in value for name, value in read.attributes if name == "content"), policy


def test_only_markup_is_taken_as_markup():
    assert tag("p", Html("<b>x</b>"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
    assert tag("i", "a" + tag("b")) == "<i>a&lt;b&gt;&lt;/b&gt;</i>"  # a sum is a plain text again
    assert tag("img", alt=None, src="s") == '<img src="s">'


def test_the_picture_shows_mask_box_points_and_truth():
    mask, wanted = np.zeros((2, 60, 80), bool)
    mask[10:30, 10:30], wanted[35:50, 50:70] = True, True
    answer = Answer((5.0, 5.0, 40.0, 35.0), ((15.0, 15.0), (25.0, 25.0)))
    result = Segmentation("?", completion(""), "", answer, None, mask, 0.5, 0, {})
    pixels = np.full((60, 80, 3), 90, np.uint8)
    picture = report.answer_picture(pixels, result, wanted, width=320)
    assert picture.shape == (240, 320, 3)
    assert tuple(picture[170, 240]) == (90, 90, 90)  # inside the truth, not drawn on
    assert tuple(picture[139, 240]) == report.TRUTH_COLOUR  # just above it
    assert picture[100, 60, 0] > 150 > picture[100, 60, 2]  # the tint of the mask
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert {(40, 220, 90), (255, 230, 40)} <= colours
    assert pixels.max() == 90


def test_a_picture_is_small_and_close():
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    assert image(pixels, alt="a<b").startswith('<img src="data:image/png;base64,')
    assert image(pixels, alt="a<b").endswith('alt="a&lt;b">')


@pytest.mark.parametrize("measure", ["giou", "words"])
def test_bars_end_where_the_scale_ends(measure):
    read = Reader(report.bars(summarise(ROWS), measure))
    widths = [float(v.split("width:")[1].rstrip("%")) for n, v in read.attributes if n == "style"]
    assert all(0 <= width <= 100 for width in widths) and len(widths) == 6
    assert "easy" in read.text and "all" in read.text


def test_measures_without_masks_are_a_dash():
    found = summarise([row(mask_iou=None, intersection=None, union=None)])
    assert Reader(report.level_table(found)).text.count("-") >= 2
    assert "gIoU" not in Reader(report.tiles(found["all"])).text
    report.bars(found, "giou")

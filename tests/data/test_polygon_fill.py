# ruff: noqa: E501
import numpy as np
import pytest
from pycocotools import mask as coco

from pixelthink_jax.data.polygon_fill import fill_polygon

# Drawn by OpenCV 5.0.0: cv2.polylines(m, [p], True, 1, 1), then cv2.fillPoly(m, [p], 1); masks as compressed RLE.
OPENCV = [
    ([[20, 24]], [31, 33], 'Td01j;'),
    ([[0, 24], [14, 15]], [31, 33], 'h01m0010O00010O010O00010O00010O0Pa0'),
    ([[18, 8], [29, 1], [8, 11]], [31, 33], 'S81n00O010O100O010O10O010O010O0010O010O01O010Om2'),
    ([[17, 12], [3, 1], [0, 1]], [31, 33], '11n01O001000O01000O10O010000O10O10O10T>'),
    ([[4, 29], [5, 19], [22, 7], [8, 13]], [31, 33], 'd46d022M1O211O0010O01O010O1O010O001O010O`9'),
    ([[7, 29], [5, 26], [23, 25], [3, 11], [18, 14]], [31, 33], 'X31n01O0@O31L120M12ON031LM64HM93DO<1C0=1A0?80O2G_O2a0MA2?LC4e0O1O1O001On7'),
    ([[19, 20], [19, 1], [28, 16], [27, 8], [10, 26], [5, 1]], [31, 33], 'l43m04M3L4L4M1NN2N3M2N2N3M2N10@a00J7M3M2N3M2OO3M33L^3'),
    ([[11, 20], [3, 26], [10, 6], [16, 26], [26, 26], [9, 0], [23, 21]], [31, 33], 'f32j02N3M2O1N2FEO>2CJ>9AH<:EH7:HH59LH29MH46MH58KF5;KE4=LA4`0L_O4c0L[O4f022N2N1O2NP5'),
    ([[23, 0], [1, 15], [10, 13], [27, 6], [15, 9], [8, 24], [4, 9], [3, 4]], [31, 33], '^11m01F1DO<5_OKb09OO^OK>4C09OG47LI29MH19OHO:1EN=1DM>2BM`02_OOa02_ONa01@Na01_O0a00_OOb00_O0`00AO`01_O0a0O@1g0O10O010e4'),
    ([[8, 20], [17, 13], [5, 23], [23, 7], [1, 9], [4, 23], [15, 15], [8, 15], [29, 7]], [31, 33], 'X13l05K4L3M00O00100O1O1O1K]ONc02]OMd03\\OLe03[ONe051O010O100O1LXO0i0OWO2k0O1O010O010Og2'),
    ([[23, 0], [9, 27], [26, 2], [25, 25], [13, 11], [29, 28], [20, 11], [6, 28], [8, 16], [20, 7], [9, 22], [5, 20]], [31, 33], '_51m01WO2`06OI_O3a0LB1MN?1C2MN`00C4>LB4>LA4`0M_O3a0M^O3c0M]O3c0M]OO10a04_OLO0`04AL10<3DL3171G21M60J60J3OM;OF8=GC6e0NE1He0O1O1OP2'),
    ([[23, 0], [11, 20], [18, 10]], [31, 33], 'Y;1l01O010O00100O0001O00001Oi8'),
    ([[5, 6], [0, 1], [0, 3], [17, 14], [20, 11], [13, 21], [16, 13]], [31, 33], '13m000O10000O10O10O10O010O10OZO1=O_O3b0N[O2h012M10000O[;'),
]  # fmt: skip


@pytest.mark.parametrize(("points", "size", "counts"), OPENCV)
def test_pixels_are_those_of_opencv(points, size, counts):
    expected = coco.decode({"size": size, "counts": counts.encode()}).astype(bool)
    assert np.array_equal(fill_polygon(np.array(points, np.int32), *size), expected)


def test_what_is_outside_is_left_out():
    assert fill_polygon(np.array([[-5, -5], [30, -5], [30, 30], [-5, 30]]), 7, 9).all()
    assert not fill_polygon(np.array([[-5, -5], [-2, -5], [-2, -1]]), 7, 9).any()
    line = fill_polygon(np.array([[2, 3]]), 7, 9)
    assert line.sum() == 1 and line[3, 2]

"""What is drawn on a picture becomes a mask, and a stretch is marked on the waveform of its file."""

import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from flowgen.errors import FlowgenError
from flowgen.ui.pictures import drawn, first_picture, length_s, waveform


def test_what_is_drawn_is_white():
    layer = np.zeros((20, 30, 4), np.uint8)
    assert drawn([layer]) is None
    layer[5:10, 3:7] = (249, 115, 22, 255)
    other = np.zeros_like(layer)
    other[15, 20, 3] = 1
    mask = np.asarray(drawn([layer, other]))
    assert mask.shape == (20, 30)
    assert mask.sum() == 255 * (5 * 4 + 1)


def test_the_first_picture_is_large_enough_to_draw_on(tmp_path):
    frames = [Image.new("RGB", (16, 24), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = first_picture(tmp_path / "a.gif")
    assert picture.size == (384, 576)
    assert picture.getpixel((5, 5))[0] > 200
    (tmp_path / "b.gif").write_text("no film")
    with pytest.raises(FlowgenError, match=r"b\.gif has no picture"):
        first_picture(tmp_path / "b.gif")


def test_the_marked_stretch_lies_where_the_sound_is(tmp_path):
    sound = np.zeros(8000)
    sound[2000:4000] = 0.5
    soundfile.write(tmp_path / "a.wav", sound, 8000)
    assert length_s(tmp_path / "a.wav") == pytest.approx(1.0, abs=0.01)
    svg = waveform(tmp_path / "a.wav", 0.25, 0.5)
    left, width = (float(re.search(r'<rect x="([\d.]+)" width="([\d.]+)"', svg).group(i)) for i in (1, 2))
    columns = [int(x) for x, top, low in re.findall(r"M(\d+) ([\d.]+)V([\d.]+)", svg) if float(low) - float(top) > 20]
    assert min(columns) == pytest.approx(left, abs=2)
    assert max(columns) == pytest.approx(left + width, abs=2)
    (tmp_path / "b.wav").write_text("no sound")
    with pytest.raises(FlowgenError, match=r"b\.wav has no sound"):
        waveform(tmp_path / "b.wav", 0, 0)

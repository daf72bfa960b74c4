import numpy as np
import pytest
from PIL import Image

from training import spectrogram, spectrum

RATE, HOP = 8000, 80


def tone(hertz, count=4000):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / RATE)


@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_loud_in_its_bin_and_band(hertz):
    magnitudes = spectrum.magnitudes(tone(hertz), HOP)
    assert magnitudes.shape == (50, 129)
    assert magnitudes[25].argmax() == pytest.approx(hertz * 256 / RATE, abs=0.6)
    bands = spectrum.log_bands(tone(hertz), HOP, RATE)
    assert bands.shape == (50, spectrum.BANDS)
    assert bands[25].max() - np.median(bands[25]) > 5


def test_bands_rise_with_the_pitch():
    loudest = [int(spectrum.log_bands(tone(hertz), HOP, RATE)[25].argmax()) for hertz in (200, 500, 1200, 2500, 3500)]
    assert loudest == sorted(set(loudest))


def test_a_frame_is_around_its_own_samples():
    samples = np.zeros(800)
    samples[400:480] = 0.5 * np.sin(np.arange(80))
    assert spectrum.log_bands(samples, HOP, RATE).max(1).argmax() == 5


def test_silence_is_finite():
    assert np.isfinite(spectrum.log_bands(np.zeros(801), HOP, RATE)).all()
    assert len(spectrum.log_bands(np.zeros(801), HOP, RATE)) == 11


def test_a_spectrogram_is_bright_where_the_tone_is():
    picture = spectrogram.spectrogram(tone(1000))
    rows = picture.astype(int).sum(2).mean(1)
    assert picture.shape[0] == spectrogram.ROWS
    assert abs(int(rows.argmax()) - 3 * spectrogram.ROWS // 4) <= 2  # a quarter of the way up


def test_rows_of_clips_stand_side_by_side_under_their_titles(tmp_path):
    path = tmp_path / "samples.png"
    spectrogram.write_spectrograms(path, [("one", [tone(500), tone(900, 2000)]), ("two", [tone(700, 3000)])])
    with Image.open(path) as picture:
        width, height = picture.size
    row = spectrogram.TITLE + spectrogram.ROWS + spectrogram.MARGIN
    assert height == 2 * row + spectrogram.MARGIN
    assert width == 125 + 63 + 3 * spectrogram.MARGIN

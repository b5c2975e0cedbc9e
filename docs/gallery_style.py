"""The style that each script of the gallery begins with when the site is built."""

from pathlib import Path

import matplotlib.pyplot as plt


def use_style(gallery_conf, file):
    plt.style.use(Path(__file__).with_name("gallery.mplstyle"))

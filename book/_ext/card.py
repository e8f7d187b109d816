"""Draw card.png, the picture of the book where a link to it is shared.

To be run again when published/scores/mnist-lr3.parquet has changed; it needs
MNIST under $MEMLIB_DATA.
"""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import memlib
from memlib.figures import extreme_indices
from memlib.figures.style import BLUE, STYLE, YELLOW, Floats, Images, number, tile

HERE = Path(__file__).resolve().parent
SCORES = HERE.parents[1] / "published" / "scores" / "mnist-lr3.parquet"
WIDTH, HEIGHT, DPI = 12.0, 6.3, 100  # 1200 x 630 pixels, as social sites show
MARGIN = 0.65  # inches
COUNT = 10  # images in a row
TITLE = "How deep generative models memorize"
SUBTITLE = "A score for every training image, with its code"


def card(images: Images, M: Floats) -> Figure:
    """The title above the images with the highest and with the lowest scores."""
    lowest, _, highest = extreme_indices(M, COUNT)
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
        figure.add_artist(Rectangle((0, 0), 1, 1, facecolor=BLUE, zorder=-2))
        figure.add_artist(Rectangle((0, 0), 1, 0.6, facecolor="white", zorder=-1))
        figure.add_artist(Rectangle((0, 0.6), 1, 0.014, facecolor=YELLOW))
        line = partial(figure.text, MARGIN / WIDTH, color="white", va="top")
        line(0.885, TITLE, fontsize=34, weight="bold")
        line(0.75, SUBTITLE, fontsize=22)
        size = (WIDTH - 2 * MARGIN) / COUNT
        most = "Most memorized digits of MNIST", highest[::-1], 2.75
        for name, chosen, top in (most, ("Least memorized", lowest, 4.6)):
            first, last = (number(round(M[i])) for i in chosen[[0, -1]])
            text = f"{name}, score {first} to {last} nats"
            line(1 - top / HEIGHT, text, fontsize=17, color="#222222")
            for i, image in enumerate(images[chosen]):
                tile(figure, image, MARGIN + i * size, top + 0.38, size)
    plt.close(figure)
    return figure


def main() -> None:
    """Write card.png beside this file."""
    scores = pq.read_table(SCORES, columns=["index", "M"]).to_pandas()
    images = memlib.load_images("mnist").images[scores["index"]]
    card(images, np.asarray(scores["M"])).savefig(HERE / "card.png", dpi=DPI, metadata={"Software": None})


if __name__ == "__main__":
    main()

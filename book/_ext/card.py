"""Draw card.png, the picture of the book where a link to it is shared, into book/_static.

To be run again when the released run has changed; it needs MNIST under $MEMLIB_DATA.
"""

import matplotlib.pyplot as plt
from book._ext.pages import ROOT
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import memlib
from memlib.chapters.results import released_run
from memlib.figures import extreme_indices
from memlib.figures.style import BLUE, STYLE, YELLOW, Floats, Images, number, tile

WIDTH, HEIGHT, DPI = 12.0, 6.3, 100  # 1200 x 630 pixels, as social sites show
MARGIN = 0.65  # inches
COUNT = 10  # images in a row


def card(images: Images, M: Floats) -> Figure:
    """The title above the images with the highest and with the lowest scores."""
    lowest, _, highest = extreme_indices(M, COUNT)
    with plt.style.context(STYLE):
        figure = plt.figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
        for y, height, color in ((0, 1, BLUE), (0, 0.6, "white"), (0.6, 0.014, YELLOW)):
            figure.add_artist(Rectangle((0, y), 1, height, facecolor=color, zorder=-1))
        text = {"x": MARGIN / WIDTH, "va": "top"}
        title, subtitle = (
            "How deep generative models memorize",
            "A score for every training image, with its code",
        )
        figure.text(y=0.885, s=title, color="white", fontsize=34, weight="bold", **text)
        figure.text(y=0.75, s=subtitle, color="white", fontsize=22, **text)
        size = (WIDTH - 2 * MARGIN) / COUNT
        most = "Most memorized digits of MNIST", highest[::-1], 2.75
        for name, chosen, top in (most, ("Least memorized", lowest, 4.6)):
            first, last = (number(round(M[i])) for i in chosen[[0, -1]])
            row = f"{name}, score {first} to {last} nats"
            figure.text(y=1 - top / HEIGHT, s=row, color="#222222", fontsize=17, **text)
            for i, image in enumerate(images[chosen]):
                tile(figure, image, MARGIN + i * size, top + 0.38, size)
    plt.close(figure)
    return figure


if __name__ == "__main__":
    run = released_run("mnist-lr3", ROOT / "published" / "runs" / "small")
    drawn = card(run.images.images, memlib.memorization(run.paper).M[-1].values)
    drawn.savefig(ROOT / "book/_static/card.png", dpi=DPI, metadata={"Software": None})

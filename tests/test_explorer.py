"""The explorer's filters, order, details and pictures are those of the run; without a kernel and with one."""

import base64
import dataclasses
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from memlib.chapters.explorer import Kin, duplicates_of, explore, nearest_of
from memlib.data import ImageSet
from memlib.datasets import load_images
from memlib.experiment import variant
from memlib.inference import interval, last_gap, memorized
from memlib.memorization import memorization
from memlib.metrics.duplicates import Pairs, near_duplicates
from memlib.metrics.neighbors import half_resolution
from memlib.psis import khat_threshold
from memlib.runs.cross_fit import cross_fit
from memlib.runs.run import run

SMALL = variant(
    "digits-lr3", num_images=60, epochs=2, score_every=1, folds=3, repeats=3, num_samples=32, batch_size=16
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    result = run(SMALL, root=tmp_path_factory.mktemp("results"), progress=False)
    result.khat[:, :, ::3] = 0.4  # as if a third of the images were easy, and those of the second repeat
    result.num_samples[:, 1] = 32  # had fewer samples, which a k-hat of 0.4 is too high for
    result.khat[:, 1, ::6] = 0.3
    return result


@pytest.fixture(scope="module")
def images():
    return SMALL.load_images()


@pytest.fixture(scope="module")
def kin(images, result):
    pairs = near_duplicates(images.images, threshold=0.9)
    assert len(pairs.first)  # or nothing is tested
    return {
        "nearest sample": nearest_of(images.images, result.samples.values),
        "near-duplicate": duplicates_of(images, pairs),
    }


def flat(images):
    """The result of a run of which nothing is to be seen."""
    model = SimpleNamespace(log_prob=lambda images: np.zeros(len(images)))
    return cross_fit(lambda images, seed: model, images, folds=2, repeats=2, progress=False)


def parts(box):
    """The dropdowns by label, and the page of an explorer."""
    bar, gallery = box.children
    return {menu.description: menu for menu in bar.children}, BeautifulSoup(gallery.value, "html.parser")


def shown(page):
    """The observations on a page, in its order."""
    return [int(tile.input["value"]) for tile in page.select(".tile")]


def matching(page, label, option, menus):
    """The observations that the style sheet leaves when an option is chosen."""
    i = list(menus).index(label)
    j = menus[label].options.index(option)
    rule = f".explorer:has(.filter-{i} option:nth-child({j + 1}):checked) .tile:not(.f{i}-{j})"
    assert rule in page.style.string
    return [int(tile.input["value"]) for tile in page.select(f".tile.f{i}-{j}")]


def test_the_filters_show_what_their_names_say(result, images, kin):
    menus, page = parts(explore(result, images, kin))
    scores, last = memorization(result), result.isel(epoch=-1)
    gap, error, log_p = (scores[name][-1].values for name in ("gap", "gap_se", "U"))
    assert shown(page) == list(np.argsort(-gap, kind="stable"))
    limit = [[khat_threshold(int(S)) for S in counts] for counts in last.num_samples.values]
    trusted = (last.khat.values <= limit).all(0)
    assert 0 < trusted.sum() < (last.khat.values <= khat_threshold(64)).all(0).sum()
    wanted = {
        ("Class", "7"): images.labels == 7,
        ("Gap", "highest 5 %"): gap > np.quantile(gap, 0.95),
        ("Gap", "upper half"): gap > np.median(gap),
        ("Gap", "lowest 5 %"): gap < np.quantile(gap, 0.05),
        ("log p(x): U", "lowest fifth"): log_p <= np.quantile(log_p, 0.2),
        ("log p(x): U", "highest fifth"): log_p >= np.quantile(log_p, 0.8),
        ("Standard error", "smaller half"): error <= np.median(error),
        ("Standard error", "larger half"): error > np.median(error),
        ("Pareto k-hat", "trusted"): trusted,
        ("Pareto k-hat", "too high"): ~trusted,
        ("Near-duplicate", "with"): (kin["near-duplicate"].index >= 0).any(1),
    }
    for (label, option), mask in wanted.items():
        assert menus[label].options[0] == "all"
        assert sorted(matching(page, label, option, menus)) == list(np.flatnonzero(mask)), option


def test_with_a_kernel_the_menus_reach_all_images(result, images):
    box = explore(result, images, count=6)
    menus, page = parts(box)
    assert len(shown(page)) == 6
    menus["Gap"].value = "lower half"
    _, page = parts(box)
    gap = last_gap(result)
    lower = np.flatnonzero(gap <= np.median(gap))
    ranked = lower[np.argsort(-gap[lower], kind="stable")]
    assert shown(page)[:2] == list(ranked[:2]) and shown(page)[-1] == ranked[-1]
    assert "6 of 30" in page.select_one(".count").text
    common = images.labels[ranked[0]]
    menus["Class"].value = images.classes[common]
    both = ranked[images.labels[ranked] == common]
    assert shown(parts(box)[1])[:2] == list(both[:2])
    menus["Gap"].value = "highest 5 %"
    menus["Class"].value = images.classes[
        min(set(range(10)) - {*images.labels[gap > np.quantile(gap, 0.95)]})
    ]
    _, page = parts(box)
    assert shown(page) == [] and page.select_one(".count")


def test_of_many_images_the_ends_and_even_ranks_are_held(result, images):
    _, page = parts(explore(result, images, count=12))
    ranked = list(np.argsort(-last_gap(result), kind="stable"))
    held = [ranked.index(i) for i in shown(page)]
    assert held[:4] == [0, 1, 2, 3] and held[-2:] == [58, 59]
    assert len(held) == 12 and (np.diff(held) > 0).all()
    assert np.ptp(np.diff(held[4:10])) <= 1


def test_the_details_have_the_numbers_of_the_scores(result, images):
    _, page = parts(explore(result, images))
    scores = memorization(result)
    tile = page.select(".tile")[5]
    i = int(tile.input["value"])
    text = tile.select_one(".detail").text.replace("\N{MINUS SIGN}", "-")
    low, high = (float(end[-1, i]) for end in interval(scores, 0.9))
    behind = float(scores.effective_repeats[-1, i])
    assert f"Image {images.index[i]}, {images.labels[i]}" in text
    assert f"gap {float(scores.gap[-1, i]):.1f} nats (90%: {low:.1f} to {high:.1f})" in text
    assert f"M {float(scores.M[-1, i]):.1f}, from {behind:.1f} of 3 repeats" in text
    assert f"U {float(scores.U[-1, i]):.1f}" in text
    said = tile.svg["aria-label"].replace("\N{MINUS SIGN}", "-")
    assert [float(m) for m in re.findall(r"epoch \d: (-?[\d.]+)", said)] == [
        round(float(m), 1) for m in scores.gap[:, i]
    ]


def sheet(page):
    """The picture behind a page."""
    data = re.search(r"base64,([^)]*)", page.style.string)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def picture(page, span):
    """The pixels that a span shows of the picture behind the page."""
    columns, rows = (
        int(k) // 100 for k in re.search(r"background-size:(\d+)% (\d+)%", page.style.string).groups()
    )
    pixels = sheet(page)
    assert pixels.shape[:2] == (32 * rows, 32 * columns)
    x, y = (float(k) / 100 for k in re.search(r"position:([\d.]+)% ([\d.]+)%", span["style"]).groups())
    column, row = round(x * (columns - 1)), round(y * (rows - 1))
    return pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]


def test_every_picture_is_the_image_it_stands_for(result, images, kin):
    _, page = parts(explore(result, images, kin, count=20))
    nearest, copies = kin.values()
    seen = 0
    for tile in page.select(".tile"):
        i = int(tile.input["value"])
        for span in tile.select(".image:not(.kin .image)"):
            assert np.array_equal(picture(page, span), images.images[i, 0])
        beside = [picture(page, span) for span in tile.select(".kin .image")]
        wanted = [nearest.pool[nearest.index[i, 0]], *(copies.pool[j] for j in copies.index[i] if j >= 0)]
        assert len(beside) == len(wanted)
        assert all(np.array_equal(a, b[0]) for a, b in zip(beside, wanted, strict=True))
        seen += len(beside) > 1
    assert seen


def test_pictures_in_color_are_close():
    images = load_images("patches", "test").subset(range(40))
    _, page = parts(explore(flat(images), images))
    for tile in page.select(".tile")[:5]:
        there = picture(page, tile.select_one(".image")).transpose(2, 0, 1).astype(float)
        assert np.abs(there - images.images[int(tile.input["value"])]).mean() < 8


def test_large_pictures_are_shrunk_and_keep_their_ratio():
    ramp = np.linspace(0, 255, 400).round().astype(np.uint8)
    images = ImageSet.of(np.broadcast_to(ramp, (4, 3, 1000, 400)), [0, 1, 0, 1])
    _, page = parts(explore(flat(images), images))
    pixels = sheet(page).astype(float)
    assert pixels.shape == (2 * 192, 2 * 77, 3) and "--ratio:400/1000" in page.style.string
    wanted = np.interp(np.arange(77), np.linspace(-0.5, 76.5, 400), ramp)
    assert np.abs(pixels[:192, :77] - wanted[:, None]).mean() < 3


def test_more_pictures_than_fit_are_refused():
    images = ImageSet.of(np.zeros((100, 1, 200, 2), np.uint8))
    result, index = flat(images), np.zeros((100, 72), int)
    pool = np.zeros((7126, 1, 200, 2), np.uint8)
    assert explore(result, images, {"x": Kin(pool[1:], index, index)})
    message = "count is 240, with kin up to 7226 pictures; allowed: 7225 pictures"
    with pytest.raises(ValueError, match=message):
        explore(result, images, {"x": Kin(pool, index, index)})


def test_an_infinite_k_hat_is_shown_and_a_missing_one_is_not(result, images):
    some = result.copy(deep=True)
    some.khat[-1, 0, 1], some.khat[-1, :, 2] = np.inf, np.nan
    _, page = parts(explore(some, images))
    details = {int(tile.input["value"]): tile.select_one(".detail").text for tile in page.select(".tile")}
    assert "k-hat \N{INFINITY}, too high" in details[1]
    assert "k-hat" not in details[2]
    assert sum("k-hat" in text for text in details.values()) == 59


def test_what_a_run_has_not_is_not_shown(result, images):
    one = result.isel(repeat=[0]).copy(deep=True)
    one.khat[:] = np.inf  # as with too few samples
    menus, page = parts(explore(one, images))
    assert "Standard error" not in menus and "90%" not in page.text
    assert "Pareto k-hat" not in menus and "k-hat" not in page.text
    plain = ImageSet.of(images.images)  # of one class
    menus, page = parts(explore(flat(plain), plain))  # models without importance weights
    assert "Pareto k-hat" not in menus and "k-hat" not in page.text
    assert "Class" not in menus and "Standard error" in menus and "Gap" in menus
    assert page.select_one(".said").text == "Image 0, gap 0.0 nats"


def test_listed_images_can_be_filtered(result, images):
    apart = result.copy(deep=True)  # half of the images as if training on them mattered much
    seen = (apart.fold != apart.fold_of) & (apart.observation < 30)
    apart["log_px"] = (apart.log_px + 500 * seen).transpose(*result.log_px.dims).astype(np.float32)
    listed = memorized(apart.isel(epoch=[-1]), rate=0.1).values[0]
    assert 0 < listed.sum() < 60
    menus, page = parts(explore(apart, images))
    found = matching(page, "Training matters", "listed at FDR 10%", menus)
    assert sorted(found) == list(np.flatnonzero(listed))


def test_probability_zero_is_shown_as_it_is(result, images):
    zero = result.copy(deep=True)
    zero.log_px[-1, :, :, :3] = -np.inf
    menus, page = parts(explore(zero, images))
    assert len(shown(page)) == 60 and "nan" not in page.text
    assert all("nan" not in str(svg) for svg in page.select("svg"))
    assert "log p(x): U" not in menus  # no quantiles of infinite values
    gap = last_gap(zero)  # NaN for three, and quantiles of the others
    upper = matching(page, "Gap", "upper half", menus)
    assert sorted(upper) == list(np.flatnonzero(gap > np.nanmedian(gap)))
    assert "not defined" in page.select_one('.tile:has(input[value="0"]) .detail').text


def test_a_class_may_have_the_name_of_an_option_and_cannot_break_the_page(result, images):
    named = dataclasses.replace(images, classes=("all", *(f"<b>{k}</b>" for k in range(1, 10))))
    box = explore(result, named)
    menus, page = parts(box)
    assert any("<b>" in said.text for said in page.select(".said"))
    menus["Class"].index = 1
    assert len(shown(parts(box)[1])) == (images.labels == 0).sum()
    menus["Class"].index = 0
    assert len(shown(parts(box)[1])) == 60


def test_classes_that_were_corrected_after_the_run_are_those_that_are_shown(result, images):
    menus, page = parts(explore(result, dataclasses.replace(images, labels=9 - images.labels)))
    sevens = np.flatnonzero(images.labels == 2)  # called so now
    assert sorted(matching(page, "Class", "7", menus)) == list(sevens)
    shown_as = page.select_one(f'.tile:has(input[value="{sevens[0]}"]) .detail b')
    assert shown_as.text == f"Image {images.index[sevens[0]]}, 7"


def test_the_same_run_gives_the_same_page(result, images, kin):
    pages = [explore(result, images, kin).children[1].value for _ in range(2)]
    groups = [re.search(r'name="(explorer-\d+)"', page)[1] for page in pages]
    assert groups[0] != groups[1]  # or a choice in one would be one in the other
    assert pages[0].replace(groups[0], "") == pages[1].replace(groups[1], "")


def test_nearest_images_are_nearest_and_not_themselves(images):
    x = half_resolution(images.images)
    distance = np.linalg.norm(x[:, None] - x, axis=-1) + np.diag(np.full(len(x), np.inf))
    own = nearest_of(images.images)
    for found in (own.values[:, 0], distance[np.arange(len(x)), own.index[:, 0]]):
        np.testing.assert_allclose(found, distance.min(1))
    assert (nearest_of(images.images, images.images).values == 0).all()


def test_duplicates_are_sorted_by_correlation(images):
    pairs = Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([0.91, 0.99, 0.95]))
    found = duplicates_of(images, pairs, most=2)
    assert found.index[:4].tolist() == [[2, 1], [2, 0], [0, 1], [-1, -1]]
    assert found.values[:3].tolist() == [[0.99, 0.91], [0.95, 0.91], [0.99, 0.95]]
    assert duplicates_of(images, pairs, most=1).index[:2].tolist() == [[2], [2]]
    none = duplicates_of(images, Pairs(*(c[:0] for c in pairs)))
    assert (none.index == -1).all() and len(none.index) == len(images)


def test_what_is_not_of_the_run_is_refused(result, images):
    large = np.zeros((1, 1, 64, 16), np.uint8)
    for changed, kin, message in (
        (ImageSet.of(images.images[::-1]), None, "others than the result's 60"),
        (images, nearest_of(images.images[:5]), "kin 'x' is of (5, 1, 32, 32); allowed: (60, 1, 32, 32)"),
        (images, nearest_of(images.images, large), "kin 'x' is of (60, 1, 64, 16); allowed"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            explore(result, changed, kin and {"x": kin})

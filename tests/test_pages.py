"""Pages of every size."""

from tinybook import notebook, write_book, write_params

from book._ext.pages import Page, load_pages


def test_pages_of_a_size(tmp_path):
    write_book(tmp_path, index=notebook(), one=notebook(), two=notebook())
    write_params(tmp_path, one={"epochs": 9}, index={"rate": 0.5})
    assert load_pages("quick", tmp_path / "book") == [
        Page("one", {"epochs": 9}),
        Page("two", {}),
        Page("index", {"rate": 0.5}),
    ]


def test_a_page_of_published_yaml_comes_executed_from_there(tmp_path):
    write_book(tmp_path, index=notebook(), one=notebook(), two=notebook())
    write_params(tmp_path, "published", two={"rate": 0.5}, index=None)
    write_params(tmp_path, one={"epochs": 9})
    expected = [Page("one", {"epochs": 9}), Page("two", None), Page("index", None)]
    assert load_pages("quick", tmp_path / "book") == expected
    published = load_pages("published", tmp_path / "book")
    assert published == [Page("two", {"rate": 0.5}), Page("index", {})]
    write_params(tmp_path, "laptop", two={"rate": 0.25})  # a size may execute it all the same
    assert load_pages("laptop", tmp_path / "book")[1] == Page("two", {"rate": 0.25})


def test_merged_values_may_be_changed_and_nothing_is_empty(tmp_path):
    write_book(tmp_path, index=notebook(), one=notebook(), two=notebook())
    write_params(tmp_path)
    params = tmp_path / "book" / "params" / "quick.yaml"
    params.write_text("one: &a {epochs: 9, rate: 1}\nindex: {<<: *a, epochs: 8}")
    one, _, index = load_pages("quick", tmp_path / "book")
    assert one.parameters == {"epochs": 9, "rate": 1} and index.parameters == {"epochs": 8, "rate": 1}
    for text in ("", "index:\n"):
        params.write_text(text)
        assert [page.parameters for page in load_pages("quick", tmp_path / "book")] == [{}, {}, {}]

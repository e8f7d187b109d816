"""Pages of every size."""

from tinybook import notebook, write_book, write_params

from book._ext.pages import Page, load_pages


def test_pages_of_a_size(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook(title="Score"))
    write_params(tmp_path, experiments={"one": {"epochs": 9}}, chapters={"index": {"rate": 0.5}})
    assert load_pages("quick", tmp_path / "book") == [
        Page("score-one", "score", "Score: the first", {"experiment": "one", "epochs": 9}),
        Page("score-two", "score", "Score: second", None),
        Page("index", "index", None, {"rate": 0.5}),
    ]
    write_book(tmp_path, score=notebook(title="Which score?"))
    assert load_pages("quick", tmp_path / "book")[0].title == "Which score? (the first)"
    write_book(tmp_path, score=notebook(title="Score"))
    write_params(tmp_path, "published", experiments={"two": None})
    published = load_pages("published", tmp_path / "book")
    assert published == [Page("score-two", "score", "Score: second", {"experiment": "two"})]


def test_a_chapter_of_published_yaml_comes_executed_from_there(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook())
    write_params(tmp_path, "published", chapters={"index": {"rate": 0.5}})
    write_params(tmp_path)
    pages = {page.name: page for page in load_pages("quick", tmp_path / "book")}
    assert pages["index"] == Page("index", "index", None, None)
    assert load_pages("published", tmp_path / "book") == [Page("index", "index", None, {"rate": 0.5})]
    write_params(tmp_path, "laptop", chapters={"index": {"rate": 0.25}})
    pages = {page.name: page for page in load_pages("laptop", tmp_path / "book")}
    assert pages["index"].parameters == {"rate": 0.25}


def test_a_template_has_pages_of_the_experiments_listed_for_it(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook(title="Score"), more=notebook(title="More"))
    chosen = {"experiments": {"one": {"epochs": 9}, "two": {}}, "chapters": {"more": {"rate": 0.5}}}
    write_params(tmp_path, templates=({"more": ["two"]}, "score"), **chosen)
    assert load_pages("quick", tmp_path / "book") == [
        Page("more-two", "more", "More: second", {"experiment": "two", "rate": 0.5}),
        Page("score-one", "score", "Score: the first", {"experiment": "one", "epochs": 9}),
        Page("score-two", "score", "Score: second", {"experiment": "two"}),
        Page("index", "index", None, {}),
    ]
    chosen["chapters"]["more-two"] = {"rate": 0.25}
    write_params(tmp_path, templates=({"more": ["two"]}, "score"), **chosen)
    [page, *_] = load_pages("quick", tmp_path / "book")
    assert page.parameters == {"experiment": "two", "rate": 0.25}
    write_params(tmp_path, "published", ("score", {"more": ["two"]}), experiments={"one": {}})
    assert [page.name for page in load_pages("published", tmp_path / "book")] == ["score-one"]


def test_merged_values_may_be_changed_and_nothing_is_empty(tmp_path):
    write_book(tmp_path, index=notebook(), score=notebook())
    write_params(tmp_path)
    params = tmp_path / "book" / "params" / "quick.yaml"
    params.write_text("experiments:\n  one: &a {epochs: 9, rate: 1}\nchapters: {index: {<<: *a, epochs: 8}}")
    one, _, index = load_pages("quick", tmp_path / "book")
    assert one.parameters == {"experiment": "one", "epochs": 9, "rate": 1}
    assert index.parameters == {"epochs": 8, "rate": 1}
    for text in ("", "experiments:\nchapters:\n  index:\n"):
        params.write_text(text)
        assert [page.parameters for page in load_pages("quick", tmp_path / "book")] == [None, None, {}]

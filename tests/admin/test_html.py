from __future__ import annotations

from proxy.admin.html import Html, joined, tag, text


def test_what_is_not_html_becomes_text() -> None:
    evil = "<script>\"'&</script>"
    assert tag("p", evil, title=evil) == (
        '<p title="&lt;script&gt;&quot;&#x27;&amp;&lt;/script&gt;">&lt;script&gt;&quot;&#x27;&amp;&lt;/script&gt;</p>'
    )
    assert text(evil) == text(text(evil))
    assert joined([evil, tag("b", 1)]) == "&lt;script&gt;&quot;&#x27;&amp;&lt;/script&gt;<b>1</b>"


def test_html_that_was_joined_to_a_plain_text_is_no_html_any_more() -> None:
    assert text(tag("b", "x") + "<i>") == "&lt;b&gt;x&lt;/b&gt;&lt;i&gt;"


def test_attributes() -> None:
    shown = tag("input", class_="a", aria_label="b", hidden=True, checked=False, value=None, tabindex=0)
    assert shown == '<input class="a" aria-label="b" hidden tabindex="0">'
    assert isinstance(shown, Html)

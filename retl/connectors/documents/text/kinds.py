"""Which kinds of documents have a text, by the endings of their names."""

from __future__ import annotations

_TEXT = """
txt text log md markdown mdx rst adoc org tex
py pyi js mjs cjs jsx ts tsx go rs java kt kts scala swift c h cc cpp cxx hpp hh cs m mm rb php pl pm lua r jl ex exs
erl hs clj sh bash zsh fish ps1 bat sql css scss less vue svelte proto graphql tf dockerfile makefile cmake gradle
json jsonl yaml yml toml ini cfg conf properties csv tsv xml svg srt vtt eml diff patch
"""
_KINDS = {
    **dict.fromkeys(_TEXT.split(), "text"),
    **dict.fromkeys(("html", "htm", "xhtml"), "html"),
    "pdf": "pdf",
    "docx": "docx",
    "docm": "docx",
    "pptx": "pptx",
    "pptm": "pptx",
    "epub": "epub",
    **dict.fromkeys(("xlsx", "xlsm", "xlsb", "xls", "ods"), "sheets"),
}


def kind_of(name: str) -> str | None:
    """The kind of a document; ``None`` for a file that has no text, or none that can be read."""
    last = name.rpartition("/")[2].lower()
    return _KINDS.get(last.rpartition(".")[2], "text" if "." not in last.lstrip(".") else None)

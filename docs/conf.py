"""How Sphinx builds these pages: `make docs`. Nothing is fetched, and the pages fetch nothing."""

project = "sfda"
author = "the sfda authors"

extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4  # headings have the anchors that they have on a code host
highlight_language = "none"  # of blocks that name no language
nitpicky = True

html_theme = "alabaster"
html_theme_options = {
    "description": "vision models, fitted to new data",
    "body_max_width": "none",
    "page_width": "1200px",
    "font_family": "sans-serif",
    "font_size": "15px",
    "show_powered_by": False,
}
html_title = "sfda"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False

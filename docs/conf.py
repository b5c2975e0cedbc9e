"""The site. `pip install '.[docs]'`, and then one command builds it and runs every example on the way:

    sphinx-build -W --keep-going docs docs/_build/html

Warnings are errors: links that lead nowhere, pages in no table of contents, examples with another result than stated.
"""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import sys
import warnings
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import xent

DOCS = Path(__file__).parent
ROOT = DOCS.parent
REPOSITORY = "https://github.com/xent-numpy/xent"
logger = logging.getLogger(__name__)
sys.path.insert(0, str(DOCS))       # for gallery_style


def is_installed(module):
    return importlib.util.find_spec(module) is not None


# -- what the site is

project = "xent"
author = "The xent developers"
copyright = author
version = release = xent.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/**", "Thumbs.db", ".DS_Store"]
nitpicky = True
smartquotes = False
toc_object_entries_show_parents = "hide"

# -- pages in Markdown, which GitHub shows too

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "dollarmath"]
myst_heading_anchors = 4        # as GitHub makes them
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# -- reference, from the docstrings

default_role = "code"           # `x` in a docstring is code, as in Markdown
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"      # the docstrings have types and shapes; overloads would fill the page
autodoc_mock_imports = [m for m in ("torch", "onnx", "skl2onnx", "sklearn", "dask") if not is_installed(m)]
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# -- the gallery, whose scripts run

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "abort_on_example_error": True,
    "capture_repr": (),             # what is printed is shown, and no result of a last line
    "copyfile_regex": "",
    "download_all_examples": False,
    "image_scrapers": ("matplotlib",),
    "image_srcset": ["2x"],
    "matplotlib_animations": False,
    "min_reported_time": 1e9,
    "plot_gallery": True,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib", "gallery_style.use_style"),
    "show_memory": False,
    "show_signature": False,
    "within_subsection_order": "ExampleTitleSortKey",
    "write_computation_times": False,
}

# -- how it looks

html_theme = "pydata_sphinx_theme"
html_title = f"xent {release}"
html_short_title = "xent"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "github_url": REPOSITORY,
    "logo": {"text": "xent"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
ALONE = ("index", "start", "accuracy", "speed", "architecture", "dependencies", "changes", "contributing")
html_sidebars = {page: [] for page in ALONE}

# -- links out of the site, which `sphinx-build -b linkcheck` follows where there is a network

linkcheck_ignore = [rf"{REPOSITORY}.*", r"https://xent-numpy\.github\.io/.*", r"https://doi\.org/.*"]
linkcheck_anchors = False
linkcheck_timeout = 20


# -- the examples of pages and docstrings run before anything is built

NEEDS = {       # to run the examples of a page
    "boosting.md": ["lightgbm", "xgboost", "sklearn"],
    "logistic-regression.md": ["sklearn"],
    "csv.md": ["pandas", "polars", "pyarrow"],
    "onnx.md": ["onnx", "onnxruntime", "skl2onnx"],
    "torch.md": ["torch"],
    "xent.boosting": [],
    "xent.dask": ["distributed"],
    "xent.onnx": ["onnx", "onnxruntime", "skl2onnx"],
    "xent.sklearn": ["sklearn"],
    "xent.torch": ["torch"],
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def missing_modules(name):
    wanted = NEEDS.get(name) or NEEDS.get(".".join(name.split(".")[:2]), [])
    return [module for module in wanted if not is_installed(module)]


def run_examples(app):
    """Run the examples of all pages and docstrings; each failure is a warning, and so an error under -W."""
    if app.builder.name != "html":
        return
    pages = {path.name: path for path in sorted(DOCS.glob("*.md"))} | {"README.md": ROOT / "README.md"}
    modules = [m.name for m in pkgutil.walk_packages(xent.__path__, "xent.") if "__main__" not in m.name]
    modules = [name for name in modules if not name.startswith("xent._")]
    for name in [*pages, "xent", *modules]:
        if missing := missing_modules(name):
            logger.info("examples of %s: not run without %s", name, ", ".join(missing))
            continue
        with warnings.catch_warnings():
            if name in pages:
                result = doctest.testfile(str(pages[name]), False, optionflags=OPTIONS, encoding="utf-8")
            else:
                result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
        if result.failed:
            logger.warning("%s of %s examples of %s failed", result.failed, result.attempted, name)


ELSEWHERE = {"changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}      # pages whose text is at the top


def prepare_page(app, docname, source):
    """Links to files outside docs/ lead to the repository; examples do not show the empty line that ends them."""

    def absolute(match):
        path, anchor = match[1], match[2] or ""
        target = (DOCS / path).resolve()
        if not target.exists():
            logger.warning("%s links to %s, which is not there", docname, path)
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{target.relative_to(ROOT.resolve()).as_posix()}{anchor})"

    text = source[0]
    if docname in ELSEWHERE:
        file = ROOT / ELSEWHERE[docname]
        app.env.note_dependency(file)
        text = file.read_text(encoding="utf-8").replace("# Changelog", "# Release notes", 1)
        text = re.sub(r"\]\((?!https:)(?!docs/)", "](../", text).replace("](docs/", "](")
    text = re.sub(r"\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)", absolute, text)
    text = re.sub(r"\]\(gallery/(\w+)\.py\)", r"](examples/\1.rst)", text)      # the page, not the script
    source[0] = re.sub(r"\n\n( *```\n)", r"\n\1", text)


def escape_initials(app, what, name, obj, options, lines):
    """In references, the initial of an author is not the number of a list."""
    lines[:] = [re.sub(r"^(\s*\.\. \[\d+\] [A-Z])\. ", r"\1\\. ", line) for line in lines]


BRIDGES = ("boosting", "sklearn", "dask", "onnx")


def link_names(app, doctree, docname):
    """A public name in code font leads to the reference."""
    objects = app.env.get_domain("py").objects
    first = "xent.torch." if docname in ("torch", "api/torch") else "xent."
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removesuffix("()")
        places = [f"{module}{name}" for module in ("", first, "xent.", *(f"xent.{bridge}." for bridge in BRIDGES))]
        found = next((objects[place] for place in places if place in objects), None)
        inside = isinstance(literal.parent, (nodes.reference, nodes.title, addnodes.pending_xref))
        if found and not inside and found.docname != docname:
            link = make_refnode(app.builder, docname, found.docname, found.node_id, literal.deepcopy(), name)
            literal.replace_self(link)


def keep_short_cells(app, doctree, docname):
    """Numbers and shapes do not break across lines in narrow tables, which scroll."""
    for cell in doctree.findall(nodes.entry):
        if 0 < len(cell.astext()) <= 14:
            cell["classes"].append("short")


def check_reference(app, env):
    """Each public name is in the reference."""
    documented = env.get_domain("py").objects
    for name in xent.__all__:
        if f"xent.{name}" not in documented and name != "datasets":     # a module, whose function is
            logger.warning("xent.%s is in no page of the reference", name)


def setup(app):
    app.connect("builder-inited", run_examples)
    app.connect("source-read", prepare_page)
    app.connect("autodoc-process-docstring", escape_initials, priority=100)     # before numpydoc
    app.connect("doctree-resolved", link_names)
    app.connect("doctree-resolved", keep_short_cells)
    app.connect("env-check-consistency", check_reference)

"""The site: `make docs` builds it, and takes warnings for errors."""

import os
import shutil
import warnings
from pathlib import Path

import skleepkd

HERE = Path(__file__).parent
ROOT = HERE.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Pages that are kept outside of this folder: the numbers, the changes, the rules. They are
# copied with their paths, so that their links to one another work here too.
for made in ("project", "api/generated"):
    shutil.rmtree(HERE / made, ignore_errors=True)
for pattern in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results/*.[mp][dn]*"):
    for path in ROOT.glob(pattern):
        copy = HERE / "project" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)

# braindecode asks MNE for a montage under its old name, here and where examples run.
warnings.filterwarnings("ignore", message=".*standard_1020.*")
os.environ.setdefault("PYTHONWARNINGS", "ignore:Montage name 'standard_1020'")

# ---------------------------------------------------------------- Sphinx

project = "skleepkd"
author = "The skleepkd developers"
copyright = author
version = release = skleepkd.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "api/generated/backreferences"]
templates_path = ["_templates"]
default_role = "py:obj"

# ---------------------------------------------------------------- the API

autosummary_generate = True
# Stagers show these; skorch's hundreds are described in its own documentation.
autosummary_context = {
    "contract": (
        *("fit", "partial_fit", "predict", "predict_proba", "score"),
        *("extract_features", "hypnodensity"),
    )
}
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# Sections that exist and are in order, a summary of one line that ends in a period,
# parameters whose types and names are those of the code.
numpydoc_validation_checks = {
    *("GL06", "GL07", "GL08", "SS01", "SS02", "SS03", "SS04"),
    *("PR05", "PR06", "PR10", "SA02", "SA03"),
}

# ---------------------------------------------------------------- pages in Markdown

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# ---------------------------------------------------------------- the gallery

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": r"[\\/]plot_",
    "ignore_pattern": r"^(?!plot_)",  # the demo, which takes longer
    "run_stale_examples": True,
    "parallel": 2,
    "abort_on_example_error": True,
    "reference_url": {},
    "backreferences_dir": "api/generated/backreferences",
    "doc_module": ("skleepkd",),
    "download_all_examples": False,
    "thumbnail_size": (800, 560),
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "write_computation_times": False,
    "default_thumb_file": str(HERE / "_static" / "logo.png"),
}

# ---------------------------------------------------------------- how it looks

html_theme = "pydata_sphinx_theme"
html_title = "skleepkd"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "skleepkd"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_version_warning_banner": False,
}
html_context = {"default_mode": "auto"}
# Pages by themselves, and pages of wide tables.
html_sidebars = {page: [] for page in ("index", "more", "project/benchmarks/**")}


def skip_routing(app, what, name, member, skip, options):
    """Leave out the ``set_..._request`` that scikit-learn adds to each class."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app):
    """Connect the function above."""
    app.connect("autodoc-skip-member", skip_routing)

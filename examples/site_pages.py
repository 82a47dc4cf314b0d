"""A hook of mkdocs: the executed notebooks of this folder become pages of the site, with their pictures.

mkdocs calls `on_files` while it gathers the pages (https://www.mkdocs.org/user-guide/configuration/#hooks). Nothing is run here;
`make notebooks` runs the notebooks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parent


def on_files(files: Files, config: Any) -> Files:
    """Adds `examples/NAME.md` and its pictures for every notebook here."""
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(notebook))
        text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)
        text = text.replace("](output_", f"]({notebook.stem}_output_")
        files.append(File.generated(config, f"examples/{notebook.stem}.md", content=text))
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, f"examples/{notebook.stem}_{name}", content=picture))
    return files

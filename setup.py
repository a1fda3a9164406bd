"""All settings are in setup.cfg."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

LINKS = ("search_spaces", "strategies", "retrain")


class SourceArchive(sdist):
    """Keeps links as links, so that the archive is the checkout, with each folder once."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for name in LINKS:
            copy = Path(base_dir, "nas_osr", name)
            shutil.rmtree(copy)
            os.symlink(f"../{name}", copy)


setup(cmdclass={"sdist": SourceArchive})

"""The two folders of a run."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import keras

from spiking.runs import files

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """The two folders of a run. Every file appears whole or not at all.

    Attributes:
        path: `<results_dir>/<run>`.
        tblogs: `<tblogs_dir>/<run>`.
    """

    path: Path
    tblogs: Path

    @classmethod
    def claim(cls, results_dir: Path, name: str, tblogs_dir: Path, title: str) -> "RunFolder":
        """Makes the folders of a new run, with the first number behind the names that makes both of them new.

        Raises:
            OSError: a folder cannot be made.
        """
        try:
            for parent in (results_dir, tblogs_dir):
                parent.mkdir(parents=True, exist_ok=True)
            for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
                folder = cls(results_dir / (name + suffix), tblogs_dir / (title + suffix))
                if folder._make():
                    return folder
        except OSError as error:
            raise OSError(
                f"A folder could not be made ({error.strerror or error}). Received: {error.filename!r}. Choose another "
                "one (a link must lead somewhere), change its permissions, or free some space."
            ) from error

    def _make(self) -> bool:
        """Makes both folders. Returns whether they are new: another process may have been quicker."""
        if any(map(os.path.lexists, (self.path, self.tblogs))):
            return False
        made = []
        for folder in dict.fromkeys((self.path, self.tblogs)):
            try:
                folder.mkdir()
            except FileExistsError:
                for each in made:
                    each.rmdir()
                return False
            made.append(folder)
        return True

    def write_json(self, name: str, content) -> None:
        """Writes strict JSON, see `files.plain`."""
        files.write_json(self.path / name, content)

    def write_text(self, name: str, text: str) -> None:
        """Writes a text."""
        files.write_text(self.path / name, text)

    def save_model(self, name: str, model: keras.Model) -> None:
        """Saves a Keras model."""
        files.write_atomically(self.path / name, model.save)


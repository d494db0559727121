"""``effssl push``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from effssl.cli._model import check_names, python_name
from effssl.shown import plain


@dataclasses.dataclass(frozen=True)
class Push:
    """Publish a model on the Hub, with a card made from what its folder knows, in one commit.

    Look at the card first, with --dry-run, and write in it above and below the generated part; that
    stays. Log in with `hf auth login`, or set HF_TOKEN. Pushing the same again changes nothing.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Model folder, or the run folder that holds it."""
    repo_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """Repository; created if it does not exist."""
    private: bool = False
    """Make the repository private if it is created."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="BRANCH")] = None
    """Branch to push to; created from main if it does not exist."""
    commit_message: str | None = None
    """Message of the commit."""
    license: Annotated[str | None, tyro.conf.arg(metavar="LICENSE")] = None
    """License of the weights, by its identifier on the Hub, such as apache-2.0; or other."""
    license_name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the license, with --license other."""
    license_link: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Address of its text, with --license other; or LICENSE for a file of the repository."""
    create_pr: bool = False
    """Open a pull request instead of changing the branch."""
    dry_run: bool = False
    """Check everything, write the card, and show what would be sent; no network."""

    def run(self) -> None:
        """Publish the model, or show what would be sent."""
        check_names(f"local-dir:{self.model}", None)
        from effssl.hub._license import check_license
        from effssl.hub.pull import find_model
        from effssl.hub.push import files_to_send, prepared, push_to_hub

        license = check_license(self.license, self.license_name, self.license_link)
        folder = find_model(f"local-dir:{self.model}")
        if self.dry_run:
            with prepared(folder, self.repo_id, license) as copy:
                for name, file in files_to_send(copy).items():
                    size = len(file) if isinstance(file, bytes) else file.stat().st_size
                    print(f"{size:12,} bytes  {plain(str(folder / name))}")
            card = plain(str(folder / "README.md"))
            print(f"nothing was sent to {plain(self.repo_id)}; read {card} before you do")
            return
        address = push_to_hub(
            folder,
            self.repo_id,
            private=self.private,
            revision=self.revision,
            commit_message=self.commit_message,
            create_pr=self.create_pr,
            license=self.license,
            license_name=self.license_name,
            license_link=self.license_link,
        )
        print(plain(address))
        if not self.create_pr:
            name = plain(python_name(self.repo_id, self.revision))
            print(f"\nimport effssl\nmodel = effssl.from_pretrained({name})")

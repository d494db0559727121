"""Write the card of a model, look at what would be sent, and publish it on the Hub.

    python examples/publish.py runs/first me/first
    python examples/publish.py runs/first me/first --send

Without --send nothing leaves this machine. Log in first with `hf auth login`, or set HF_TOKEN.
"""

from typing import Annotated

import tyro

import effssl
from effssl.cli import main as command


def main(
    folder: Annotated[str, tyro.conf.Positional],
    repo_id: Annotated[str, tyro.conf.Positional],
    license: str = "apache-2.0",
    send: bool = False,
) -> None:
    """Check the model folder, then publish it if asked to."""
    command(["push", folder, repo_id, "--license", license, "--dry-run"])
    if not send:
        print("--send publishes it")
        return
    print(effssl.push_to_hub(folder, repo_id, license=license))
    print(effssl.from_pretrained(repo_id))


if __name__ == "__main__":
    tyro.cli(main)

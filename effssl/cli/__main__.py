"""Entry point of ``python -m effssl.cli`` and ``torchrun -m effssl.cli``."""

from effssl.cli import main

if __name__ == "__main__":
    main()

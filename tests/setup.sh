#!/bin/sh
# Installs what a build (`setup.sh build`), the tests (`setup.sh test`) or the image (`setup.sh image`) need, by
# Debian package name. Prints nothing when all is there.
set -eu
case "${1:-build}" in
build) packages="gcc libc6-dev make" ;;
test) packages="gcc libc6-dev make swaks libnet-ssleay-perl python3-dkim python3 iproute2 procps" ;;
image) packages="gcc libc6-dev make qemu-system-x86 ovmf systemd-boot-efi binutils squashfs-tools mtools dosfstools e2fsprogs" ;;
*)
	echo "setup.sh: build, test or image" >&2
	exit 2
	;;
esac
missing=""
for package in $packages; do
	dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
if ! command -v cargo >/dev/null 2>&1; then
	echo "cargo is missing: install Rust 1.85 or newer (https://rustup.rs), then try again" >&2
	exit 1
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "missing Debian packages; run: sudo apt-get install$missing" >&2
	exit 1
fi

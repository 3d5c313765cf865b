#!/bin/sh
# Hands kernel and static programs to `sysimage compose`, which makes images/ringpost.img.
# Buildroot sets TARGET_DIR, BINARIES_DIR, HOST_DIR and BASE_DIR.
set -eu
stage="${BASE_DIR}/ringpost-stage"
release="$(cat "${BASE_DIR}"/build/linux-[0-9]*/include/config/kernel.release)"
board="$(dirname "$0")"
rm -rf "${stage}"
mkdir -p "${stage}/boot" "${stage}/lib/modules/${release}"
cp "${BINARIES_DIR}/bzImage" "${stage}/boot/vmlinuz-${release}"
PATH="${HOST_DIR}/bin:${HOST_DIR}/sbin:${PATH}"
export PATH
"${TARGET_DIR}/usr/bin/sysimage" compose --bare-kernel \
	--kernel "${stage}" \
	--program "${TARGET_DIR}/usr/bin/ringpost" \
	--file "${TARGET_DIR}/etc/ssl/certs/ca-certificates.crt=etc/ssl/certs/ca-certificates.crt" \
	--conf "${board}/../../../sysimage/boot.conf" \
	--out "${BINARIES_DIR}/ringpost.img"

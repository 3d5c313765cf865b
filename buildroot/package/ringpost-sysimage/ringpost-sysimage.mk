################################################################################
#
# ringpost-sysimage
#
################################################################################

RINGPOST_SYSIMAGE_VERSION = local
RINGPOST_SYSIMAGE_SITE = $(BR2_EXTERNAL_RINGPOST_PATH)/..
RINGPOST_SYSIMAGE_SITE_METHOD = local
# A workspace root can't be installed; the crate can.
RINGPOST_SYSIMAGE_SUBDIR = sysimage
RINGPOST_SYSIMAGE_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude target --exclude var --exclude out
RINGPOST_SYSIMAGE_LICENSE = MIT
RINGPOST_SYSIMAGE_LICENSE_FILES = LICENSE
# Static, so that the image needs neither loader nor libraries. Buildroot sets the
# profile by environment; these come later and win.
RINGPOST_SYSIMAGE_CARGO_ENV = \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
	CARGO_PROFILE_RELEASE_OPT_LEVEL=3 \
	CARGO_PROFILE_RELEASE_LTO=fat \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1

$(eval $(cargo-package))

################################################################################
#
# ringpost
#
################################################################################

RINGPOST_VERSION = local
RINGPOST_SITE = $(BR2_EXTERNAL_RINGPOST_PATH)/..
RINGPOST_SITE_METHOD = local
# A workspace root can't be installed; its main crate can.
RINGPOST_SUBDIR = mta
RINGPOST_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude target --exclude var --exclude out
RINGPOST_LICENSE = MIT
RINGPOST_LICENSE_FILES = LICENSE
# Static, so that the image needs neither loader nor libraries. Buildroot sets the
# profile by environment; these come later and win.
RINGPOST_CARGO_ENV = \
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
	CARGO_PROFILE_RELEASE_OPT_LEVEL=3 \
	CARGO_PROFILE_RELEASE_LTO=fat \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1

$(eval $(cargo-package))

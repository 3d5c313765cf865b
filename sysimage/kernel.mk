# The parts of the image that come from outside of cargo, and the tests that boot it.
#
#   make -f sysimage/kernel.mk kernel        fetch and unpack a kernel of the distribution
#   make -f sysimage/kernel.mk static        static programs for the guest
#   make -f sysimage/kernel.mk image         a bootable disk: $(OUT)/ringpost.img
#   make -f sysimage/kernel.mk guest-tests   boot it, look at its memory nodes, cut its power a few times
#   make -f sysimage/kernel.mk powercut      cut the power of the spool CUTS times
#
# Packages: qemu-system-x86 ovmf systemd-boot-efi mtools dosfstools squashfs-tools e2fsprogs.

OUT     ?= target/appliance
TRIPLE  := x86_64-unknown-linux-gnu
STATIC  := target/$(TRIPLE)/release
# Programs that go into the disk image beside process 1, and the configuration of its boot.
PROGRAMS ?= $(STATIC)/ringpost $(STATIC)/ringbench
CONF    ?= sysimage/boot.conf
# The authorities' certificates, from the package ca-certificates.
CERTS   ?= /etc/ssl/certs/ca-certificates.crt
CUTS    ?= 10
SEED    ?= 1

GUEST_ENV = RINGPOST_KERNEL=$(abspath $(OUT)/kernel) RINGPOST_STATIC=$(abspath $(STATIC))

.PHONY: kernel static image guest-tests powercut

kernel: $(OUT)/kernel/boot

$(OUT)/kernel/boot: | static
	$(STATIC)/sysimage fetch-kernel $(OUT)/kernel

# --target keeps build scripts and procedural macros dynamic; they can't be static.
static:
	RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols' \
		cargo build --release --target $(TRIPLE) -p ringpost-mta -p ringpost-bench -p ringpost-sysimage
	RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols' \
		cargo build --release --target $(TRIPLE) -p ringpost-queue --example spool_probe

image: kernel static
	$(STATIC)/sysimage compose --kernel $(OUT)/kernel --conf $(CONF) \
		$(foreach p,$(PROGRAMS),--program $(p)) --file $(CERTS)=$(CERTS) --out $(OUT)/ringpost.img

guest-tests: kernel static
	$(GUEST_ENV) cargo test -p ringpost-tests --test image -- --nocapture --test-threads=1

powercut: kernel static
	$(GUEST_ENV) cargo run -q -p ringpost-tests --bin powercut -- --cuts $(CUTS) --seed $(SEED) --lag-ms 8 \
		--program spool_probe --command "/bin/spool_probe /data/spool live=300"

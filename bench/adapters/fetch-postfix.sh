#!/bin/sh
# Unpacks the distribution's Postfix into target/peers/postfix without installing it: no user, no service, no queue of
# the system is touched. smtp-source and smtp-sink for cross-checks come from the same package.
# Usage: bench/adapters/fetch-postfix.sh [FOLDER]   (default target/peers)
set -eu
folder=${1:-target/peers}
mkdir -p "$folder"
cd "$folder"
if [ ! -x postfix/usr/lib/postfix/sbin/master ]; then
    apt-get download -q postfix
    dpkg-deb -x postfix_*.deb postfix
fi
LD_LIBRARY_PATH=$PWD/postfix/usr/lib/postfix postfix/usr/sbin/postconf -d mail_version 2>/dev/null

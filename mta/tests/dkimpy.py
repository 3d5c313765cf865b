#!/usr/bin/env python3
"""Verify the DKIM signatures of stored messages with dkimpy, an implementation that shares nothing with ours.

usage: dkimpy.py DIR
DIR holds *.eml files (wire form) and records.txt with one "name<TAB>TXT content" per line; no DNS is asked.
Prints one line per signature. Exit code: 0 when every signature of every message verifies, 1 when one does not,
2 for a bad call, 77 when dkimpy (Debian: python3-dkim, with python3-nacl for Ed25519) is not installed.
"""

import pathlib
import sys


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        import dkim
        import nacl  # noqa: F401  dkimpy needs it for ed25519-sha256
    except ImportError as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 77
    folder = pathlib.Path(sys.argv[1])
    records = {}
    for line in (folder / "records.txt").read_text("utf-8").splitlines():
        name, _, content = line.partition("\t")
        records[name.rstrip(".").encode()] = content.encode()

    def lookup(name, timeout=5):
        return records.get(name.rstrip(b"."))

    messages = sorted(folder.glob("*.eml"))
    failures = 0 if messages else 1
    for path in messages:
        message = path.read_bytes()
        count = sum(1 for name, _ in dkim.rfc822_parse(message)[0] if name.lower() == b"dkim-signature")
        if count == 0:
            print(f"{path.name}: no signature")
            failures += 1
        for index in range(count):
            verifier = dkim.DKIM(message)
            try:
                good = verifier.verify(idx=index, dnsfunc=lookup)
                reason = "" if good else "does not verify"
            except dkim.DKIMException as error:
                good, reason = False, str(error)
            fields = verifier.signature_fields or {}
            algorithm = fields.get(b"a", b"?").decode()
            print(f"{path.name}[{index}] {algorithm}: {'pass' if good else 'FAIL ' + reason}")
            failures += not good
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a program to which io_uring is forbidden as container runtimes forbid it: by a seccomp filter.

without_io_uring.py ERRNO PROGRAM ARGUMENT...
"""
import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
FIRST, LAST = 425, 427  # io_uring_setup, io_uring_enter, io_uring_register


def instruction(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)


refusal = ERRNO | int(sys.argv[1])
program = b"".join(
    [
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_GREATER_EQUAL, 0, 2, FIRST),
        instruction(JUMP_GREATER_EQUAL, 1, 0, LAST + 1),
        instruction(RETURN, 0, 0, refusal),
        instruction(RETURN, 0, 0, ALLOW),
    ]
)
buffer = ctypes.create_string_buffer(program)
filter_ = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0)]:
    if libc.prctl(*arguments):
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])

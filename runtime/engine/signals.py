"""Constants of signals and timers that more than one module of the engine needs."""

from __future__ import annotations

import signal
import struct

SIG_DFL, SIG_IGN = 0, 1
LAST_SIGNAL = 64
UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)

# struct kernel_sigaction, arch/x86/include/uapi/asm/signal.h: handler, flags, restorer, mask
SIGACTION = struct.Struct("<QQQQ")
# stack_t, <signal.h>: address, flags, size
STACK = struct.Struct("<QiIQ")
# struct itimerval: interval and value, each seconds and microseconds
ITIMERVAL = struct.Struct("<qqqq")
# struct itimerspec: interval and value, each seconds and nanoseconds
ITIMERSPEC = struct.Struct("<qqqq")

NS = 10**9
US = 10**6

SS_DISABLE = 2
SS_ONSTACK = 1

# Clocks that go on while nobody runs, <time.h>; the others count CPU time
RUNNING_CLOCKS = frozenset({0, 1, 7, 8, 9, 11})

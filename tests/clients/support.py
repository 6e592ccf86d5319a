"""What the Python scripts share: arguments, deadlines, and the broker's restart."""

import asyncio
import inspect
import sys
import time
import traceback

SECONDS_MAX = 15
ALL_BYTES = bytes(range(256))
MEBIBYTE = ALL_BYTES * 4096
PAYLOADS = [b"", b"hello there", ALL_BYTES, b"\r\n$5\r\nhello\r\n", MEBIBYTE]

port = int(sys.argv[1])
# The version of RESP as a number, or a word for another protocol.
protocol = int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2]
password = sys.argv[3] if len(sys.argv) > 3 else None


def equal(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what}: got {short(got)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]}... ({len(text)} characters)"


def expect_error(kind, part, call):
    """The call must raise this kind of error, with this in its text."""
    try:
        got = call()
    except kind as error:
        if part not in str(error):
            raise AssertionError(f"wanted an error with {part!r}, got {error!r}") from error
        return
    raise AssertionError(f"wanted an error with {part!r}, got {short(got)}")


def until(what, check):
    """Calls until it is true. Each call is to wait for something by itself, or be a round trip."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        result = check()
        if result:
            return result
    raise AssertionError(f"not within {SECONDS_MAX} s: {what}")


def restart_broker():
    print("@restart", flush=True)
    equal(sys.stdin.readline(), "@done\n", "the broker's restart")


def run(namespace):
    """Calls the functions that begin with `check_`, in the file's order; one that fails stops no other."""
    wrong = []
    for name, check in namespace.items():
        if not name.startswith("check_"):
            continue
        started = time.monotonic()
        try:
            result = check()
            if inspect.isawaitable(result):
                asyncio.run(within(result))
        except Exception:
            traceback.print_exc()
            wrong.append(name)
        print(f"{name}: {time.monotonic() - started:.1f} s")
    if wrong:
        sys.exit(f"FAILED with protocol {protocol}: {', '.join(wrong)}")


async def within(awaitable):
    async with asyncio.timeout(2 * SECONDS_MAX):
        await awaitable

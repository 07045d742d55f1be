#!/bin/sh
# Installs clang 19 for the Metal emulator of the tests, on Debian as root. Elsewhere it prints what
# to do, and the tests report what they skip.
set -u
packages="clang-19 libclang-rt-19-dev llvm-19"

command -v clang++-19 >/dev/null 2>&1 && exit 0
if [ "$(uname -s)" = Darwin ]; then
    exit 0 # Metal itself is there; the emulator is for Linux
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    echo "emulator: clang 19 is missing, so the kernels will not be run. On Debian, as root:" \
        "apt-get install $packages" >&2
    exit 0
fi
echo "emulator: installing $packages"
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages; } >/dev/null 2>&1 ||
    echo "emulator: $packages could not be installed, so the kernels will not be run" >&2

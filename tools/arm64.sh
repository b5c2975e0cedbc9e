#!/usr/bin/env bash
# The kernels under NEON: build xent for arm64 on another Linux machine, test it, and print the table of largest errors.
#
#     tools/arm64.sh [--cross] [--mirror URL] [--suite NAME] FOLDER [COMMAND ...]
#
# COMMAND is run instead of the tests and the table, as one for arm64: `python3 -m pytest tests/kernels/test_half.py`.
#
# FOLDER becomes the root of a Debian system for arm64, from packages that debootstrap chooses, downloads and verifies
# (1 GB; NumPy and the libraries of the tests come from pip). It is made once. What is committed is built and tested;
# the modules are compiled again only where their sources differ.
#
# --cross   let this machine's compiler for arm64 do the compiler's work, ten times sooner; all the rest is emulated
# --mirror  where the packages come from, by default where apt gets those of the suite
# --suite   the Debian release, by default that of this machine
#
# Needs debootstrap, dpkg, qemu-user-static and pip; for --cross also gcc-aarch64-linux-gnu of the same release. It does
# not need root, and registers nothing with the machine: since version 6.7, Linux has a table of interpreters for each
# user namespace, and here the one of this script's own namespace says that qemu runs programs for arm64. With an older
# kernel, the machine itself must have been told so (Debian's qemu-user-static does).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

usage() { sed -n '2,/^set/{/^set/d;s/^# \?//p}' "$0"; exit 2; }
stop() { echo "$0: $*" >&2; exit 1; }

cross='' mirror='' suite=''
while [ $# -gt 0 ]; do
    case $1 in
        --cross) cross=1; shift ;;
        --mirror) mirror=${2:?--mirror needs a URL}; shift 2 ;;
        --suite) suite=${2:?--suite needs a name}; shift 2 ;;
        -*) usage ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || usage
mkdir -p "$1"
root=$(cd "$1" && pwd)
shift

python=${PYTHON:-python3}
qemu=$(command -v qemu-aarch64-static) || stop "qemu-aarch64-static was not found (Debian: apt install qemu-user-static)"
for program in debootstrap dpkg-deb unshare git; do
    command -v "$program" >/dev/null || stop "$program was not found (Debian: apt install debootstrap dpkg util-linux git)"
done
"$python" -m pip --version >/dev/null || stop "$python has no pip (Debian: apt install python3-pip)"
"$python" -c 'import tomllib' 2>/dev/null || stop "$python is older than 3.11; set PYTHON to a newer one"
cc1=$(aarch64-linux-gnu-gcc -print-prog-name=cc1 2>/dev/null || true)
[ -z "$cross" ] || [ -n "$cc1" ] || stop "--cross needs aarch64-linux-gnu-gcc (Debian: apt install gcc-aarch64-linux-gnu)"
suite=${suite:-$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)}

# Where apt gets the packages of the suite.
mirror_of_apt() {
    apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' | sed -n "s/^$suite //p" | head -n 1
}

# Run a command of the root, in namespaces of its own. $1 is the folder to start in. The first line of magic and mask in
# the kernel's format for registrations describes an executable for arm64.
in_root() {
    unshare --user --map-root-user --mount --propagation private -- bash -euc '
        root=$1 qemu=$2 cc1=$3 folder=$4
        shift 4
        table=/proc/sys/fs/binfmt_misc
        if mount -t binfmt_misc none "$table" 2>/dev/null; then
            magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
            mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
            printf %s ":arm64:M::$magic:$mask:$qemu:F" >"$table/register"
        elif ! grep -qs "^flags:.*F" "$table/qemu-aarch64"; then
            echo "This kernel runs no programs for arm64: it is older than 6.7, and qemu is not registered" >&2
            exit 1
        fi
        for part in dev proc sys; do mount --rbind "/$part" "$root/$part"; done
        if [ -n "$cc1" ]; then          # a program of this machine needs its libraries, and finds headers near itself
            for part in "$(dirname "$cc1")" {/usr,}/lib/"$(uname -m)"-linux-gnu /lib64; do
                mkdir -p "$root$part"
                mount --bind "$part" "$root$part"
            done
            mount --bind "$cc1" "$(echo "$root"/usr/lib/gcc/aarch64-linux-gnu/*/cc1)"
        fi
        exec chroot "$root" /usr/bin/env -i -C "$folder" PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp LANG=C.UTF-8 \
            PYTHONPATH=/xent/src:/packages PYTHONDONTWRITEBYTECODE=1 "$@"
    ' in_root "$root" "$qemu" "$@"
}

# Packages are unpacked, not installed: compiler and Python need none of their scripts, which would be emulated, too.
make_root() {
    local package
    mirror=${mirror:-$(mirror_of_apt)}
    [ -n "$mirror" ] || stop "apt has no packages of $suite; give a --mirror that has them for arm64, or another --suite"
    debootstrap --download-only --arch=arm64 --variant=minbase --include=python3,python3-dev,gcc,libc6-dev \
        "$suite" "$root" "$mirror" >"$root.log" 2>&1 || { tail "$root.log"; stop "debootstrap failed, see $root.log"; }
    for package in "$root"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --no-same-owner --keep-directory-symlink -C "$root"
    done
    rm -r "$root/var/cache/apt/archives" "$root.log"
    mkdir -p "$root"/{dev,proc,sys,tmp,xent}
    cp -L /etc/hosts "$root/etc/hosts"
    touch "$root/.unpacked"
}

# NumPy and what the tests need, for the Python of the root, from the files of this commit that say so.
add_packages() {
    local version platform platforms=()
    version=$(basename "$(echo "$root"/usr/bin/python3.*[0-9])" | sed s/python//)
    for platform in 2014 _2_17 _2_26 _2_27 _2_28; do platforms+=(--platform "manylinux${platform}_aarch64"); done
    rm -rf "$root/packages"
    "$python" - "$here/pyproject.toml" >"$root/requirements.txt" <<'PY'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    settings = tomllib.load(file)
project = settings["project"]
print(*settings["build-system"]["requires"], *project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")
PY
    "$python" -m pip install --quiet --no-warn-conflicts --target "$root/packages" --only-binary=:all: --implementation cp \
        --python-version "$version" "${platforms[@]}" -r "$root/requirements.txt"
    touch "$root/.packages"
}

# What is committed, and the modules, which are compiled again where what they are made of differs.
build() {
    local sources
    sources=$(git -C "$here" rev-parse HEAD:setup.py HEAD:src/xent/_kernels.pyx HEAD:src/xent/_core)
    rm -rf "$root/xent"
    mkdir "$root/xent"
    git -C "$here" archive HEAD | tar -x -C "$root/xent"
    if [ "$(cat "$root/.built" 2>/dev/null)" = "$sources" ]; then
        tar -x -f "$root/modules.tar" -C "$root/xent"
    else
        SECONDS=0
        in_root "${cross:+$cc1}" /xent python3 setup.py -q build_ext --inplace
        echo "compiled in $SECONDS s"
        (cd "$root/xent" && find src -name '*.so' -print0 | tar -c -f "$root/modules.tar" --null -T -)
        echo "$sources" >"$root/.built"
    fi
}

[ -e "$root/.unpacked" ] || make_root
[ -e "$root/.packages" ] || add_packages
build
in_root '' /xent python3 - <<'PY'
import platform, sys
import numpy, xent
print(f"{platform.machine()}, Python {sys.version.split()[0]}, NumPy {numpy.__version__}, xent.isa(): {xent.isa()}")
PY
if [ $# -gt 0 ]; then
    in_root '' /xent "$@"
    exit
fi
status=0
in_root '' /xent python3 -m pytest -q -p no:cacheprovider tests/kernels tests/losses || status=$?
in_root '' /xent python3 -m pytest -q -p no:cacheprovider -s -m deep tests/kernels/test_accuracy.py -k table || status=$?
exit "$status"

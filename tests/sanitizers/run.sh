#!/usr/bin/env bash
# The tests under a sanitizer of gcc, with one instruction set after the other.
#
#     tests/sanitizers/run.sh address                 # AddressSanitizer and UndefinedBehaviorSanitizer together
#     tests/sanitizers/run.sh thread                  # ThreadSanitizer
#     tests/sanitizers/run.sh address avx2 -- tests/losses/test_binary.py -x      # one set; arguments of pytest
#
# With the python that comes first, which needs the packages of '.[dev]'. Builds a copy of the checkout in
# SANITIZER_FOLDER (if not given, a temporary one, which is kept), and there only what has changed. A build takes several
# minutes and 3 GB of memory; the tests take 5 to 10 times as long as without a sanitizer.
set -euo pipefail

kind=${1:-}
shift || true
sets=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do sets+=("$1"); shift; done
[ $# = 0 ] || shift
case $kind in
    address) flags="-fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=undefined" library=libasan.so ;;
    thread) flags="-fsanitize=thread" library=libtsan.so ;;
    *) echo "usage: $0 address|thread [baseline|avx2|avx512]... [-- arguments of pytest]"; exit 2 ;;
esac

here=$(cd "$(dirname "$0")/../.." && pwd)
folder=${SANITIZER_FOLDER:-$(mktemp -d)}
mkdir -p "$folder"
(cd "$here" && git ls-files -z | tar c --null -T -) | tar x -C "$folder"
cd "$folder"

# After the flags of setup.py, so that these win. CPython is compiled with -fwrapv, other programs are not: here signed
# overflow is undefined.
printf '#!/bin/sh\nexec gcc "$@" -O0 -g1 -fno-omit-frame-pointer %s\n' "$flags" >cc
chmod +x cc
CC=$folder/cc python setup.py -q build_ext --inplace

export PYTHONPATH=$folder/src PYTHONDONTWRITEBYTECODE=1 XENT_NUM_THREADS=2
if [ "$kind" = address ]; then
    # Python's own allocator would hide what lies beside an array. At exit Python leaves much in use: that is no leak.
    export PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
    tests=(
        tests/kernels tests/losses
        --ignore=tests/kernels/test_memory.py               # measures memory, of which the sanitizer takes more
        --ignore=tests/losses/test_many_elements.py         # gigabytes, which take three times as many
        --ignore=tests/kernels/test_scipy.py                # SciPy's own tests
        --deselect=tests/kernels/test_output_cache.py::test_memory_goes_back_to_the_system
    )
else
    # Python and NumPy are not instrumented, but what orders their threads (locks, conditions, thread starts) is seen. A
    # process with a report ends with the exit code 66, which fails the test that has started it, or this script.
    export TSAN_OPTIONS="exitcode=66 die_after_fork=0 allocator_may_return_null=1"
    tests=(
        tests/kernels/test_parallel.py tests/kernels/test_output_cache.py
        tests/losses/test_same_bits.py::test_sums_on_several_threads
        -k "not joblib and not multiprocessing"             # start processes with imports that take minutes
        --deselect=tests/kernels/test_output_cache.py::test_memory_goes_back_to_the_system
    )
fi
[ ${#sets[@]} -gt 0 ] || sets=(baseline avx2 avx512)
[ $# -gt 0 ] || set -- "${tests[@]}"

# The C++ library too: else a sanitizer that does not find it at the start ends at the first exception, as of JAX.
preload="$(gcc -print-file-name=$library) $(gcc -print-file-name=libstdc++.so)"
failed=()
for set in "${sets[@]}"; do
    echo "=== $kind, $set"
    XENT_ISA=$set LD_PRELOAD=$preload python -m pytest -q -p no:cacheprovider "$@" || failed+=("$set")
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }

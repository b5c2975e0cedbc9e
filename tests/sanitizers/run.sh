#!/usr/bin/env bash
# The tests under a sanitizer of gcc, for one instruction set after the other. See tests/fuzz/README.md.
#
#     tests/sanitizers/run.sh address            # AddressSanitizer and UndefinedBehaviorSanitizer together
#     tests/sanitizers/run.sh thread             # ThreadSanitizer
#     tests/sanitizers/run.sh address avx2 -- -k binary       # one set; options and tests for pytest
#
# Builds a copy of the checkout in SANITIZER_FOLDER (a temporary folder if not given; one that exists is compiled again
# only where a source is newer), with the python that comes first, which needs the packages of '.[dev]'. Prints a line
# for each set. Compiles for minutes: every set is one large file.
set -euo pipefail

kind=${1:?address or thread}
shift
sets=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do sets+=("$1"); shift; done
[ $# = 0 ] || shift
case $kind in
    address) flags="-fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=undefined" library=libasan.so ;;
    thread) flags="-fsanitize=thread" library=libtsan.so ;;
    *) echo "no such sanitizer: $kind"; exit 2 ;;
esac

here=$(cd "$(dirname "$0")/../.." && pwd)
folder=${SANITIZER_FOLDER:-$(mktemp -d)}
mkdir -p "$folder"
(cd "$here" && git ls-files -z | tar c --null -T -) | tar x --keep-newer-files -C "$folder" 2>/dev/null
cd "$folder"

# After the flags of setup.py, so that these win. CPython is compiled with -fwrapv, other programs are not.
printf '#!/bin/sh\nexec gcc "$@" %s\n' "-O0 -g1 -fno-omit-frame-pointer $flags" >cc
chmod +x cc
CC=$folder/cc python setup.py -q build_ext --inplace

export PYTHONPATH=$folder/src PYTHONDONTWRITEBYTECODE=1 XENT_NUM_THREADS=2
export LD_PRELOAD=$(gcc -print-file-name=$library) UBSAN_OPTIONS=print_stacktrace=1
if [ "$kind" = address ]; then
    # Python's own allocator would hide what lies beside an array. It frees little at exit: no leaks are looked for.
    export PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0
    tests=(tests/kernels tests/losses)
    # The sanitizer's own memory is no less than what these forbid, or it forbids what these do.
    leave_out=(
        --ignore=tests/kernels/test_cpus.py             # no kernels
        --deselect=tests/kernels/test_golden_bits.py::test_other_machines   # builds modules of its own
        -k "not memory and not copied and not scratch"  # measures memory, of which the sanitizer takes more
    )
else
    # Python and NumPy are not instrumented: their locks and the memory that they pass from thread to thread are unknown
    # to the sanitizer, which would report them. Only what our own modules do is of interest (see report.supp).
    export TSAN_OPTIONS="suppressions=$folder/tests/sanitizers/report.supp:exitcode=66:report_signal_unsafe=0"
    tests=(tests/kernels/test_parallel.py tests/losses/test_same_bits.py tests/losses/test_batch_invariance.py)
    leave_out=()
fi
[ ${#sets[@]} -gt 0 ] || sets=(baseline avx2 avx512)
[ $# -gt 0 ] || set -- "${tests[@]}" "${leave_out[@]}"

failed=0
for set in "${sets[@]}"; do
    echo "=== $kind, $set"
    XENT_ISA=$set python -m pytest -q -p no:cacheprovider "$@" || failed=1
done
exit "$failed"

#!/bin/sh
# Tests Kigo on a GPU host, out of what `make gpu-bundle` built: no Go and no
# repository is needed, only an NVIDIA driver, and xz or python3 to unpack.
#
#   gpu-bundle/gpu-test.sh                  all stages but sanitizer
#   gpu-bundle/gpu-test.sh cuda verify      these stages
#   gpu-bundle/gpu-test.sh sanitizer        compute-sanitizer over every kernel
#   gpu-bundle/gpu-test.sh unpack           only unpack
#
# It prints a line for each stage, and ends with 1 if anything failed. A test that is
# skipped because it finds no GPU has failed.
#
#   BUNDLE   where to unpack (default: the folder "unpacked" beside this script)
#   MODELS   a folder with the models of `make models`; default: $BUNDLE/models, or
#            models beside this folder. A test whose model is not there is skipped,
#            and has failed if KIGO_REQUIRE_MODELS=1.
#   OUT      a folder for gpu-test.log, which holds all output, and summary.txt
#   COMPUTE_SANITIZER   the program, where it is not in the usual places
set -u
here=$(cd "$(dirname "$0")" && pwd)
BUNDLE=${BUNDLE:-$here/unpacked}
out=${OUT:-$BUNDLE/logs}
stages=${*:-driver cuda devices model verify perplexity engine server faults kigo}

unpack() {
	if [ -f "$BUNDLE/VERSION" ] && [ ! "$here/bundle.tar.xz" -nt "$BUNDLE/.unpacked" ]; then
		return
	fi
	mkdir -p "$BUNDLE"
	if command -v xz >/dev/null 2>&1; then
		xz -dc "$here/bundle.tar.xz" | tar -C "$BUNDLE" -xf -
	else
		python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$here/bundle.tar.xz" "$BUNDLE"
	fi || exit 1
	touch "$BUNDLE/.unpacked"
}

find_models() {
	for dir in "${MODELS:-}" "$here/models" "$here/../models"; do
		if [ -n "$dir" ] && [ -d "$dir" ] && [ ! -e "$BUNDLE/models" ]; then
			ln -s "$(cd "$dir" && pwd)" "$BUNDLE/models"
		fi
	done
}

failed=0

say() { # to the terminal and the summary
	printf '%s\n' "$*" | tee -a "$out/summary.txt"
}

# report NAME LOG CODE SECONDS: one line on what go test's binaries printed.
report() {
	passed=$(grep -c '^ *--- PASS' "$2")
	bad=$(grep -c '^ *--- FAIL' "$2")
	skipped=$(grep -c '^ *--- SKIP' "$2")
	no_gpu=$(grep -c '_test.go:[0-9]*: no GPU:' "$2")
	no_model=$(grep -c '_test.go:[0-9]*: no model:' "$2")
	verdict=ok
	if [ "$3" -ne 0 ] || [ "$bad" -gt 0 ] || [ "$no_gpu" -gt 0 ] || [ "$passed" -eq 0 ]; then
		verdict=FAILED
	elif [ "$no_model" -gt 0 ] && [ "${KIGO_REQUIRE_MODELS:-}" = 1 ]; then
		verdict=FAILED
	fi
	say "$(printf '%-10s %-6s %4d passed, %d failed, %d skipped (%d without a model), %d s' "$1" "$verdict" "$passed" "$bad" "$skipped" "$no_model" "$4")"
	if [ "$verdict" = FAILED ]; then
		failed=1
		grep -E '^ *--- FAIL|no GPU:|no model:|^panic|^fatal' "$2" | sort | uniq -c | head -20 | tee -a "$out/summary.txt"
	fi
}

# tests NAME PACKAGE ARGUMENTS: a test binary in its own folder, as go test runs it.
tests() {
	name=$1 package=$2
	shift 2
	log=$out/.$name.log
	begun=$(date +%s)
	(cd "$BUNDLE/$package" && "./$(basename "$package").test" -test.v -test.timeout "${TIMEOUT:-540s}" "$@") >"$log" 2>&1
	code=$?
	report "$name" "$log" "$code" $(($(date +%s) - begun))
	{ printf '\n===== %s: %s %s\n' "$name" "$package" "$*"; cat "$log"; } >>"$out/gpu-test.log"
	rm -f "$log"
}

# command NAME ARGUMENTS: kigo itself.
command_ok() {
	name=$1
	shift
	log=$out/.$name.log
	"$@" >"$log" 2>&1
	code=$?
	if [ $code -eq 0 ]; then
		say "$(printf '%-10s %-6s %s' "$name" ok "$(tail -1 "$log")")"
	else
		say "$(printf '%-10s %-6s exit code %d: %s' "$name" FAILED $code "$(tail -1 "$log")")"
		failed=1
	fi
	{ printf '\n===== %s: %s\n' "$name" "$*"; cat "$log"; } >>"$out/gpu-test.log"
	rm -f "$log"
}

# The names of the tests that compute-sanitizer runs: TestEveryKernel reaches every
# kernel with steps of few rows, which the same test without a GPU proves.
sanitizer_tests='^TestEveryKernel$'

sanitizer() {
	program=${COMPUTE_SANITIZER:-}
	for candidate in compute-sanitizer /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda/compute-sanitizer/compute-sanitizer; do
		[ -n "$program" ] || program=$(command -v "$candidate")
	done
	if [ -z "$program" ]; then
		say "sanitizer  FAILED there is no compute-sanitizer; COMPUTE_SANITIZER can say where it is"
		failed=1
		return
	fi
	for tool in memcheck racecheck; do
		log=$out/.$tool.log
		begun=$(date +%s)
		(cd "$BUNDLE/engine/device/cuda" && "$program" --tool "$tool" --error-exitcode 9 --print-limit 20 \
			./cuda.test -test.v -test.timeout 540s -test.run "$sanitizer_tests") >"$log" 2>&1
		code=$?
		report "$tool" "$log" "$code" $(($(date +%s) - begun))
		grep -E '=========.*(ERROR|RACECHECK) SUMMARY' "$log" | tee -a "$out/summary.txt"
		{ printf '\n===== %s\n' "$tool"; cat "$log"; } >>"$out/gpu-test.log"
		rm -f "$log"
	done
}

unpack
if [ "$stages" = unpack ]; then
	exit 0
fi
find_models
mkdir -p "$out"
: >"$out/summary.txt"
: >"$out/gpu-test.log"

export KIGO_REQUIRE_GPU=1 KIGO_TEST_DEVICE="${KIGO_TEST_DEVICE:-cuda}"
if [ "${KIGO_REQUIRE_MODELS:-}" != 1 ]; then
	export KIGO_TEST_MODELS=optional
fi
smollm2=$BUNDLE/models/SmolLM2-135M-Instruct.Q4_1.gguf

say "kigo $(cat "$BUNDLE/VERSION") on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
for stage in $stages; do
	case $stage in
	driver) tests driver engine/device/cuda/driver -test.run GPU ;;
	cuda) tests cuda engine/device/cuda ;;
	devices) tests devices engine/device/devices ;;
	model) tests model engine/model ;;
	verify) tests verify engine/verify ;;
	perplexity) tests perplexity engine/perplexity ;;
	engine) tests engine engine ;;
	# Those that run a real engine; others build tools with Go, or read sources.
	server) tests server server -test.run 'Haiku|Lesson|Execute|Tokenize|Drain|RealRequests|TracePhases|WordFinder' ;;
	faults) tests faults server/cli -test.run 'GPU|Verify|Perplexity' ;;
	kigo)
		if [ -f "$smollm2" ]; then
			command_ok kigo "$BUNDLE/kigo" verify "$smollm2" --device cuda
		elif [ "${KIGO_REQUIRE_MODELS:-}" = 1 ]; then
			say "kigo       FAILED there is no $smollm2"
			failed=1
		else
			"$BUNDLE/kigo" synth "$out/.tiny.gguf" --shape tiny >/dev/null
			command_ok kigo "$BUNDLE/kigo" verify "$out/.tiny.gguf" --device cuda
			rm -f "$out/.tiny.gguf"
		fi
		;;
	sanitizer) sanitizer ;;
	*)
		say "there is no stage $stage"
		failed=1
		;;
	esac
done
exit $failed

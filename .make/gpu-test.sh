#!/bin/sh
# Tests Kigo on a GPU host, out of what `make gpu-bundle` built: no Go and no
# repository is needed, only an NVIDIA driver, and xz or python3 to unpack.
#
#   gpu-bundle/gpu-test.sh                  all stages but compute-sanitizer's
#   gpu-bundle/gpu-test.sh cuda verify      these stages
#   gpu-bundle/gpu-test.sh sanitizer        compute-sanitizer over every kernel: memcheck, racecheck
#   gpu-bundle/gpu-test.sh explore racecheck   first find out with what racecheck works
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
#   RACE_PLAIN, RACE_OPTIONS   what the device does without under racecheck
#            (plainVariable in engine/device/cuda/kernels_test.go), options of the tool
#   RACE_JOBS, RACE_EACH, RACE_SECONDS   racechecks at a time; seconds for each, for all
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

# compute-sanitizer runs TestEveryKernel, which reaches every kernel with steps of few
# rows; the same test without a GPU proves that it does.

find_sanitizer() {
	program=${COMPUTE_SANITIZER:-}
	for candidate in compute-sanitizer /usr/local/cuda/bin/compute-sanitizer /usr/local/cuda/compute-sanitizer/compute-sanitizer; do
		[ -n "$program" ] || program=$(command -v "$candidate")
	done
	if [ -z "$program" ]; then
		say "$1 FAILED there is no compute-sanitizer; COMPUTE_SANITIZER can say where it is"
		failed=1
		return 1
	fi
}

memcheck() {
	find_sanitizer memcheck || return
	log=$out/.memcheck.log
	begun=$(date +%s)
	(cd "$BUNDLE/engine/device/cuda" && "$program" --tool memcheck --error-exitcode 9 --print-limit 20 \
		./cuda.test -test.v -test.timeout 540s -test.run '^TestEveryKernel$') >"$log" 2>&1
	code=$?
	report memcheck "$log" "$code" $(($(date +%s) - begun))
	grep -E '=========.*ERROR SUMMARY' "$log" | tee -a "$out/summary.txt"
	{ printf '\n===== memcheck\n'; cat "$log"; } >>"$out/gpu-test.log"
	rm -f "$log"
}

# race FILE SECONDS CASE PLAIN OPTIONS: a case of TestEveryKernel under racecheck, without
# what PLAIN lists (KIGO_TEST_PLAIN; - is nothing). One line in FILE.line, what else
# should be known in FILE.more. OPTIONS are the tool's, or VARIABLE=VALUE.
race() {
	file=$1 seconds=$2 case=$3 plain=$4 options=$5
	export KIGO_TEST_PLAIN="${plain#-}"
	set --
	for o in $options; do
		case $o in
		[A-Z]*=*) export "${o?}" ;;
		*) set -- "$@" "$o" ;;
		esac
	done
	begun=$(date +%s)
	(cd "$BUNDLE/engine/device/cuda" && timeout -k 5 "$seconds" "$program" "$@" --tool racecheck --error-exitcode 9 --print-limit 20 \
		./cuda.test -test.v -test.timeout "$((seconds - 3))s" -test.run "^TestEveryKernel\$/^$case\$") >"$file.log" 2>&1
	code=$?
	verdict=failed
	if grep -q 'Internal Sanitizer Error' "$file.log"; then
		verdict=internal
	elif [ $code -eq 124 ] || [ $code -eq 137 ] || grep -q '^panic: test timed out' "$file.log"; then
		verdict='time'
	elif grep -q "^ *--- PASS: TestEveryKernel/$case " "$file.log"; then
		grep -q 'RACECHECK SUMMARY: [1-9]' "$file.log" && verdict=hazards
		[ $code -eq 0 ] && grep -q 'RACECHECK SUMMARY: 0 hazards' "$file.log" && verdict=clean
	fi
	printf '%-14s %-34s %-9s code %3d, %2d s  %s\n' "$case" "$plain" "$verdict" $code $(($(date +%s) - begun)) "$options" >"$file.line"
	{
		grep -E '_test\.go:[0-9]+: |^panic' "$file.log" | grep -v ': kernels: ' | head -2
		grep -E '=========.*(Race reported|Potential|Warning|Error|Deadlock|SUMMARY: [1-9])' "$file.log" | sort | uniq -c | sort -rn | head -6
		case $verdict in time | failed) tail -3 "$file.log" ;; esac
	} | cut -c1-220 | sed 's/^ */    /' >"$file.more"
}

# races SUMMARY SECONDS EACH: runs what stdin lists, CASE PLAIN OPTIONS in a line, a few at
# a time (RACE_JOBS; one a core, at most 10), until so many seconds have passed. With
# RACE_ENOUGH=1 it ends when the first has shown that nothing needs to be left out.
races() {
	jobs=${RACE_JOBS:-$(nproc)}
	[ -n "${RACE_JOBS:-}" ] || [ "$jobs" -le 10 ] || jobs=10
	until=$(($(date +%s) + $2)) lines=0
	while :; do
		batch=0
		while [ "$batch" -lt "$jobs" ] && read -r case plain options; do
			batch=$((batch + 1)) lines=$((lines + 1))
			left=$((until - $(date +%s)))
			if [ "$left" -lt 15 ]; then
				printf '%-14s %-34s not run: no time is left\n' "$case" "$plain" >"$out/.race.$lines.line"
			else
				(race "$out/.race.$lines" "$((left < $3 ? left : $3))" "$case" "$plain" "$options") </dev/null &
			fi
		done
		[ "$batch" -gt 0 ] || break
		wait
		n=$((lines - batch))
		while [ "$n" -lt "$lines" ]; do
			n=$((n + 1))
			cat "$out/.race.$n.line" | tee -a "$1"
			if [ -f "$out/.race.$n.log" ]; then
				tee -a "$1" <"$out/.race.$n.more"
				{ printf '\n===== racecheck '; cat "$out/.race.$n.line" "$out/.race.$n.log"; } >>"$out/gpu-test.log"
			fi
		done
		if [ "${RACE_ENOUGH:-}" = 1 ] && grep -qE ' (clean|hazards) ' "$out/.race.1.line"; then
			break
		fi
	done
}

# explore finds out what keeps racecheck from its work: one case, without this and
# that. Of what works, racecheck then takes what leaves out least.
explore() {
	find_sanitizer explore || return
	rm -f "$out"/.race.*
	say "explore    $("$program" --version | grep -i '^version'), in $out/explore.txt"
	: >"$out/explore.txt"
	while read -r line; do
		echo "${RACE_CASE:-heads_of_64} $line"
	done <<-'END' | RACE_ENOUGH=1 races "$out/explore.txt" "${RACE_SECONDS:-230}" "${RACE_EACH:-40}"
		-
		launch
		launch,graphs
		memory,launch,graphs,cluster,sync
		memory
		graphs
		cluster
		sync
		- --force-blocking-launches
		- --check-bulk-copy no --check-warpgroup-mma no
		- --racecheck-memcpy-async no
		- NV_COMPUTE_SANITIZER_RACECHECK_INDIRECT_BARRIER_TRACKING=0
		memory,launch
		launch,cluster
		memory,launch,graphs
		launch,graphs,cluster
		memory,launch,graphs,cluster
		launch,graphs,sync --num-cuda-barriers 64
		memory,launch,graphs,cluster,sync --kernel-name kns=prepare
		memory,launch,graphs,cluster,sync --kernel-name kns=nothing
	END
	best=$(grep -hE ' (clean|hazards) ' "$out"/.race.*.line | grep -v kernel-name |
		awk '{ sub(/ code .* s  /, " "); n = length($2 $4 $5 $6 $7 $8); if (!least || n < least) { least = n; $1 = $3 = ""; best = $0 } } END { print best }')
	rm -f "$out"/.race.*
	if [ -z "$best" ]; then
		say "explore    FAILED nothing works"
		failed=1
		return
	fi
	RACE_PLAIN=$(echo "$best" | awk '{ print $1 }')
	RACE_OPTIONS=$(echo "$best" | awk '{ $1 = ""; print }')
	say "explore    ok     with RACE_PLAIN=$RACE_PLAIN RACE_OPTIONS='${RACE_OPTIONS# }'"
}

# racecheck runs every case in a process of its own, so that one that does not come to
# its end hides no other.
racecheck() {
	find_sanitizer racecheck || return
	rm -f "$out"/.race.*
	begun=$(date +%s)
	: >"$out/racecheck.txt"
	(cd "$BUNDLE/engine/device/cuda" && KIGO_TEST_PLAIN='' ./cuda.test -test.v -test.run '^TestEveryKernelIsReached$') >"$out/.race.all"
	cases=$(sed -n 's/^=== RUN  *TestEveryKernelIsReached\///p' "$out/.race.all")
	for c in $cases; do
		echo "$c ${RACE_PLAIN:--} ${RACE_OPTIONS:-}"
	done | races "$out/racecheck.txt" "${RACE_SECONDS:-500}" "${RACE_EACH:-90}"
	for n in "$out"/.race.*.line; do
		grep -qE ' (clean|hazards) ' "$n" && kernels_of "${n%line}log"
	done | sort -u >"$out/.race.reached"
	kernels_of "$out/.race.all" | sort -u >"$out/.race.wanted"
	missing=$(comm -13 "$out/.race.reached" "$out/.race.wanted" | tr '\n' ' ')
	all=$(echo "$cases" | wc -w) clean=$(grep -c ' clean ' "$out/racecheck.txt")
	verdict=ok
	if [ "$all" -eq 0 ] || [ "$clean" -ne "$all" ] || [ -n "$missing" ]; then
		verdict=FAILED failed=1
	fi
	say "$(printf '%-10s %-6s %d of %d cases clean, %d of %d kernels looked at, %d s; %s' racecheck $verdict "$clean" "$all" \
		"$(comm -12 "$out/.race.reached" "$out/.race.wanted" | wc -l)" "$(wc -l <"$out/.race.wanted")" $(($(date +%s) - begun)) "$out/racecheck.txt")"
	[ -z "$missing" ] || say "not looked at: $missing"
	rm -f "$out"/.race.*
}

# kernels_of LOG: the kernels that TestEveryKernel says it has launched.
kernels_of() { sed -n 's/^.*_test\.go:[0-9]*: kernels: //p' "$1" | tr ' ' '\n'; }

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
	sanitizer)
		memcheck
		racecheck
		;;
	memcheck) memcheck ;;
	racecheck) racecheck ;;
	explore) explore ;;
	*)
		say "there is no stage $stage"
		failed=1
		;;
	esac
done
exit $failed

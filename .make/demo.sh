#!/bin/sh
# Serves the demo model, shows a haiku being streamed through the gRPC API, and
# keeps serving until Ctrl-C. With KIGO_RUN_ONCE=1 it ends after the haiku.
set -eu
cd "$(dirname "$0")/.."

model=models/SmolLM2-135M-Instruct.Q4_1.gguf
address=${KIGO_LISTEN:-127.0.0.1:50051}
http=${KIGO_HTTP_LISTEN:-127.0.0.1:8080}

# The current minute in words: no recorded answer would fit.
minute_in_words() {
	minute=$(date +%M)
	minute=${minute#0}
	set -- zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen \
		fifteen sixteen seventeen eighteen nineteen
	if [ "$minute" -lt 20 ]; then
		shift "$minute"
		echo "$1"
		return
	fi
	ones=$((minute % 10))
	shift "$ones"
	one=$1
	set -- twenty thirty forty fifty
	shift $((minute / 10 - 2))
	if [ "$ones" -eq 0 ]; then echo "$1"; else echo "$1-$one"; fi
}

demo() { # $1: the server's process id
	until ./kigo health --server "$address" >/dev/null 2>&1; do
		kill -0 "$1" 2>/dev/null || return 1
		sleep 0.1
	done
	prompt="Write a haiku about the sea. Use the word \"$(minute_in_words)\" in it."
	printf '\n$ kigo run --server %s '\''%s'\''\n\n' "$address" "$prompt"
	./kigo run --server "$address" --max-tokens 64 "$prompt" </dev/null
}

next() {
	cat <<END

The server keeps running; Ctrl-C stops it. In another terminal, try:

  ./kigo run                     (a conversation)
  ./kigo health
  ./kigo run --server $address 'Why is the sky blue?'
  grpcurl -plaintext -d '{"text": "The sea", "max_tokens": 20}' $address kigo.v1.InferenceService/Execute
  curl -N -H 'Content-Type: application/json' -d '{"prompt": "The sea", "max_tokens": 20}' http://$http/execute

END
}

if [ "${KIGO_RUN_ONCE:-}" = 1 ]; then
	./kigo serve --model "$model" --log-level warn --drain-delay 0s &
	server=$!
	trap 'kill "$server" 2>/dev/null || true' EXIT
	demo "$server"
	kill "$server"
	trap - EXIT
	wait "$server"
	exit
fi

# The server takes this shell's place, so that Ctrl-C and signals reach it
# directly; what shows the haiku runs beside it.
server=$$
(if demo "$server"; then next; else kill "$server" 2>/dev/null || true; fi) &
exec ./kigo serve --model "$model" --log-level warn --drain-delay 0s

package server_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"kigo/engine"
	"kigo/server"
)

// The engine's tokens have the bytes that protobuf's own code gives the event of them.
func TestTokensAreEncodedAsProtobuf(t *testing.T) {
	t.Parallel()
	long := make([]int32, 1000)
	for i := range long {
		long[i] = int32(i * i)
	}
	codec := server.NewCodec()
	for _, tokens := range []*engine.Tokens{
		{},
		{Index: 7, IDs: []int32{1, 300, 1 << 30}, Text: "ö\n", Sample: 3},
		{IDs: []int32{0}},
		{Index: -1, Sample: -2, IDs: []int32{-3, -1 << 31}}, // there are none such
		{Text: "held back"},
		{Text: strings.Repeat("long", 100)},
		{Index: 1 << 20, Sample: 127, IDs: long, Text: "long"},
		{IDs: []int32{1}, Logprobs: []engine.TokenLogprob{{ID: 1, Bytes: []byte{0xff}, Logprob: -0.5, Top: []engine.TokenLogprob{{ID: 2}}}}},
	} {
		event := server.TokensEvent(tokens)
		want, err := proto.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []any{tokens, event} {
			got, err := codec.Marshal(m)
			if err != nil || !bytes.Equal(got.Materialize(), want) {
				t.Errorf("%v of %v: %x, want %x (%v)", m, tokens, got.Materialize(), want, err)
			}
		}
	}
	if _, err := codec.Marshal(&engine.Tokens{Text: "\xff"}); err == nil {
		t.Error("text that is not UTF-8 was encoded")
	}
}

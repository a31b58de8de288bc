package server

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
)

func TestDecodeExecute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ body, want string }{
		{`{"prompt": "Hello"}`, `{"text": "Hello"}`},
		{`{"text": "Hello"}`, `{"text": "Hello"}`},
		{`{"prompt": "Hello", "max_tokens": 20, "temperature": 0, "top_k": 5, "seed": "7"}`,
			`{"text": "Hello", "maxTokens": 20, "sampling": {"temperature": 0, "topK": 5, "seed": "7"}}`},
		{`{"prompt": "a", "maxTokens": 2, "topP": 0.5}`, `{"text": "a", "maxTokens": 2, "sampling": {"topP": 0.5}}`},
		{`{"prompt": "a", "stop": "END"}`, `{"text": "a", "stop": ["END"]}`},
		{`{"prompt": "a", "stop": ["x", "y"]}`, `{"text": "a", "stop": ["x", "y"]}`},
		{`{"messages": [{"role": "user", "content": "hi"}]}`, `{"chat": {"messages": [{"role": "user", "content": "hi"}]}}`},
		{`{"tokens": {"ids": [1, 2]}, "sampling": {"min_p": 0.1}}`, `{"tokens": {"ids": [1, 2]}, "sampling": {"minP": 0.1}}`},
		{`{}`, `{}`},
	} {
		want := &kigov1.ExecuteRequest{}
		if err := protojson.Unmarshal([]byte(c.want), want); err != nil {
			t.Fatalf("%s: %v", c.want, err)
		}
		got, err := decodeExecute([]byte(c.body))
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", c.body, got, err, want)
		}
	}
}

func TestDecodeExecuteErrors(t *testing.T) {
	t.Parallel()
	const secret = "SECRET"
	for _, c := range []struct{ body, field string }{
		{``, ""},
		{`null`, ""},
		{`[1]`, ""},
		{`"SECRET"`, ""},
		{`{"prompt": "SECRET"`, ""},
		{`{"prompt": "SECRET"} trailing`, ""},
		{`{"prompt": SECRET}`, ""},
		{`{"prompt": ["SECRET"]}`, "text"},
		{`{"prompt": "a", "max_tokens": "SECRET"}`, "max_tokens"},
		{`{"prompt": "a", "max_tokens": 1.5}`, "max_tokens"},
		{`{"prompt": "a", "temperature": "SECRET"}`, "temperature"},
		{`{"prompt": "a", "nonsense": "SECRET"}`, "nonsense"},
		{`{"prompt": "a", "sampling": {"nonsense": "SECRET"}}`, "nonsense"},
		{`{"prompt": "a", "prompt": "SECRET"}`, "prompt"},
		{`{"prompt": "a", "text": "SECRET"}`, "text"},
		{`{"prompt": "a", "tokens": {"ids": [1]}}`, "prompt"},
		{`{"prompt": "a", "sampling": {}, "top_k": 1}`, "sampling"},
		{`{"prompt": "a", "max_tokens": 1, "maxTokens": 1}`, "max_tokens"},
		{`{"messages": "SECRET"}`, ""},
		{`{"` + strings.Repeat("x", 300) + `": 1}`, strings.Repeat("x", 64) + "…"},
	} {
		_, err := decodeExecute([]byte(c.body))
		if err == nil {
			t.Errorf("%s: no error", c.body)
			continue
		}
		f := failureOf(err)
		if strings.Contains(f.message, secret) {
			t.Errorf("%s: the error quotes the value: %s", c.body, f.message)
		}
		var invalid *engine.InvalidError
		switch {
		case c.field == "":
			if !errors.Is(err, errMalformed) {
				t.Errorf("%s: %v, want a malformed message", c.body, err)
			}
		case !errors.As(err, &invalid):
			t.Errorf("%s: %v, want a violation of %s", c.body, err, c.field)
		case invalid.Violations[0].Field != c.field:
			t.Errorf("%s: violation of %q, want %q", c.body, invalid.Violations[0].Field, c.field)
		}
	}
}

// Whatever a body holds, it is decoded or refused with the caller's own fault,
// and what is decoded survives a round trip.
func FuzzDecodeExecute(f *testing.F) {
	f.Add([]byte(`{"prompt": "Hello", "max_tokens": 20, "temperature": 0, "stop": "x"}`))
	f.Add([]byte(`{"messages": [{"role": "user", "content": "hi"}], "sampling": {"top_k": 3}}`))
	f.Add([]byte(`{"tokens": {"ids": [1, -1]}, "resume_grace": "1.5s"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeExecute(body)
		if err != nil {
			if failureOf(err).reason == "INTERNAL" {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		long, err := protojson.Marshal(req)
		if err != nil {
			t.Fatalf("%q: %v cannot be marshalled: %v", body, req, err)
		}
		again, err := decodeExecute(long)
		if err != nil || !proto.Equal(req, again) {
			t.Fatalf("%q: %v became %v, %v", body, req, again, err)
		}
	})
}

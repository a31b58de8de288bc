package engine_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/sample"
	"kigo/engine/synth"
	"kigo/engine/testenv"
)

const smollm2 = "SmolLM2-135M-Instruct.Q4_1.gguf"

// modelFile opens a model of the ignored folder models/.
func modelFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(testenv.Model(t, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func newEngine(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	if cfg.MaxContext == 0 {
		cfg.MaxContext = 512
	}
	if cfg.Device == "" {
		cfg.Device = testenv.Device(t)
	}
	e, err := engine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// real loads SmolLM2, for what depends on what is said. Such tests look at
// text, not at goroutines, and take minutes under the race detector: there the
// tiny model's tests run alone.
func real(t *testing.T) *engine.Engine {
	t.Helper()
	if raceEnabled {
		t.Skip("the tests of the real model run without the race detector")
	}
	e := newEngine(t, engine.Config{})
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "smollm2", File: modelFile(t, smollm2)}, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// loaded loads a tiny model of random weights, for everything else.
func loaded(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	e := newEngine(t, cfg)
	if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "tiny", File: tinyFile(t, 1)}, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// memoryFile is a model file that is not on a disk.
type memoryFile struct {
	*bytes.Reader
	name  string
	mtime atomic.Int64
}

func (f *memoryFile) Stat() (fs.FileInfo, error) {
	return fileInfo{f.name, f.Reader.Size(), time.Unix(f.mtime.Load(), 0)}, nil
}

type fileInfo struct {
	name  string
	size  int64
	mtime time.Time
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return 0o444 }
func (i fileInfo) ModTime() time.Time { return i.mtime }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }

// tinyBytes is a model of random weights, other ones for another seed.
func tinyBytes(t testing.TB, seed uint64) []byte {
	t.Helper()
	shape, err := synth.ShapeByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	formats, err := synth.FormatsByName("q8_0")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := synth.Write(t.Context(), &b, shape, formats, seed); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tinyFile(t testing.TB, seed uint64) *memoryFile {
	return &memoryFile{Reader: bytes.NewReader(tinyBytes(t, seed)), name: "tiny"}
}

// greedy asks for a fixed number of tokens after a text.
func greedy(text string, tokens int) engine.Request {
	return engine.Request{
		Text:      text,
		MaxTokens: tokens,

		Logprobs:       -1,
		PromptLogprobs: -1,
		Sampling:       sample.Params{TypicalP: 1, TopP: 1, RepetitionPenalty: 1, IgnoreEnd: true},
	}
}

// collected is a whole stream.
type collected struct {
	ids    []int32
	text   string
	events int
	end    *engine.End
}

func collect(t *testing.T, s *engine.Stream) (collected, error) {
	t.Helper()
	var c collected
	for {
		ev, err := s.Next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			return c, nil
		case err != nil:
			return c, err
		case c.end != nil:
			t.Fatal("an event after the end")
		case ev.End != nil:
			c.end = ev.End
		default:
			if ev.Tokens.Index != len(c.ids) {
				t.Fatalf("tokens at index %d after %d", ev.Tokens.Index, len(c.ids))
			}
			c.ids = append(c.ids, ev.Tokens.IDs...)
			c.text += ev.Tokens.Text
			c.events++
		}
	}
}

func submit(t *testing.T, e *engine.Engine, r engine.Request) *engine.Stream {
	t.Helper()
	s, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, e *engine.Engine, r engine.Request) collected {
	t.Helper()
	c, err := collect(t, submit(t, e, r))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// settled waits until the owner has let go of everything. It waits for a
// state, not for a time.
func settled(t *testing.T, e *engine.Engine) engine.Status {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s := e.Status()
		if s.KVUsed == 0 && s.Running == 0 && s.Waiting == 0 && s.BusySince.IsZero() {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("not settled: %+v", s)
		}
		time.Sleep(time.Millisecond)
	}
}

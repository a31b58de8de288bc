package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// The history tests check what clients of the real server see of their
// streams: whatever happens to a request, its stream is a beginning of the one
// that the same request gets alone, token for token, and ends exactly once.

// history is a request and what its client saw of it.
type history struct {
	request *kigov1.ExecuteRequest
	alone   *answer
	*answer       // so far
	err     error // nil where the stream ended well, or its client left
	left    bool  // the client did not wait for the end
}

// check says what is wrong with h, beyond what receive and add have found.
func (h *history) check() error {
	got, alone := joined(h.tokens), joined(h.alone.tokens)
	if len(got.Ids) > len(alone.Ids) || !slices.Equal(got.Ids, alone.Ids[:len(got.Ids)]) {
		return fmt.Errorf("tokens %v, alone %v", got.Ids, alone.Ids)
	}
	if !strings.HasPrefix(alone.Text, got.Text) {
		return fmt.Errorf("text %q, alone %q", got.Text, alone.Text)
	}
	if len(got.Logprobs) > len(alone.Logprobs) {
		return fmt.Errorf("%d logprobs, alone %d", len(got.Logprobs), len(alone.Logprobs))
	}
	for i, l := range got.Logprobs {
		if !proto.Equal(l, alone.Logprobs[i]) {
			return fmt.Errorf("logprob %d is %v, alone %v", i, l, alone.Logprobs[i])
		}
	}
	switch {
	case h.end != nil && h.err != nil:
		return fmt.Errorf("two terminal statuses: %v and %w", h.end, h.err)
	case h.end == nil && h.err == nil && !h.left:
		return errors.New("no terminal status")
	case h.end.GetStopReason() == kigov1.StopReason_STOP_REASON_MAX_TOKENS && len(h.ids) != int(h.request.GetMaxTokens()):
		return fmt.Errorf("ended with all tokens after %d of %d", len(h.ids), h.request.GetMaxTokens())
	}
	return nil
}

// joined is all that events of tokens carry: a client that lags gets several tokens
// in one event.
func joined(events []*kigov1.Tokens) *kigov1.Tokens {
	all := &kigov1.Tokens{}
	for _, e := range events {
		all.Ids = append(all.Ids, e.GetIds()...)
		all.Text += e.GetText()
		all.Logprobs = append(all.Logprobs, e.GetLogprobs()...)
	}
	return all
}

// ending is how h ended, in a few words.
func (h *history) ending() string {
	switch {
	case h.err != nil:
		code, reason, _ := strings.Cut(outcome(h.err), " ")
		if reason != "" {
			return reason
		}
		return code
	case h.end != nil:
		return strings.TrimPrefix(h.end.GetStopReason().String(), "STOP_REASON_")
	}
	return "left"
}

// historyPrompts differ in length: the third takes more than one chunk.
var historyPrompts = []string{"The sea", "x", "Once upon a time, in a land far away, there lived a king who had three sons", "1 2 3"}

// historyRequest asks for so many tokens with all that an event can carry.
func historyRequest(prompt string, tokens, logprobs int32) *kigov1.ExecuteRequest {
	r := textRequest(prompt, tokens)
	r.Sampling = &kigov1.Sampling{Temperature: ptr[float32](0.8), Seed: ptr[uint64](3), IgnoreEnd: ptr(true)}
	r.Logprobs = ptr(logprobs)
	return r
}

// fate is how a request of TestHistoryOfDisconnects ends.
type fate struct {
	name string
	// run sends h's request and lets fate strike after so many events.
	run func(ctx context.Context, t *testing.T, f *fixture, h *history, after int)
	// endings are allowed beside the regular one.
	endings []string
}

func fates() []fate {
	grpcFate := func(strike func(f *fixture, h *history, conn *struckConn, cancel context.CancelFunc)) func(context.Context, *testing.T, *fixture, *history, int) {
		return func(ctx context.Context, t *testing.T, f *fixture, h *history, after int) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			conn := dialStruck(t, f)
			defer conn.Close()
			h.over(ctx, t, kigov1.NewInferenceServiceClient(conn), after, func() { strike(f, h, conn, cancel) })
		}
	}
	return []fate{
		{"none", grpcFate(func(*fixture, *history, *struckConn, context.CancelFunc) {}), nil},
		{"Cancel", grpcFate(func(f *fixture, h *history, _ *struckConn, _ context.CancelFunc) {
			_, err := f.inference.Cancel(context.Background(), &kigov1.CancelRequest{RequestId: h.started.GetRequestId()})
			if err != nil && status.Code(err) != codes.NotFound {
				h.err = err
			}
		}), []string{"CANCELLED"}},
		{"client cancels", grpcFate(func(_ *fixture, _ *history, _ *struckConn, cancel context.CancelFunc) { cancel() }), []string{"Canceled"}},
		{"deadline", func(ctx context.Context, t *testing.T, f *fixture, h *history, after int) {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(after)*time.Millisecond)
			defer cancel()
			h.over(ctx, t, f.inference, -1, nil)
		}, []string{"DeadlineExceeded", "DEADLINE_EXCEEDED"}},
		{"connection closed", grpcFate(func(_ *fixture, _ *history, c *struckConn, _ context.CancelFunc) { c.tcp().Close() }), []string{"Unavailable"}},
		{"connection reset", grpcFate(func(_ *fixture, _ *history, c *struckConn, _ context.CancelFunc) {
			_ = c.tcp().SetLinger(0)
			c.tcp().Close()
		}), []string{"Unavailable"}},
		{"connection half closed", grpcFate(func(_ *fixture, _ *history, c *struckConn, _ context.CancelFunc) { _ = c.tcp().CloseWrite() }), []string{"Unavailable"}},
		{"HTTP closed", func(ctx context.Context, t *testing.T, f *fixture, h *history, after int) {
			h.overHTTP(ctx, t, f, after, func(c *net.TCPConn) { c.Close() })
		}, []string{"left"}},
		{"HTTP reset", func(ctx context.Context, t *testing.T, f *fixture, h *history, after int) {
			h.overHTTP(ctx, t, f, after, func(c *net.TCPConn) { _ = c.SetLinger(0); c.Close() })
		}, []string{"left"}},
		{"HTTP half closed", func(ctx context.Context, t *testing.T, f *fixture, h *history, after int) {
			h.overHTTP(ctx, t, f, after, func(c *net.TCPConn) { _ = c.CloseWrite() })
		}, []string{"CANCELLED"}},
	}
}

// struckConn is a gRPC connection whose TCP connection can be struck.
type struckConn struct {
	*grpc.ClientConn
	mu  sync.Mutex
	raw net.Conn
}

// tcp is the connection itself; nil before there is one.
func (c *struckConn) tcp() *net.TCPConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	tcp, _ := c.raw.(*net.TCPConn)
	return tcp
}

func dialStruck(t testing.TB, f *fixture) *struckConn {
	c := &struckConn{}
	var err error
	c.ClientConn, err = grpc.NewClient(f.GRPCAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<16-1), grpc.WithInitialConnWindowSize(1<<16-1), // and no larger ones later
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.raw = raw
			return raw, err
		}))
	if err != nil {
		t.Error(err)
	}
	return c
}

// over sends h's request over gRPC and reads its stream to the end; strike is
// called once, after so many events but at the earliest after the first.
func (h *history) over(ctx context.Context, t *testing.T, c kigov1.InferenceServiceClient, after int, strike func()) {
	stream, err := c.Execute(ctx, h.request)
	struck := false
	for events := 0; err == nil; events++ {
		if strike != nil && events > 0 && events >= after {
			strike()
			strike, struck = nil, true
		}
		var res *kigov1.ExecuteResponse
		if res, err = stream.Recv(); err == nil {
			h.add(t, res)
		}
	}
	// Between the last event and the stream's trailers, the error is the client's own doing.
	ownDoing := h.end != nil && (struck || ctx.Err() != nil)
	if !errors.Is(err, io.EOF) && !ownDoing {
		h.err = err
	}
}

// overHTTP is over for server-sent events.
func (h *history) overHTTP(ctx context.Context, t *testing.T, f *fixture, after int, strike func(*net.TCPConn)) {
	body, err := protojson.Marshal(h.request)
	if err != nil {
		t.Error(err)
		return
	}
	// A listener that has gone, or goes with connections that nobody has taken yet, is
	// what gRPC calls unavailable.
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", f.HTTPAddr().String())
	if err != nil {
		h.err = status.Error(codes.Unavailable, err.Error())
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST /execute HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		h.err = status.Error(codes.Unavailable, err.Error())
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, err := io.ReadAll(res.Body)
		h.err = errors.Join(errorEvent(body), err)
		return
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for events := 0; h.end == nil && h.err == nil; events++ {
		if strike != nil && events > 0 && events >= after {
			strike(conn.(*net.TCPConn))
			strike = nil
		}
		if !lines.Scan() {
			h.left = true
			return
		}
		e, ok := readEvent(t, lines)
		switch {
		case !ok:
			h.left = true
			return
		case e.name == "error":
			h.err = errorEvent(e.data)
		default:
			msg := &kigov1.ExecuteResponse{}
			err := protojson.Unmarshal([]byte(`{"`+e.name+`": `+e.data+`}`), msg)
			if err != nil && strike == nil {
				h.left = true // cut off in the middle of an event
				return
			}
			if err != nil {
				t.Errorf("%v: %v", e, err)
				return
			}
			h.add(t, msg)
		}
	}
}

// errorEvent is an error as HTTP carries it, as an event or a body.
type errorEvent string

func (e errorEvent) Error() string { return string(e) }

// GRPCStatus lets outcome find the reason.
func (e errorEvent) GRPCStatus() *status.Status {
	var body struct{ Error struct{ Reason string } }
	if json.Unmarshal([]byte(e), &body) != nil {
		return status.New(codes.Unknown, string(e))
	}
	st, err := status.New(codes.Aborted, "").WithDetails(errorInfo(body.Error.Reason))
	if err != nil {
		return status.New(codes.Unknown, err.Error())
	}
	return st
}

// Requests beside each other, struck in every way a client can fail them, at
// random points. Each history is right, the access log has each request once,
// and no block, stream or goroutine is left.
func TestHistoryOfDisconnects(t *testing.T) {
	requests, clients := 110, 16
	if long() {
		requests = 1300
	}
	e := newPacedEngine(t, func(c *engine.Config) {
		c.MaxConcurrent, c.MaxQueue, c.MaxContext, c.StreamBuffer = 6, 64, 512, 4
	})
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e)
	const length = 40
	alone := map[string]*answer{}
	for _, p := range historyPrompts {
		alone[p] = f.mustExecute(t, historyRequest(p, length, 1))
	}
	f.idle(t)
	goroutines := runtime.NumGoroutine()

	table := fates()
	random := rand.New(rand.NewPCG(11, 12))
	type job struct {
		fate
		history
		after int
	}
	jobs := make(chan *job)
	done := make(chan *job, requests)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for j := range jobs {
				j.run(t.Context(), t, f, &j.history, j.after)
				if err := j.check(); err != nil {
					t.Errorf("%s after %d events: %v", j.name, j.after, err)
				}
				done <- j
			}
		})
	}
	for i := range requests {
		prompt := historyPrompts[random.IntN(len(historyPrompts))]
		j := &job{fate: table[i%len(table)], after: random.IntN(length + 5)}
		j.history = history{request: historyRequest(prompt, length, 1), alone: alone[prompt], answer: &answer{}}
		jobs <- j
	}
	close(jobs)
	all.Wait()
	close(done)
	f.leftNothing(t, goroutines)

	tally := map[string]int{}
	ids := map[string]*job{}
	for j := range done {
		ending := j.ending()
		tally[j.name+": "+ending]++
		if ending != "MAX_TOKENS" && !slices.Contains(j.endings, ending) {
			t.Errorf("%s after %d events ended with %s: %v", j.name, j.after, ending, j.err)
		}
		if j.started != nil {
			ids[j.started.GetRequestId()] = j
		}
	}
	for _, fate := range table {
		if len(fate.endings) > 0 && !slices.ContainsFunc(fate.endings, func(e string) bool { return tally[fate.name+": "+e] > 0 }) {
			t.Errorf("%s has struck nobody: %v", fate.name, tally)
		}
	}
	for id, n := range loggedCalls(t, f.log.String(), func(line accessLine) {
		if j := ids[line.Request]; j != nil && line.Generated < len(j.ids) {
			t.Errorf("%s: %d tokens arrived, the log has %d", j.name, len(j.ids), line.Generated)
		}
	}) {
		if n != 1 {
			t.Errorf("request %s ended %d times", id, n)
		}
		delete(ids, id)
	}
	for _, j := range ids {
		t.Errorf("%s: the log has no end of the request", j.name)
	}
	for _, what := range slices.Sorted(maps.Keys(tally)) {
		t.Logf("%4d %s", tally[what], what)
	}
	for _, p := range historyPrompts {
		if got := f.mustExecute(t, historyRequest(p, length, 1)); !sameStream(got, alone[p]) {
			t.Errorf("afterwards %q continues with %q, before it was %q", p, got.text, alone[p].text)
		}
	}
}

// Clients that stop reading hold their slots for no longer than the engine's
// patience, and their calls for no longer than the edge's. When they read on,
// they find what was sent before, and one status. A neighbour sees nothing.
func TestHistoryOfReadersThatStop(t *testing.T) {
	const clients, length, send = 8, 600, 3 * time.Second
	e := newPacedEngine(t, func(c *engine.Config) {
		c.MaxConcurrent, c.MaxContext, c.StreamBuffer, c.SlowReader = clients+1, 1024, 4, time.Second
	})
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e, func(c *server.Config) { c.SendTimeout = send })
	request := historyRequest("The sea", length, 20)
	alone := f.mustExecute(t, request)
	f.idle(t)
	goroutines := runtime.NumGoroutine()

	stopped, slotsFree, callsOver := make(chan struct{}, clients), make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			conn := dialStruck(t, f)
			defer conn.Close()
			h := history{request: request, alone: alone, answer: &answer{}}
			h.over(t.Context(), t, kigov1.NewInferenceServiceClient(conn), 5*i, func() {
				stopped <- struct{}{}
				if i%2 == 0 {
					<-slotsFree // some are in time for what the engine says
				} else {
					<-callsOver // the others find that the edge has hung up
				}
			})
			if err := h.check(); err != nil || h.ending() != "SLOW_READER" {
				t.Errorf("client %d ended with %s after %d tokens: %v (%v)", i, h.ending(), len(h.ids), err, h.err)
			}
		})
	}
	for range clients {
		<-stopped
	}
	if got := f.mustExecute(t, request); !sameStream(got, alone) {
		t.Error("a neighbour's stream is another one than alone")
	}
	f.idle(t)
	close(slotsFree)
	eventually(t, "the calls' end", func() bool { return f.CallsInFlight() == 0 })
	close(callsOver)
	all.Wait()
	f.leftNothing(t, goroutines)
}

// accessLine is a line of the access log.
type accessLine struct {
	Request   string `json:"request_id"`
	Generated int    `json:"generated_tokens"`
	Message   string `json:"message"`
}

// loggedCalls counts the ends of each request in the log.
func loggedCalls(t testing.TB, log string, each func(accessLine)) map[string]int {
	t.Helper()
	count := map[string]int{}
	for line := range strings.Lines(log) {
		var l accessLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("a line of the log is no JSON: %s", line)
		}
		if l.Request != "" && strings.HasPrefix(l.Message, "finished") {
			count[l.Request]++
			each(l)
		}
	}
	return count
}
